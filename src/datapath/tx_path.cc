// SPDX-License-Identifier: Apache-2.0
//
// Segmentation and sealing. What must hold whatever comes in: a frame tagged SEAL leaves sealed or
// not at all; of a SPAN only the octets before the clear boundary leave in clear. Payload stays
// where the kernel put it and passes once, through the cipher: each TCP header is written over
// octets that are sealed already. A superframe keeps to three limits at once: 64 datagrams, 65,535
// octets, equal size but for the last. What is logged of a refused frame is its headers, for the
// rest is in clear.
//
// Threading: see tx_path.hh.
#include "tx_path.hh"

#include <algorithm>

#include "crypto/seal.hh"
#include "wire/checksum.hh"

namespace psp::datapath {
namespace {

// kDatagramsAt leaves room for all headers and starts the first datagram on a cache line.
constexpr std::size_t kDatagramsAt = 128;
static_assert(kDatagramsAt >= kIpAt + kMaxIpHeader + kUdpHeader);

// kMaxDatagrams: UDP_MAX_SEGMENTS of kernels before 6.9, and what GRO joins at the receiver.
constexpr std::size_t kMaxDatagrams = 64;

// What a datagram adds to its TCP segment inside UDP.
constexpr std::size_t kDatagramOverhead = kPspBaseHeader + kIcv;

// Segmenter turns the payload of a frame into TCP segments, one after the other, in the frame
// itself: each header is written directly before its payload.
class Segmenter {
 public:
  Segmenter(std::uint8_t* frame, const TcpFrame& tcp)
      : payload_(frame + tcp.payload_at),
        header_length_(tcp.tcp_length),
        left_(tcp.payload_length),
        sequence_(tcp.sequence),
        flags_(tcp.flags),
        urgent_(wire::load_be<std::uint16_t>(frame + tcp.tcp_at + kTcpUrgentAt)) {
    std::memcpy(header_.data(), frame + tcp.tcp_at, header_length_);
    std::memset(header_.data() + kTcpSeqAt, 0, 4);
    header_[kTcpFlagsAt] = 0;
    wire::store_be(header_.data() + kTcpChecksumAt, std::uint16_t{0});
    if (flags_ & kTcpUrg) wire::store_be(header_.data() + kTcpUrgentAt, std::uint16_t{0});
    const std::size_t ip_size = tcp.ip.family == 4 ? kIpv4Header : kIpv6Header;
    constant_sum_ =
        wire::pseudo_header_sum({frame + kIpAt, ip_size}, tcp.ip.family, wire::kProtocolTcp, 0);
    constant_sum_ = wire::checksum_add(constant_sum_, {header_.data(), header_length_});
  }

  // next is the TCP segment with the next `size` octets of payload, checksum complete.
  std::span<const std::uint8_t> next(std::size_t size) {
    std::uint8_t* segment = payload_ - header_length_;
    const bool last = size == left_;
    const std::uint8_t flags =
        last ? flags_ : flags_ & static_cast<std::uint8_t>(~(kTcpFin | kTcpPsh));
    std::memcpy(segment, header_.data(), header_length_);
    wire::store_be(segment + kTcpSeqAt, sequence_);
    segment[kTcpFlagsAt] = flags;
    std::uint64_t sum =
        constant_sum_ + header_length_ + size + (sequence_ >> 16) + (sequence_ & 0xffff) + flags;
    if (flags & kTcpUrg) {
      wire::store_be(segment + kTcpUrgentAt, urgent_);
      sum += urgent_;
    }
    sum = wire::checksum_add(sum, {payload_, size});
    wire::store_be(segment + kTcpChecksumAt, static_cast<std::uint16_t>(~wire::checksum_fold(sum)));
    advance(size);
    return {segment, header_length_ + size};
  }

 private:
  void advance(std::size_t size) {
    payload_ += size;
    left_ -= size;
    sequence_ += static_cast<std::uint32_t>(size);
    flags_ &= static_cast<std::uint8_t>(~kTcpCwr);  // only the first tells (RFC 3168, 6.1.2)
    if (urgent_ > size) {
      urgent_ = static_cast<std::uint16_t>(urgent_ - size);
    } else {
      flags_ &= static_cast<std::uint8_t>(~kTcpUrg);
    }
  }

  std::array<std::uint8_t, kMaxTcpHeader> header_;
  std::uint8_t* payload_;
  std::size_t header_length_;
  std::size_t left_;
  std::uint64_t constant_sum_ = 0;
  std::uint32_t sequence_;
  std::uint8_t flags_;
  std::uint16_t urgent_;
};

// skip_payload is the frame without the first `octets` of its payload, which are dealt with. The
// header moves to where it belongs.
TcpFrame skip_payload(std::span<std::uint8_t> frame, TcpFrame tcp, std::size_t octets) {
  std::memmove(frame.data() + tcp.tcp_at + octets, frame.data() + tcp.tcp_at, tcp.tcp_length);
  tcp.tcp_at += octets;
  tcp.payload_at += octets;
  tcp.payload_length -= octets;
  tcp.sequence += static_cast<std::uint32_t>(octets);
  std::uint8_t* at = frame.data() + tcp.tcp_at + kTcpUrgentAt;
  const std::size_t urgent = wire::load_be<std::uint16_t>(at);
  wire::store_be(at, static_cast<std::uint16_t>(urgent > octets ? urgent - octets : 0));
  if (urgent <= octets) tcp.flags &= static_cast<std::uint8_t>(~kTcpUrg);
  return tcp;
}

}  // namespace

TxPath::TxPath(device::Engine& engine, Sink& sink, const TxOptions& options)
    : engine_(engine),
      sink_(sink),
      options_(options),
      mtu_(options.mtu),
      output_(kDatagramsAt + kMaxIpLength) {}

void TxPath::process(std::span<std::uint8_t> frame) {
  const auto tcp = parse_tcp_frame(frame);
  if (!tcp) return refuse(tcp.error(), frame);
  const FrameTag tag = load_tag(frame.data());
  if (tag.kind == PSP_FRAME_CLEAR) {
    write_clear(frame, *tcp, tcp->payload_length, tcp->flags);
    return;
  }
  const auto session = engine_.tx_begin(tag.value);
  if (!session) return log_packet(session.error(), frame);  // counted there
  if (tag.kind == PSP_FRAME_SPAN) return span(frame, *tcp, *session);
  seal(frame, *tcp, *session);
}

void TxPath::drop(Drop reason, std::size_t packets) {
  for (std::size_t i = 0; i < packets; ++i) engine_.count_drop(reason);
}

void TxPath::refuse(Drop reason, std::span<const std::uint8_t> frame) {
  drop(reason, 1);
  log_packet(reason, frame);
}

// log_packet gives the headers of a packet to the device's log: what is behind them is in clear.
void TxPath::log_packet(Drop reason, std::span<const std::uint8_t> frame) {
  const auto packet = frame.subspan(std::min<std::size_t>(kIpAt, frame.size()));
  const auto ip = wire::parse_ip(packet);
  std::size_t headers = ip ? ip->header_length : 0;
  if (ip && ip->protocol == wire::kProtocolTcp && packet.size() > headers + kTcpOffsetAt)
    headers += wire::tcp_header_length(packet.data() + headers);
  engine_.log_packet(device::PacketPath::kTransmit, reason, packet.size(),
                     packet.first(std::min(headers, packet.size())));
}

// span sends what lies before the clear boundary in clear and seals the rest, the FIN included. Of
// what is sent again the rest is left to TCP, as if it had not joined the two: when the peer has
// acknowledged the clear octets it sends the others again, should they be missing.
void TxPath::span(std::span<std::uint8_t> frame, const TcpFrame& tcp,
                  const device::TxSession& session) {
  if (!session.has_clear_boundary) return refuse(Drop::TX_NO_ASSOC, frame);
  const std::size_t clear = session.clear_boundary - tcp.sequence;  // modulo 2^32, as TCP counts
  const bool inside = clear > 0 && (clear < tcp.payload_length ||
                                    (clear == tcp.payload_length && (tcp.flags & kTcpFin) != 0));
  if (!inside || (tcp.flags & kTcpSyn) != 0) return refuse(Drop::TX_BAD_PACKET, frame);
  // It ends with what the application wrote before tx-assoc: TCP pushed that.
  write_clear(frame, tcp, clear, tcp.flags & static_cast<std::uint8_t>(~kTcpFin));
  if (tcp.again) return;
  TcpFrame rest = skip_payload(frame, tcp, clear);
  rest.flags &= static_cast<std::uint8_t>(~kTcpCwr);
  seal(frame, rest, session);
}

// write_clear sends the first `length` octets of payload in clear, without the MSS reservation.
void TxPath::write_clear(std::span<std::uint8_t> frame, const TcpFrame& tcp, std::size_t length,
                         std::uint8_t flags) {
  flush();  // keep the order
  std::array<std::uint8_t, kIpAt + kMaxIpHeader + kMaxTcpHeader> headers;
  const std::size_t ip_length = tcp.ip.header_length;
  const std::size_t tcp_at = kIpAt + ip_length;
  std::uint8_t* out = headers.data();
  std::memcpy(out + kEthAt, frame.data() + kEthAt, kEthHeader);
  store_tag(out, {PSP_FRAME_TO_WIRE_CLEAR, 0, 0});
  copy_ip_header(frame, tcp, out + kIpAt);
  const std::size_t l4_length = tcp.tcp_length + length;
  const std::span<std::uint8_t> ip(out + kIpAt, ip_length);
  wire::set_ip_payload(ip, tcp.ip, l4_length, wire::kProtocolTcp);
  std::memcpy(out + tcp_at, frame.data() + tcp.tcp_at, tcp.tcp_length);
  out[tcp_at + kTcpFlagsAt] = flags;
  const std::uint64_t sum = wire::pseudo_header_sum(ip, tcp.ip.family, wire::kProtocolTcp,
                                                    static_cast<std::uint32_t>(l4_length));
  wire::store_be(out + tcp_at + kTcpChecksumAt, wire::checksum_fold(sum));

  VnetHeader vnet;
  vnet.flags = kVnetNeedsCsum;
  vnet.csum_start = static_cast<std::uint16_t>(kEthHeader + ip_length);
  vnet.csum_offset = kTcpChecksumAt;
  vnet.hdr_len = static_cast<std::uint16_t>(kEthHeader + ip_length + tcp.tcp_length);
  if (tcp.is_gso() && length > tcp.vnet.gso_size) {
    vnet.gso_type = tcp.vnet.gso_type;
    vnet.gso_size = tcp.vnet.gso_size;
  }
  store_vnet(out, vnet);
  const iovec parts[] = {{out, tcp_at + tcp.tcp_length}, {frame.data() + tcp.payload_at, length}};
  if (!sink_.write({parts, length == 0 ? 1u : 2u})) refuse(Drop::TX_WRITE, frame);
}

// segment_size is how much payload each sealed segment carries; 0 if not even one octet fits.
std::size_t TxPath::segment_size(const TcpFrame& tcp) const {
  const std::size_t mtu = std::min<std::size_t>(mtu_.load(std::memory_order_relaxed), kMaxIpLength);
  const std::size_t headers = tcp.ip.header_length + kTransportOverhead + tcp.tcp_length;
  if (mtu < headers) return 0;
  const std::size_t room = mtu - headers;
  if (tcp.payload_length == 0) return 1;
  if (tcp.is_gso()) {
    // Without the reservation TCP did not know of the overhead.
    const std::size_t size = tcp.vnet.gso_size;
    if (tcp.reserved) return std::min(size, room);
    return std::min(size > kTransportOverhead ? size - kTransportOverhead : 0, room);
  }
  if (room == 0 || (tcp.payload_length <= room && !tcp.cut)) return room;
  // Equal parts, so that none is near what the path may carry, which can be less than the MTU.
  const std::size_t parts =
      std::max<std::size_t>(tcp.cut ? 2 : 1, (tcp.payload_length + room - 1) / room);
  return (tcp.payload_length + parts - 1) / parts;
}

void TxPath::seal(std::span<std::uint8_t> frame, const TcpFrame& tcp,
                  const device::TxSession& session) {
  const std::size_t segment = segment_size(tcp);
  if (segment == 0) return refuse(Drop::TX_TOO_BIG, frame);
  const std::size_t count = std::max<std::size_t>(1, (tcp.payload_length + segment - 1) / segment);
  if (count > 1 && (tcp.flags & kTcpSyn)) return refuse(Drop::TX_BAD_PACKET, frame);

  join_flow(frame, tcp);
  std::array<std::uint8_t, kPspBaseHeader> psp_header;
  wire::PspHeader header;
  header.version_number = static_cast<std::uint8_t>(session.version);
  header.spi = session.spi;
  wire::write_header(psp_header, header);
  std::uint64_t iv = engine_.reserve_ivs(static_cast<std::uint32_t>(count));
  Segmenter segments(frame.data(), tcp);
  for (std::size_t left = tcp.payload_length, i = 0; i < count; ++i) {
    const std::size_t size = std::min(left, segment);
    left -= size;
    const auto inner = segments.next(size);
    const std::size_t datagram = kDatagramOverhead + inner.size();
    std::uint8_t* out = append(datagram);
    std::memcpy(out, psp_header.data(), kPspBaseHeader);
    wire::store_be(out + 8, iv++);
    crypto::seal_datagram(*session.aead, session.version, {out, datagram}, kPspBaseHeader, inner);
  }
  // Bulk data and the ACKs for it wait for company until the worker has read all there is; whatever
  // else there is goes out at once.
  const bool bare_ack = tcp.payload_length == 0 && tcp.flags == kTcpAck;
  if (open_.complete || !(tcp.is_gso() || bare_ack)) flush();
}

// join_flow makes the open superframe one that can take datagrams of this frame.
void TxPath::join_flow(std::span<const std::uint8_t> frame, const TcpFrame& tcp) {
  std::array<std::uint8_t, kMaxIpHeader> ip;
  copy_ip_header(frame, tcp, ip.data());
  const std::uint16_t port = source_port(frame, tcp);
  const std::size_t length = tcp.ip.header_length;
  if (open_.count != 0) {
    if (open_.source_port == port && open_.ip_info.family == tcp.ip.family &&
        open_.ip_info.header_length == length &&
        same_outer(open_.ip.data(), ip.data(), tcp.ip.family, length) &&
        std::memcmp(open_.ethernet.data(), frame.data() + kEthAt, 6) == 0)
      return;
    flush();
  }
  std::memcpy(open_.ethernet.data(), frame.data() + kEthAt, kEthHeader);
  open_.ip = ip;
  open_.ip_info = tcp.ip;
  open_.source_port = port;
}

// append is room for a datagram of `size` octets at the end of the superframe. A full superframe
// is written first.
std::uint8_t* TxPath::append(std::size_t size) {
  if (open_.count == open_.limit || open_.complete || size > open_.datagram) flush();
  if (open_.count == 0) {
    open_.datagram = size;
    open_.limit = std::clamp<std::size_t>(
        (kMaxIpLength - open_.ip_info.header_length - kUdpHeader) / size, 1, kMaxDatagrams);
  }
  std::uint8_t* out = output_.data() + kDatagramsAt + open_.octets;
  open_.octets += size;
  open_.complete = size < open_.datagram;
  ++open_.count;
  return out;
}

void TxPath::flush() {
  if (open_.count == 0) return;
  std::uint8_t* first = output_.data() + kDatagramsAt;
  const std::size_t inner = open_.octets - open_.count * kDatagramOverhead;
  std::size_t failed = 0;
  std::size_t failed_inner = 0;
  if (options_.uso || open_.count == 1) {
    if (!write_datagrams(first, open_.octets, open_.count)) {
      failed = open_.count;
      failed_inner = inner;
    }
  } else {
    for (std::size_t left = open_.octets; left != 0;) {
      const std::size_t size = std::min(left, open_.datagram);
      if (!write_datagrams(first, size, 1)) {
        ++failed;
        failed_inner += size - kDatagramOverhead;
      }
      first += size;
      left -= size;
    }
  }
  engine_.count_tx(open_.count - failed, inner - failed_inner);
  drop(Drop::TX_WRITE, failed);
  if (failed != 0)
    engine_.log_packet(device::PacketPath::kTransmit, Drop::TX_WRITE, open_.octets,
                       std::span(open_.ip).first(open_.ip_info.header_length));
  open_.count = open_.limit = open_.octets = open_.datagram = 0;
  open_.complete = false;
}

// write_datagrams writes one frame. Its headers are put directly before the first datagram, over
// octets that are not needed any more.
bool TxPath::write_datagrams(std::uint8_t* first, std::size_t size, std::size_t count) {
  const std::size_t ip_length = open_.ip_info.header_length;
  const std::size_t header_length = kEthHeader + ip_length + kUdpHeader;
  const std::size_t udp_length = kUdpHeader + size;
  std::uint8_t* frame = first - header_length - kVnetHeader;
  std::memcpy(frame + kEthAt, open_.ethernet.data(), kEthHeader);
  store_tag(frame, {PSP_FRAME_TO_WIRE_SEALED, 0, 0});
  const std::span<std::uint8_t> ip(frame + kIpAt, ip_length);
  std::memcpy(ip.data(), open_.ip.data(), ip_length);
  wire::set_ip_payload(ip, open_.ip_info, udp_length, wire::kProtocolUdp);

  std::uint8_t* udp = first - kUdpHeader;
  wire::store_be(udp, open_.source_port);
  wire::store_be(udp + 2, kUdpPort);
  wire::store_be(udp + 4, static_cast<std::uint16_t>(udp_length));
  VnetHeader vnet;
  vnet.hdr_len = static_cast<std::uint16_t>(header_length);
  std::uint16_t checksum = 0;
  if (count > 1 || options_.udp_checksum) {  // USO does not take checksum 0
    vnet.flags = kVnetNeedsCsum;
    vnet.csum_start = static_cast<std::uint16_t>(kEthHeader + ip_length);
    vnet.csum_offset = kUdpChecksumAt;
    checksum = wire::checksum_fold(wire::pseudo_header_sum(
        ip, open_.ip_info.family, wire::kProtocolUdp, static_cast<std::uint32_t>(udp_length)));
  }
  wire::store_be(udp + kUdpChecksumAt, checksum);
  if (count > 1) {
    vnet.gso_type = kGsoUdpL4;
    vnet.gso_size = static_cast<std::uint16_t>(open_.datagram);
  }
  store_vnet(frame, vnet);
  const iovec part{frame, kVnetHeader + header_length + size};
  return sink_.write({&part, 1});
}

// source_port is constant for a connection: a keyed hash of addresses and TCP ports, scaled to the
// configured range.
std::uint16_t TxPath::source_port(std::span<const std::uint8_t> frame, const TcpFrame& tcp) const {
  std::array<std::uint8_t, 36> flow;  // two IPv6 addresses, two ports
  const std::size_t addresses = tcp.ip.family == 4 ? 8 : 32;
  std::memcpy(flow.data(), frame.data() + kIpAt + (tcp.ip.family == 4 ? 12 : 8), addresses);
  std::memcpy(flow.data() + addresses, frame.data() + tcp.tcp_at, 4);
  const std::uint64_t hash = siphash(options_.port_key, {flow.data(), addresses + 4});
  const std::uint64_t ports = options_.port_last - options_.port_first + 1u;
  return static_cast<std::uint16_t>(options_.port_first + ((hash >> 32) * ports >> 32));
}

}  // namespace psp::datapath
