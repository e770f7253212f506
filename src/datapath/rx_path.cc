// SPDX-License-Identifier: Apache-2.0
//
// Opening and coalescing. Nothing that was not authenticated reaches the sink: a failed open leaves
// only octets behind the end of the batch, and the ones it overwrote before are put back. Segments
// are joined by the rules of the kernel's GRO, and only under the same SPI, version and generation,
// since one tag speaks for all of them. The TCP checksum is left to the stack as unfinished: the
// ICV has covered what it would. A packet that is not taken is one counter, and may be kept for
// `pspctl capture --failed`.
//
// Threading: see rx_path.hh.
#include "rx_path.hh"

#include <algorithm>

#include "wire/checksum.hh"

namespace psp::datapath {
namespace {

// kTcpAt leaves room for the headers and is where the opened segment starts.
constexpr std::size_t kTcpAt = 128;
static_assert(kTcpAt >= kIpAt + kMaxIpHeader);

// kSaved octets before the end of the batch are saved around an open; a constant that covers every
// TCP header copies faster than its exact length.
constexpr std::size_t kSaved = 64;
static_assert(kSaved >= kMaxTcpHeader && kTcpAt >= kSaved);

constexpr std::size_t kOverhead = kPspBaseHeader + kIcv;

// kBulk: a packet of so many octets is one of many; a smaller one may be all that somebody waits
// for.
constexpr std::size_t kBulk = 16384;
constexpr std::uint8_t kBareExtLength = 1;  // PSP header without cookie and extension

// Flags that end a batch, and flags in which its segments may differ (as in the kernel's GRO).
constexpr std::uint8_t kEndFlags = kTcpUrg | kTcpPsh | kTcpRst | kTcpSyn | kTcpFin;
constexpr std::uint8_t kFreeFlags = kTcpCwr | kTcpPsh | kTcpFin;

// is_segment: `size` octets of authenticated content are a TCP segment with a whole header.
bool is_segment(const device::RxMeta& meta, const std::uint8_t* segment, std::size_t size) {
  return meta.header.next_header == wire::kProtocolTcp && wire::is_tcp_segment({segment, size});
}

}  // namespace

RxPath::RxPath(device::Engine& engine, Sink& sink, RxOptions options)
    : engine_(engine), sink_(sink), peers_(std::move(options.peers)), mtu_(options.mtu) {
  outputs_.reserve(kPackets);
  while (outputs_.size() < kPackets) outputs_.emplace_back(kTcpAt + 2 * kMaxIpLength);
}

void RxPath::process(std::span<const std::uint8_t> frame) {
  const auto payload = parse(frame);
  if (!payload) {
    engine_.count_drop(payload.error());
    const auto packet = frame.subspan(std::min<std::size_t>(kIpAt, frame.size()));
    return engine_.log_packet(device::PacketPath::kReceive, payload.error(), packet.size(), packet);
  }
  if (batch_.open && !same_flow()) finish();

  const VnetHeader vnet = load_vnet(frame.data());
  const bool joined = vnet.gso_type == kGsoUdpL4 && vnet.gso_size != 0;
  const std::size_t stride = joined ? vnet.gso_size : payload->size();
  std::size_t at = 0;
  do {
    const std::size_t size = std::min(stride, payload->size() - at);
    open_datagram(payload->subspan(at, size));
    at += size;
  } while (at < payload->size());
  if (batch_.complete) finish();
}

// same_flow: the batch came in packets like outer_. Its IP header is the one of the wire until the
// batch is written.
bool RxPath::same_flow() const {
  const std::uint8_t* ip = output() + kTcpAt - batch_.ip.header_length;
  return batch_.ip.family == outer_.ip.family &&
         batch_.ip.header_length == outer_.ip.header_length &&
         same_outer(ip, outer_.ip_octets, outer_.ip.family, outer_.ip.header_length) &&
         std::memcmp(ip - kEthHeader, outer_.ethernet + 6, 6) == 0;
}

// parse finds the UDP payload of the frame and fills outer_.
std::expected<std::span<const std::uint8_t>, Drop> RxPath::parse(
    std::span<const std::uint8_t> frame) {
  if (frame.size() < kIpAt) return std::unexpected(Drop::TRUNCATED);
  const auto ethertype = wire::load_be<std::uint16_t>(frame.data() + kEthertypeAt);
  const auto packet = frame.subspan(kIpAt);
  const auto ip = wire::parse_ip(packet);
  if (!ip) return std::unexpected(ip.error());
  if (ethertype != (ip->family == 4 ? kEthertypeIpv4 : kEthertypeIpv6))
    return std::unexpected(Drop::BAD_IP);
  if (ip->fragment) return std::unexpected(Drop::FRAGMENT);
  if (ip->protocol != wire::kProtocolUdp) return std::unexpected(Drop::BAD_IP);
  if (ip->total_length < ip->header_length + kUdpHeader) return std::unexpected(Drop::TRUNCATED);
  // The header gets a new checksum: a damaged one must not turn into a good one.
  if (ip->family == 4 &&
      wire::checksum_fold(wire::checksum_add(0, packet.first(ip->header_length))) != 0xffff)
    return std::unexpected(Drop::BAD_IP);
  const std::uint8_t* udp = packet.data() + ip->header_length;
  const std::size_t udp_length = ip->total_length - ip->header_length;
  if (wire::load_be<std::uint16_t>(udp + 2) != kUdpPort) return std::unexpected(Drop::BAD_IP);
  if (wire::load_be<std::uint16_t>(udp + 4) != udp_length) return std::unexpected(Drop::BAD_LENGTH);
  if (!peers_.allow(packet.data(), ip->family)) return std::unexpected(Drop::PEER_NOT_ALLOWED);
  outer_ = {frame.data() + kEthAt, packet.data(), *ip};
  return std::span(udp + kUdpHeader, udp_length - kUdpHeader);
}

void RxPath::answer_probe(std::span<const std::uint8_t> datagram) {
  const auto answer = answerer_.answer({.ethernet = outer_.ethernet,
                                        .ip_octets = outer_.ip_octets,
                                        .ip = outer_.ip,
                                        .datagram = datagram,
                                        .enabled = engine_.enabled(),
                                        .mtu = mtu_.load(std::memory_order_relaxed)});
  // iovec is for both directions: what is written from is not changed.
  const iovec frame{const_cast<std::uint8_t*>(answer.frame.data()), answer.frame.size()};
  const bool done = answer.frame.empty() || sink_.write({&frame, 1});
  engine_.count_drop(done ? answer.reason : Drop::TX_WRITE);
}

void RxPath::open_datagram(std::span<const std::uint8_t> datagram) {
  if (wire::is_probe(datagram)) [[unlikely]]
    return answer_probe(datagram);
  if (batch_.open) {
    const bool follows = !batch_.complete && datagram.size() > kOverhead + batch_.header_length &&
                         datagram[1] == kBareExtLength;
    const std::size_t payload = datagram.size() - kOverhead - batch_.header_length;
    const std::size_t length = batch_.end - kTcpAt + batch_.ip.header_length;
    if (follows && payload <= batch_.segment_size && length + payload <= kMaxIpLength)
      return open_behind(datagram);
    finish();
  }
  open_alone(datagram);
}

// may_deliver does what the bits S and D of an authentic packet ask for: to sample it, to drop it
// then.
bool RxPath::may_deliver(const device::RxMeta& meta, std::span<const std::uint8_t> datagram) {
  if (meta.header.sample) [[unlikely]]
    log_packet(std::nullopt, datagram);
  if (!meta.header.drop_after_sampling) [[likely]]
    return true;
  engine_.count_drop(Drop::SAMPLED);
  return false;
}

// log_packet gives a datagram to the device's log, as a packet of its own. Its UDP checksum is left
// out: packets that came joined share one.
void RxPath::log_packet(std::optional<Drop> reason, std::span<const std::uint8_t> datagram) {
  std::array<std::uint8_t, kMaxIpHeader + kUdpHeader> head;
  const std::size_t ip_length = outer_.ip.header_length;
  const std::size_t udp_length = kUdpHeader + datagram.size();
  std::memcpy(head.data(), outer_.ip_octets, ip_length + kUdpHeader);
  wire::set_ip_payload(std::span(head).first(ip_length), outer_.ip, udp_length, wire::kProtocolUdp);
  wire::store_be(head.data() + ip_length + 4, static_cast<std::uint16_t>(udp_length));
  wire::store_be(head.data() + ip_length + kUdpChecksumAt, std::uint16_t{0});
  engine_.log_packet(device::PacketPath::kReceive, reason, ip_length + udp_length,
                     std::span(head).first(ip_length + kUdpHeader), datagram);
}

// open_behind opens a datagram that probably continues the batch to where it then belongs. The last
// octets of the batch make room for the TCP header meanwhile.
void RxPath::open_behind(std::span<const std::uint8_t> datagram) {
  std::uint8_t* end = output() + batch_.end;
  const std::size_t size = datagram.size() - kOverhead;
  std::array<std::uint8_t, kSaved> saved;
  std::array<std::uint8_t, kSaved> opened;
  std::memcpy(saved.data(), end - kSaved, kSaved);
  const auto meta = engine_.open(datagram, end - batch_.header_length);
  std::memcpy(opened.data(), end - kSaved, kSaved);
  std::memcpy(end - kSaved, saved.data(), kSaved);
  if (!meta) return log_packet(meta.error(), datagram);
  if (!may_deliver(*meta, datagram)) return;
  const std::uint8_t* header = opened.data() + kSaved - batch_.header_length;
  if (!is_segment(*meta, header, size)) {
    engine_.count_drop(Drop::BAD_INNER);
    return log_packet(Drop::BAD_INNER, datagram);
  }
  if (continues(header, size, *meta)) return extend(header, size);
  // Not a continuation after all: finish the batch, then start a new one with this segment.
  const std::size_t moved = batch_.header_length;
  finish();
  std::uint8_t* front = output() + kTcpAt;
  std::memmove(front + moved, end, size - moved);
  std::memcpy(front, header, moved);
  start(size, *meta);
}

void RxPath::open_alone(std::span<const std::uint8_t> datagram) {
  std::uint8_t* front = output() + kTcpAt;
  const auto meta = engine_.open(datagram, front);
  if (!meta) return log_packet(meta.error(), datagram);
  if (!may_deliver(*meta, datagram)) return;
  const std::uint8_t* segment = front + meta->inner_offset;
  const bool fits = meta->inner_size + outer_.ip.header_length <= kMaxIpLength;
  if (!fits || !is_segment(*meta, segment, meta->inner_size)) {
    engine_.count_drop(Drop::BAD_INNER);
    return log_packet(Drop::BAD_INNER, datagram);
  }
  if (meta->inner_offset != 0) std::memmove(front, segment, meta->inner_size);
  start(meta->inner_size, *meta);
}

// continues: the segment with that header joins the batch by the rules of the kernel's GRO, and
// came under the same SPI and key.
bool RxPath::continues(const std::uint8_t* header, std::size_t size,
                       const device::RxMeta& meta) const {
  const std::uint8_t* first = output() + kTcpAt;
  const std::size_t length = batch_.header_length;
  const std::uint8_t flags = header[kTcpFlagsAt];
  const auto different = static_cast<std::uint8_t>(flags ^ first[kTcpFlagsAt]);
  return meta.header.spi == batch_.spi && meta.generation == batch_.generation &&
         static_cast<std::uint8_t>(meta.version) == batch_.version && size > length &&
         header[kTcpOffsetAt] == first[kTcpOffsetAt] &&
         std::memcmp(header, first, kTcpSeqAt) == 0 &&  // ports
         wire::load_be<std::uint32_t>(header + kTcpSeqAt) == batch_.next_sequence &&
         std::memcmp(header + kTcpAckAt, first + kTcpAckAt, 4) == 0 &&
         (flags & (kTcpCwr | kTcpUrg | kTcpSyn | kTcpRst)) == 0 && (different & ~kFreeFlags) == 0 &&
         std::memcmp(header + kMinTcpHeader, first + kMinTcpHeader, length - kMinTcpHeader) == 0;
}

// extend takes the segment, whose payload is in its place, into the batch. The window is the
// newest.
void RxPath::extend(const std::uint8_t* header, std::size_t size) {
  std::uint8_t* first = output() + kTcpAt;
  const std::size_t payload = size - batch_.header_length;
  const std::uint8_t flags = header[kTcpFlagsAt];
  first[kTcpFlagsAt] |= flags & (kTcpPsh | kTcpFin);
  std::memcpy(first + kTcpWindowAt, header + kTcpWindowAt, 2);
  batch_.end += payload;
  batch_.next_sequence += static_cast<std::uint32_t>(payload);
  batch_.complete = payload < batch_.segment_size || (flags & kEndFlags) != 0;
  ++batch_.segments;
}

// start makes the segment of `size` octets at kTcpAt the first of a new batch.
void RxPath::start(std::size_t size, const device::RxMeta& meta) {
  std::uint8_t* tcp = output() + kTcpAt;
  std::uint8_t* ip = tcp - outer_.ip.header_length;
  std::memcpy(ip, outer_.ip_octets, outer_.ip.header_length);
  std::uint8_t* ethernet = ip - kEthHeader;
  std::memcpy(ethernet, outer_.ethernet + 6, 6);
  std::memcpy(ethernet + 12, outer_.ethernet + 12, 2);

  batch_.open = true;
  batch_.ip = outer_.ip;
  batch_.segments = 1;
  batch_.header_length = wire::tcp_header_length(tcp);
  batch_.segment_size = size - batch_.header_length;
  batch_.end = kTcpAt + size;
  batch_.next_sequence = wire::load_be<std::uint32_t>(tcp + kTcpSeqAt) +
                         static_cast<std::uint32_t>(batch_.segment_size);
  batch_.version = static_cast<std::uint8_t>(meta.version);
  batch_.generation = meta.generation;
  batch_.spi = meta.header.spi;
  batch_.complete = batch_.segment_size == 0 || (tcp[kTcpFlagsAt] & kEndFlags) != 0;
}

void RxPath::flush() {
  finish();
  write();
}

// finish makes a packet of the batch. It waits for others if it is bulk.
void RxPath::finish() {
  if (!batch_.open) return;
  batch_.open = false;
  batch_.complete = false;
  std::uint8_t* tcp = output() + kTcpAt;
  const std::size_t ip_length = batch_.ip.header_length;
  std::uint8_t* frame = tcp - ip_length - kIpAt;
  const std::size_t l4_length = batch_.end - kTcpAt;
  const std::span<std::uint8_t> ip(tcp - ip_length, ip_length);
  wire::set_ip_payload(ip, batch_.ip, l4_length, wire::kProtocolTcp);
  const std::uint64_t sum = wire::pseudo_header_sum(ip, batch_.ip.family, wire::kProtocolTcp,
                                                    static_cast<std::uint32_t>(l4_length));
  wire::store_be(tcp + kTcpChecksumAt, wire::checksum_fold(sum));
  store_tag(frame, {static_cast<std::uint8_t>(PSP_FRAME_TO_STACK | batch_.version),
                    batch_.generation, batch_.spi.value});

  VnetHeader vnet;
  vnet.flags = kVnetNeedsCsum;
  vnet.csum_start = static_cast<std::uint16_t>(kEthHeader + ip_length);
  vnet.csum_offset = kTcpChecksumAt;
  vnet.hdr_len = static_cast<std::uint16_t>(kEthHeader + ip_length + batch_.header_length);
  if (batch_.segments > 1) {
    vnet.gso_type = batch_.ip.family == 4 ? kGsoTcp4 : kGsoTcp6;
    if (tcp[kTcpFlagsAt] & kTcpCwr) vnet.gso_type |= kGsoEcn;
    vnet.gso_size = static_cast<std::uint16_t>(batch_.segment_size);
  }
  store_vnet(frame, vnet);
  packets_[finished_++] = {{frame, kIpAt + ip_length + l4_length}, batch_.segments};
  if (l4_length < kBulk || finished_ == kPackets) write();
}

void RxPath::write() {
  for (const Packet& packet : std::span(packets_).first(finished_)) {
    if (sink_.write({&packet.frame, 1})) continue;
    for (std::size_t i = 0; i < packet.segments; ++i) engine_.count_drop(Drop::RX_WRITE);
  }
  finished_ = 0;
}

}  // namespace psp::datapath
