// SPDX-License-Identifier: Apache-2.0
//
// The parts of a dump, as af_netlink.c and genetlink.c make them: as many entries as fit into a
// datagram, and NLMSG_DONE behind the last one if there is room. An entry that does not fit is
// written again at the head of the next datagram. What comes or goes meanwhile changes the epoch,
// and the client is told that its list is of no one moment (NLM_F_DUMP_INTR). An error in the
// middle stands at the end, in NLMSG_DONE.
#include "netlink/dump.hh"

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
  if (source_ && source_->epoch() != epoch_) interrupted_ = true;
  for (;;) {
    const char* text = "";
    head_.begin(writer, interrupted());
    const int put = source_ ? source_->put(writer, &text) : error_;
    if (put == DumpSource::kLater) {
      writer.take_back();
      break;
    }
    if (put <= 0) {
      writer.take_back();
      more = !put_done(writer, put, text);
      break;
    }
    const bool fits = writer.end();
    if (!fits && !writer.empty()) break;
    source_->next();  // one that does not fit even alone is left out: none of ours comes near
  }
  if (!writer.empty()) out.push_back(writer.take());
  return more;
}

}  // namespace psp::netlink
