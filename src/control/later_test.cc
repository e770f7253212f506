// SPDX-License-Identifier: Apache-2.0
//
// A list that becomes known bit by bit, as those of a host's sockets do: who asks gets all of it,
// by the control socket and by a netlink socket of its own, and others have their answers before.
//
// The inspector is the test's: it says "later" until it is let go, and a few times before each row.
// So the order is the test's, not the scheduler's. How lists of real sockets are made is tested
// with pspd (tests/netns).
#include <array>
#include <atomic>
#include <cstring>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/socket_options.hh"
#include "base/unix_address.hh"
#include "netlink/client.hh"
#include "netlink/inspector.hh"
#include <psp/netlink/uapi.h>

#include "model_daemon.hh"

namespace psp::control {
namespace {

// Slow has three associations, each of which is known when it was asked for a few times, and none
// before it is let go.
class Slow final : public netlink::Inspector {
 public:
  std::unique_ptr<netlink::Associations> associations(Visible) override {
    return std::make_unique<SlowList>(*this);
  }
  DaemonInfo daemon_info() override { return {}; }
  std::atomic<bool> go = false;
  std::atomic<int> asked = 0;

 private:
  class SlowList final : public netlink::Associations {
   public:
    explicit SlowList(Slow& slow) : slow_(slow) {}
    device::Result<Next> next(AssocInfo& one) override {
      slow_.asked++;
      if (!slow_.go || gap_++ < 3) return Next::kLater;
      gap_ = 0;
      one.cookie = ++row_;
      return row_ <= 3 ? Next::kOne : Next::kEnd;
    }

   private:
    Slow& slow_;
    int gap_ = 0;
    std::uint64_t row_ = 0;
  };
};

class Later : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(daemon_.error(), ""); }
  const std::string address_ = fmt::format("@softpsp-later-{}", ::getpid());
  Slow slow_;
  ModelDaemon daemon_{address_, 1, &slow_};
};

TEST_F(Later, AClientGetsAllOfItAndOthersTheirAnswersBefore) {
  std::size_t rows = 0;
  std::thread asker([&] {
    auto client = Client::connect_daemon(address_);
    const auto all = client->associations();
    ASSERT_TRUE(all) << all.error().message;
    rows = all->size();
  });
  while (slow_.asked == 0) std::this_thread::yield();
  auto other = Client::connect_daemon(address_);
  EXPECT_TRUE(other && other->device(1));
  slow_.go = true;
  asker.join();
  EXPECT_EQ(rows, 3u);
}

// dump_request is an assoc-get dump in the envelope of libpsp-genl.so.
std::vector<std::uint8_t> dump_request() {
  constexpr std::uint32_t kMessage = NLMSG_HDRLEN + 4, kAttribute = NLA_HDRLEN + kMessage;
  std::vector<std::uint8_t> octets(NLMSG_HDRLEN + 4 + kAttribute);
  const auto put = [&](std::size_t at, std::uint32_t length, std::uint16_t flags,
                       std::uint8_t cmd) {
    const nlmsghdr header{.nlmsg_len = length,
                          .nlmsg_type = SOFTPSP_ID_SOFTPSP,
                          .nlmsg_flags = flags,
                          .nlmsg_seq = 1,
                          .nlmsg_pid = 0};
    std::memcpy(octets.data() + at, &header, sizeof header);
    octets[at + NLMSG_HDRLEN] = cmd;
    octets[at + NLMSG_HDRLEN + 1] = 1;
  };
  put(0, static_cast<std::uint32_t>(octets.size()), NLM_F_REQUEST, SOFTPSP_CMD_FORWARD);
  const nlattr attribute{.nla_len = kAttribute, .nla_type = SOFTPSP_FORWARD_MESSAGE};
  std::memcpy(octets.data() + NLMSG_HDRLEN + 4, &attribute, sizeof attribute);
  put(octets.size() - kMessage, kMessage, NLM_F_REQUEST | NLM_F_DUMP, SOFTPSP_CMD_ASSOC_GET);
  return octets;
}

// send_with sends octets with a descriptor beside them.
bool send_with(int to, std::vector<std::uint8_t> octets, int fd) {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof fd)> control{};
  iovec part{octets.data(), octets.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  return ::sendmsg(to, &message, MSG_NOSIGNAL) > 0;
}

TEST_F(Later, AProgramOnANetlinkSocketGetsAllOfIt) {
  const UniqueFd netlink(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC));
  sockaddr_nl own{};
  own.nl_family = AF_NETLINK;
  ASSERT_EQ(::bind(netlink.get(), reinterpret_cast<sockaddr*>(&own), sizeof own), 0);
  const auto name = UnixAddress::parse(address_);
  const UniqueFd control(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::connect(control.get(), name->get(), name->length()), 0);
  ASSERT_TRUE(send_with(control.get(), dump_request(), netlink.get()));
  while (slow_.asked == 0) std::this_thread::yield();
  slow_.go = true;
  int rows = 0;
  for (bool done = false; !done;) {
    alignas(nlmsghdr) std::array<std::uint8_t, 32768> room;
    pollfd ready{.fd = netlink.get(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&ready, 1, 5000), 1);
    const ssize_t n = ::recv(netlink.get(), room.data(), room.size(), 0);
    ASSERT_GT(n, 0);
    for (std::size_t at = 0; at < static_cast<std::size_t>(n);) {
      const auto* header = reinterpret_cast<const nlmsghdr*>(room.data() + at);
      done = done || header->nlmsg_type == NLMSG_DONE;
      rows += header->nlmsg_type == SOFTPSP_ID_SOFTPSP;
      at += NLMSG_ALIGN(header->nlmsg_len);
    }
  }
  EXPECT_EQ(rows, 3);
}

}  // namespace
}  // namespace psp::control
