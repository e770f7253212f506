// SPDX-License-Identifier: Apache-2.0
//
// SACK, both ends, and what is sent again by it. The receiver reports what waits out of order, the
// newest first, and what has come twice; the sender keeps what is reported and sends the holes.
//
// A segment is lost when enough behind it has arrived, or three ACKs have said the same. Until all
// that was under way at that time is acknowledged, each ACK brings the next hole. Without SACK only
// the first hole is known (RFC 6582). The order of reports is the sender's affair: what makes no
// sense is not noted.
#include <algorithm>

#include "tcp.hh"

namespace psp::sim {

// options_now are those of a segment that leaves now.
Options Tcp::options_now() const {
  Options options;
  const Time now = network_.schedule().now();
  options.timestamps = agreed.timestamps;
  options.value = timestamp_base + static_cast<std::uint32_t>(now / kMillisecond);
  options.echo = agreed.timestamps ? recent : 0;
  if (!agreed.sack || (queue_.empty() && !duplicate_)) return options;
  const std::size_t most = agreed.timestamps ? 3 : 4;
  if (duplicate_) options.sack[options.blocks++] = *duplicate_;
  // Pieces that touch are one block; that which came last is told first.
  std::array<SackBlock, 4> blocks;
  std::size_t count = 0;
  for (const auto& [at, piece] : queue_) {
    const std::uint32_t from = irs + at, to = from + static_cast<std::uint32_t>(piece.size());
    if (count != 0 && blocks[count - 1].to == from)
      blocks[count - 1].to = to;
    else if (count < blocks.size())
      blocks[count++] = {from, to};
    else
      break;
  }
  const auto newest = std::find_if(blocks.begin(), blocks.begin() + count, [this](SackBlock b) {
    return !psp_before(newest_, b.from) && psp_before(newest_, b.to);
  });
  if (newest != blocks.begin() + count) std::rotate(blocks.begin(), newest, newest + 1);
  for (std::size_t i = 0; i < count && options.blocks < most; ++i)
    options.sack[options.blocks++] = blocks[i];
  return options;
}

// note_duplicate: that has come before; the next segment says so (RFC 2883).
void Tcp::note_duplicate(std::uint32_t from, std::uint32_t to) {
  if (agreed.sack && psp_before(from, to)) duplicate_ = SackBlock{from, to};
}

// note_sack keeps what the peer reports to have.
void Tcp::note_sack(const Segment& segment) {
  for (std::size_t i = 0; i < segment.options.blocks; ++i) {
    const auto [first, last] = segment.options.sack[i];
    if (psp_before(first, snd_una) || !psp_before(first, last) || psp_before(snd_nxt, last))
      continue;
    std::uint32_t from = first - iss, to = last - iss;
    auto at = sacked_.upper_bound(from);
    if (at != sacked_.begin() && std::prev(at)->second >= from) --at;
    while (at != sacked_.end() && at->first <= to) {
      from = std::min(from, at->first);
      to = std::max(to, at->second);
      at = sacked_.erase(at);
    }
    sacked_[from] = to;
  }
  const std::uint32_t una = snd_una - iss;
  while (!sacked_.empty() && sacked_.begin()->first < una) {
    const std::uint32_t end = sacked_.begin()->second;
    sacked_.erase(sacked_.begin());
    if (end > una) sacked_[una] = end;
  }
}

std::uint32_t Tcp::highest_sacked() const {
  return sacked_.empty() ? snd_una : iss + sacked_.rbegin()->second;
}

// is_lost: must the first segment that is not acknowledged be sent again?
bool Tcp::is_lost() const {
  if (duplicates_ >= 3) return true;
  std::size_t arrived = 0;
  for (const auto& [from, to] : sacked_) arrived += to - from;
  return arrived > std::size_t{3} * maximum_segment();
}

// recover begins to send again: all that is under way, or what is before something that arrived.
void Tcp::recover(bool all) {
  duplicates_ = 0;
  recovers_ = true;
  recovered_ = snd_nxt;
  lost_to_ = all ? snd_nxt : highest_sacked();
  resend(snd_una);
}

// resend_next sends the next hole, if one is known.
void Tcp::resend_next() {
  if (psp_before(lost_to_, highest_sacked())) lost_to_ = highest_sacked();
  std::uint32_t from = psp_before(again_, snd_una) ? snd_una : again_;
  const auto next = sacked_.upper_bound(from - iss);
  if (next != sacked_.begin() && std::prev(next)->second > from - iss)
    from = iss + std::prev(next)->second;
  if (psp_before(from, lost_to_)) resend(from);
}

// take_sack is what an ACK means for what is lost.
void Tcp::take_sack(const Segment& segment, bool moved) {
  if (agreed.sack) note_sack(segment);
  if (snd_una == snd_nxt) {
    recovers_ = false;
    return;
  }
  if (recovers_ && !psp_before(snd_una, recovered_)) recovers_ = false;
  if (recovers_) {
    // Without SACK, an ACK of a part says that the next is lost.
    if (!agreed.sack && moved && psp_before(again_, snd_una + 1)) return resend(snd_una);
    return resend_next();
  }
  if (!is_lost()) return;
  congestion_ = std::max<std::size_t>(congestion_ / 2, 2u * maximum_segment());
  recover(false);
}

}  // namespace psp::sim
