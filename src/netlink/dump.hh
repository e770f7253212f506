// SPDX-License-Identifier: Apache-2.0
//
// A dump in progress: entries that are written part by part, as netlink does while its client
// reads, so that a long answer is never held whole. While its client does not read, a dump costs
// what `held` says of its source; those that hold much end first (server.cc). An entry may be not
// known yet (kLater): nobody waits for it, the transport asks again.
//
// Threading: the control thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "netlink/codec.hh"
#include "netlink/messages/message.hh"

namespace psp::netlink {

// MessageHead is what all messages of an answer begin with.
struct MessageHead {
  std::uint16_t type = 0;
  std::uint16_t flags = 0;
  std::uint32_t seq = 0, pid = 0;  // the request's
  std::uint8_t cmd = 0, version = 0;

  void begin(Writer& writer, std::uint16_t more_flags = 0) const {
    writer.begin(type, flags | more_flags, seq, pid, cmd, version);
  }
};

// DumpSource has the entries of a dump, one after the other.
class DumpSource {
 public:
  virtual ~DumpSource() = default;

  // put writes the attributes of the entry at hand. Returns 1, 0 behind the last (nothing was
  // written), kLater if it is not known yet (nothing was written), or a negative errno, with *text
  // for the client. Called again if it did not fit.
  static constexpr int kLater = 2;
  virtual int put(Writer& writer, const char** text) = 0;
  // next moves on from the entry that was put.
  virtual void next() = 0;
  // epoch changes when entries come or go that were not looked at yet, or not any more.
  virtual std::uint64_t epoch() const { return 0; }
  // held is how many entries are kept in memory for as long as the dump lasts.
  virtual std::size_t held() const { return 0; }
};

// Dump writes entries into datagrams.
class Dump {
 public:
  // `ext_ack`: the client wants the text of an error.
  Dump(const MessageHead& head, std::unique_ptr<DumpSource> source, bool ext_ack)
      : head_(head), source_(std::move(source)), epoch_(source_->epoch()), ext_ack_(ext_ack) {}

  // fill appends the next datagram to `out`, or nothing if there is nothing to tell yet. False: it
  // was the last, and ends with NLMSG_DONE.
  // Once the epoch has changed, messages carry NLM_F_DUMP_INTR.
  bool fill(std::vector<Datagram>& out);

  // cancel lets go of the entries; what is left of the dump is its end, with this error.
  void cancel(int error) {
    source_.reset();
    error_ = error;
  }
  std::size_t held() const { return source_ ? source_->held() : 0; }

 private:
  bool put_done(Writer& writer, int error, const char* text) const;
  std::uint16_t interrupted() const { return interrupted_ ? NLM_F_DUMP_INTR : 0; }

  MessageHead head_;
  std::unique_ptr<DumpSource> source_;  // null: canceled
  std::uint64_t epoch_;
  int error_ = 0;
  bool ext_ack_;
  bool interrupted_ = false;
};

}  // namespace psp::netlink
