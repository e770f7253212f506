// SPDX-License-Identifier: Apache-2.0
//
// A client's connection: requests with their sequence numbers, and the answers to them. What comes
// in is wiped, for it may hold a key.
// Threading: one user at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "netlink/codec.hh"
#include "netlink/error.hh"
#include "netlink/messages/message.hh"
#include "netlink/transport.hh"

namespace psp::netlink {

// RequestHead is a request without its attributes.
struct RequestHead {
  const char* what;  // for messages: "tx-assoc"
  std::uint16_t family;
  std::uint8_t version;
  std::uint8_t cmd;
  bool dump = false;
  int attached = -1;
  // Whether to ask for an acknowledgement. Every operation of ours has a reply, which is its end:
  // one message less, and one wakeup.
  bool acknowledged = false;

  std::uint16_t flags() const {
    const int more = dump ? NLM_F_DUMP : acknowledged ? NLM_F_ACK : 0;
    return static_cast<std::uint16_t>(NLM_F_REQUEST | more);
  }
};

using Fill = std::function<void(Writer&)>;
using OnAnswer = std::function<void(std::span<const std::uint8_t> attributes)>;

// Connection is one to the kernel or to pspd.
class Connection {
 public:
  explicit Connection(Transport transport);

  bool is_kernel() const { return transport_.is_kernel(); }
  int fd() const { return transport_.fd(); }

  // ask sends a request, with what `fill` puts into it, and shows `on_answer` the attributes of
  // each answer until the last. Either may be empty.
  ClientResult<void> ask(const RequestHead& head, const Fill& fill, const OnAnswer& on_answer);

  // ask with a message, whose answer nobody looks at.
  template <typename Message>
  ClientResult<void> ask(const RequestHead& head, const Message& message) {
    return ask(head, [&](Writer& writer) { put(writer, message); }, {});
  }
  // ask_for is the answer, of that type.
  template <typename Answer>
  ClientResult<Answer> ask_for(const RequestHead& head, const Fill& fill = {}) {
    Answer answer{};
    const auto done = ask(head, fill, [&](std::span<const std::uint8_t> attributes) {
      answer = read<Answer>(attributes);
    });
    if (!done) return std::unexpected(done.error());
    return answer;
  }
  template <typename Answer, typename Message>
  ClientResult<Answer> ask_for(const RequestHead& head, const Message& message) {
    return ask_for<Answer>(head, Fill([&](Writer& writer) { put(writer, message); }));
  }
  // list is a dump; it is asked for again, a few times, if devices came or went meanwhile.
  template <typename Answer>
  ClientResult<std::vector<Answer>> list(RequestHead head) {
    head.dump = true;
    std::vector<Answer> all;
    for (int attempt = 0;; ++attempt) {
      const auto done = ask(head, {}, [&](std::span<const std::uint8_t> attributes) {
        all.push_back(read<Answer>(attributes));
      });
      if (!done) return std::unexpected(done.error());
      if (!interrupted_ || attempt == kAgainMax) return all;
      all.clear();
    }
  }

  // join makes it one of a multicast group of the kernel.
  ClientResult<void> join(std::uint32_t group) { return transport_.join(group); }
  // receive waits for a datagram and visits its messages until `visit` returns false.
  ClientResult<void> receive(const std::function<bool(const nlmsghdr*)>& visit);

 private:
  // kAgainMax is how often a list is asked for again.
  static constexpr int kAgainMax = 4;

  // take looks at one message. True: it was the last answer.
  ClientResult<bool> take(const RequestHead& head, const nlmsghdr* request, const nlmsghdr* message,
                          const OnAnswer& on_answer);

  Transport transport_;
  std::uint32_t seq_ = 0;
  std::vector<std::uint64_t> buffer_;
  bool interrupted_ = false;  // the last dump: entries came or went meanwhile
};

}  // namespace psp::netlink
