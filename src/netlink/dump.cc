// SPDX-License-Identifier: Apache-2.0
//
// The parts of a dump. NLMSG_DONE stands behind the last row if there is room, as in the kernel.
#include "dump.hh"

#include <array>
#include <cstring>

namespace psp::netlink {

bool Dump::put_done(Writer& writer, int error, const char* text) const {
  std::array<std::uint8_t, sizeof error> payload;
  std::memcpy(payload.data(), &error, sizeof error);
  const bool tell = ext_ack_ && text[0] != '\0';
  const auto flags =
      static_cast<std::uint16_t>(NLM_F_MULTI | (tell ? NLM_F_ACK_TLVS : 0) | interrupted());
  writer.begin_plain(NLMSG_DONE, flags, head_.seq, head_.pid, payload);
  if (tell) writer.put_string(NLMSGERR_ATTR_MSG, text);
  return writer.end();
}

bool Dump::fill(std::vector<Datagram>& out) {
  Writer writer;
  bool more = true;
  if (rows_ && rows_->epoch() != epoch_) interrupted_ = true;
  for (;;) {
    const char* text = "";
    head_.begin(writer, interrupted());
    const int put = rows_ ? rows_->put(writer, &text) : error_;
    if (put <= 0) {
      writer.take_back();
      more = !put_done(writer, put, text);
      break;
    }
    const bool fits = writer.end();
    if (!fits && !writer.empty()) break;
    rows_->next();  // one that does not fit even alone is left out: none of ours comes near
  }
  out.push_back(writer.take());
  return more;
}

}  // namespace psp::netlink
