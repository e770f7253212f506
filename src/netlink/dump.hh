// SPDX-License-Identifier: Apache-2.0
//
// A dump in progress: rows that are written part by part, as netlink does while its client reads,
// so that a long answer is never held whole.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <psp/netlink/server.hh>

#include "codec.hh"

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

// Rows is what a dump lists.
class Rows {
 public:
  virtual ~Rows() = default;

  // put writes the attributes of the row at hand. Returns 1, 0 behind the last row (nothing was
  // written), or a negative errno, with *text for the client. Called again if the row did not fit.
  virtual int put(Writer& writer, const char** text) = 0;
  // next moves on from the row that was put.
  virtual void next() = 0;
  // epoch changes when rows come or go that were not looked at yet, or not any more.
  virtual std::uint64_t epoch() const { return 0; }
  // held is how many rows are kept in memory for as long as the dump lasts.
  virtual std::size_t held() const { return 0; }
};

// Dump writes rows into datagrams.
class Dump {
 public:
  // `ext_ack`: the client wants the text of an error.
  Dump(const MessageHead& head, std::unique_ptr<Rows> rows, bool ext_ack)
      : head_(head), rows_(std::move(rows)), epoch_(rows_->epoch()), ext_ack_(ext_ack) {}

  // fill appends the next datagram to `out`. False: it was the last, and ends with NLMSG_DONE.
  // Once the epoch has changed, messages carry NLM_F_DUMP_INTR.
  bool fill(std::vector<Datagram>& out);

  // cancel lets go of the rows; what is left of the dump is its end, with this error.
  void cancel(int error) {
    rows_.reset();
    error_ = error;
  }
  std::size_t held() const { return rows_ ? rows_->held() : 0; }

 private:
  bool put_done(Writer& writer, int error, const char* text) const;
  std::uint16_t interrupted() const { return interrupted_ ? NLM_F_DUMP_INTR : 0; }

  MessageHead head_;
  std::unique_ptr<Rows> rows_;  // null: canceled
  std::uint64_t epoch_;
  int error_ = 0;
  bool ext_ack_;
  bool interrupted_ = false;
};

}  // namespace psp::netlink
