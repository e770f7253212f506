// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the packet path share: a sink that keeps frames, a builder of the frames that
// the kernel would hand over, a pair of devices with one association, and a reader that checks a
// sealed frame the way the kernel's UDP segmentation would use it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <gtest/gtest.h>
#include <memory>
#include <stdexcept>
#include <vector>

#include "crypto/aead.hh"
#include "device/software_driver.hh"
#include "wire/checksum.hh"
#include "wire/packet.hh"

#include "frame.hh"
#include "rx_path.hh"
#include "tx_path.hh"

namespace psp::datapath::test {

using Octets = std::vector<std::uint8_t>;

inline Octets pattern(std::size_t size, unsigned seed = 1) {
  Octets octets(size);
  std::uint32_t state = seed * 2654435761u + 1;
  for (auto& octet : octets) {
    state = state * 1664525 + 1013904223;
    octet = static_cast<std::uint8_t>(state >> 24);
  }
  return octets;
}

// CaptureSink keeps what is written; `refuse` makes it behave like a full queue.
class CaptureSink final : public Sink {
 public:
  bool write(std::span<const iovec> frame) override {
    if (refuse) return false;
    Octets octets;
    for (const auto& part : frame) {
      const auto* p = static_cast<const std::uint8_t*>(part.iov_base);
      octets.insert(octets.end(), p, p + part.iov_len);
    }
    frames.push_back(std::move(octets));
    return true;
  }
  std::vector<Octets> frames;
  bool refuse = false;
};

// TcpSpec describes a clear TCP frame from the stack.
struct TcpSpec {
  unsigned family = 4;
  std::size_t payload = 100;
  std::size_t gso_size = 0;  // 0: not GSO
  bool reserved = true;      // with the MSS reservation
  bool complete_checksum = false;
  std::size_t tcp_options = 12;
  std::uint8_t flags = kTcpAck;
  std::uint32_t sequence = 0xffff'f000u;  // wraps in bigger frames
  std::uint32_t ack = 0x1234'5678u;
  std::uint8_t kind = PSP_FRAME_SEAL;
  std::uint32_t handle = 0;
  std::uint16_t source_port = 40000;
  unsigned seed = 1;
};

inline std::size_t headers_length(const TcpSpec& spec) {
  return kIpAt + (spec.family == 4 ? kIpv4Header : kIpv6Header) +
         (spec.reserved && spec.family == 4 ? kMssReservation : 0) + kMinTcpHeader +
         spec.tcp_options;
}

inline void build_ip(Octets& frame, const TcpSpec& spec, std::size_t tcp_at) {
  std::uint8_t* ip = frame.data() + kIpAt;
  const std::size_t total = frame.size() - kIpAt;
  if (spec.family == 4) {
    ip[0] = static_cast<std::uint8_t>(0x40 | (tcp_at - kIpAt) / 4);
    ip[1] = 0xb9;  // DSCP and ECN
    wire::store_be<std::uint16_t>(ip + 4, 0x4711);
    ip[6] = 0x40;  // DF
    ip[8] = 61;
    for (int i = 0; i < 8; ++i) ip[12 + i] = static_cast<std::uint8_t>(10 + i);
    if (spec.reserved) std::memset(ip + kIpv4Header, 1, kMssReservation);
    wire::set_ip_payload({ip, total},
                         {.family = 4, .header_length = static_cast<std::uint16_t>(tcp_at - kIpAt)},
                         frame.size() - tcp_at, wire::kProtocolTcp);
    return;
  }
  wire::store_be<std::uint32_t>(ip, 0x6b9a'bcdeu);  // traffic class and flow label
  wire::store_be(ip + 4, static_cast<std::uint16_t>(total - kIpv6Header));
  ip[6] = wire::kProtocolTcp;
  ip[7] = 61;
  for (int i = 0; i < 32; ++i) ip[8 + i] = static_cast<std::uint8_t>(0x20 + i);
}

// build_frame is the frame as read() returns it, with pattern(spec.payload, spec.seed) as payload.
inline Octets build_frame(const TcpSpec& spec) {
  const std::size_t headers = headers_length(spec);
  const std::size_t tcp_length = kMinTcpHeader + spec.tcp_options;
  const std::size_t tcp_at = headers - tcp_length;
  Octets frame(headers);
  const Octets payload = pattern(spec.payload, spec.seed);
  frame.insert(frame.end(), payload.begin(), payload.end());
  for (int i = 0; i < 6; ++i) frame[kEthAt + i] = static_cast<std::uint8_t>(0xd0 + i);
  const std::uint8_t flags = spec.reserved ? PSP_FRAME_F_MSS_RESERVED : 0;
  store_tag(frame.data(), {spec.kind, flags, spec.handle});
  wire::store_be(frame.data() + kEthertypeAt, spec.family == 4 ? kEthertypeIpv4 : kEthertypeIpv6);
  build_ip(frame, spec, tcp_at);

  std::uint8_t* tcp = frame.data() + tcp_at;
  wire::store_be<std::uint16_t>(tcp, spec.source_port);
  wire::store_be<std::uint16_t>(tcp + 2, 443);
  wire::store_be(tcp + kTcpSeqAt, spec.sequence);
  wire::store_be(tcp + kTcpAckAt, spec.ack);
  tcp[kTcpOffsetAt] = static_cast<std::uint8_t>(tcp_length / 4 << 4);
  tcp[kTcpFlagsAt] = spec.flags;
  wire::store_be<std::uint16_t>(tcp + kTcpWindowAt, 0x2345);
  if (spec.flags & kTcpUrg) wire::store_be<std::uint16_t>(tcp + kTcpUrgentAt, 7);
  const Octets options = pattern(spec.tcp_options, 99);
  std::ranges::copy(options, tcp + kMinTcpHeader);

  const auto l4 = static_cast<std::uint32_t>(frame.size() - tcp_at);
  std::uint64_t sum =
      wire::pseudo_header_sum({frame.data() + kIpAt, 40}, spec.family, wire::kProtocolTcp, l4);
  VnetHeader vnet;
  vnet.hdr_len = static_cast<std::uint16_t>(headers - kEthAt);
  if (spec.complete_checksum) {
    sum = wire::checksum_add(sum, {tcp, l4});
    wire::store_be(tcp + kTcpChecksumAt, static_cast<std::uint16_t>(~wire::checksum_fold(sum)));
  } else {
    wire::store_be(tcp + kTcpChecksumAt, wire::checksum_fold(sum));
    vnet.flags = kVnetNeedsCsum;
    vnet.csum_start = static_cast<std::uint16_t>(tcp_at - kEthAt);
    vnet.csum_offset = kTcpChecksumAt;
  }
  if (spec.gso_size != 0) {
    vnet.gso_type = spec.family == 4 ? kGsoTcp4 : kGsoTcp6;
    if (spec.flags & kTcpCwr) vnet.gso_type |= kGsoEcn;
    vnet.gso_size = static_cast<std::uint16_t>(spec.gso_size);
  }
  store_vnet(frame.data(), vnet);
  return frame;
}

// Device is one software device with an engine.
struct Device {
  explicit Device(const crypto::Backend& backend = *crypto::find_backend("auto"))
      : ivs([this] { return clock += 1000; }),
        driver({.backend = &backend, .ivs = &ivs}),
        engine(driver.make_engine()) {
    driver.enable(VersionSet::all());
  }
  std::uint64_t drops(Drop reason) const {
    return driver.drops()[static_cast<std::size_t>(reason)];
  }
  std::uint64_t clock = 1;
  device::IvAllocator ivs;
  device::SoftwareDriver driver;
  std::unique_ptr<device::Engine> engine;
};

// Rig is a sender and a receiver with a key between them.
struct Rig {
  explicit Rig(Version version = Version::kAesGcm128, const TxOptions& options = {})
      : tx(*sender.engine, sealed, options), rx(*receiver.engine, opened) {
    const auto key = receiver.driver.rx_spi_alloc(version).value();
    spi = key.spi;
    handle = sender.driver.tx_key_add(version, spi, key.key.span()).value();
  }
  // send seals a frame built from `spec` and flushes.
  void send(TcpSpec spec) {
    spec.handle = handle;
    send_raw(build_frame(spec));
    tx.flush();
  }
  void send_raw(Octets frame) { tx.process(frame); }
  // deliver opens everything that was sealed, as the other host's TAP would bring it.
  void deliver() {
    for (auto& frame : sealed.frames) rx.process(frame);
    rx.flush();
  }

  Device sender;
  Device receiver;
  CaptureSink sealed;
  CaptureSink opened;
  TxPath tx;
  RxPath rx;
  Spi spi;
  std::uint32_t handle = 0;
};

// split_superframe returns the IP packets that the kernel makes of a sealed frame, and checks on
// the way what it checks: lengths, checksums, GSO fields.
inline std::vector<Octets> split_superframe(const Octets& frame) {
  std::vector<Octets> packets;
  const VnetHeader vnet = load_vnet(frame.data());
  const Octets packet(frame.begin() + kIpAt, frame.end());
  const auto ip = wire::parse_ip(packet);
  if (!ip) throw std::runtime_error("IP header");
  EXPECT_EQ(ip->total_length, packet.size());
  EXPECT_EQ(ip->protocol, wire::kProtocolUdp);
  EXPECT_LE(packet.size(), 65535u);
  EXPECT_EQ(vnet.hdr_len, kEthHeader + ip->header_length + kUdpHeader);
  const std::uint8_t* udp = packet.data() + ip->header_length;
  const std::size_t udp_length = packet.size() - ip->header_length;
  EXPECT_EQ(wire::load_be<std::uint16_t>(udp + 2), 1000);
  EXPECT_EQ(wire::load_be<std::uint16_t>(udp + 4), udp_length);
  if (vnet.flags & kVnetNeedsCsum) {
    EXPECT_EQ(vnet.csum_start, kEthHeader + ip->header_length);
    EXPECT_EQ(vnet.csum_offset, 6);
    EXPECT_EQ(wire::load_be<std::uint16_t>(udp + 6),
              wire::checksum_fold(wire::pseudo_header_sum(packet, ip->family, wire::kProtocolUdp,
                                                          static_cast<std::uint32_t>(udp_length))));
  } else {
    EXPECT_EQ(wire::load_be<std::uint16_t>(udp + 6), 0);
  }
  const std::size_t payload = udp_length - kUdpHeader;
  std::size_t stride = payload;
  if (vnet.gso_type != kGsoNone) {
    EXPECT_EQ(vnet.gso_type, kGsoUdpL4);
    EXPECT_TRUE(vnet.flags & kVnetNeedsCsum);
    EXPECT_GT(payload, vnet.gso_size);
    stride = vnet.gso_size;
  }
  for (std::size_t at = 0; at < payload; at += stride) {
    const std::size_t size = std::min(stride, payload - at);
    Octets one(packet.begin(), packet.begin() + ip->header_length + kUdpHeader);
    one.insert(one.end(), udp + kUdpHeader + at, udp + kUdpHeader + at + size);
    wire::set_ip_payload(one, *ip, kUdpHeader + size, wire::kProtocolUdp);
    wire::store_be(one.data() + ip->header_length + 4,
                   static_cast<std::uint16_t>(kUdpHeader + size));
    packets.push_back(std::move(one));
  }
  EXPECT_LE(packets.size(), 64u);
  return packets;
}

// Segment is one opened TCP segment.
struct Segment {
  std::uint32_t sequence = 0;
  std::uint8_t flags = 0;
  Octets tcp;  // header and payload as sealed
  Octets payload;
  std::uint64_t iv = 0;
  std::size_t packet_size = 0;  // IP length on the wire
  bool checksum_ok = false;
};

// open_segments opens every packet of the sealed frames by itself with `engine`.
inline std::vector<Segment> open_segments(const std::vector<Octets>& frames,
                                          device::Engine& engine) {
  std::vector<Segment> segments;
  for (const auto& frame : frames)
    for (const auto& packet : split_superframe(frame)) {
      const auto psp = wire::parse_packet(packet);
      if (!psp) throw std::runtime_error("not a PSP packet");
      const auto datagram = std::span(packet).subspan(psp->psp_offset);
      Octets out(datagram.size());
      const auto meta = engine.open(datagram, out.data());
      if (!meta) throw std::runtime_error("cannot be opened");
      Segment segment;
      segment.tcp.assign(out.begin(), out.begin() + static_cast<long>(meta->inner_size));
      const std::uint8_t* tcp = segment.tcp.data();
      segment.sequence = wire::load_be<std::uint32_t>(tcp + kTcpSeqAt);
      segment.flags = tcp[kTcpFlagsAt];
      segment.payload.assign(segment.tcp.begin() + tcp[kTcpOffsetAt] / 16 * 4, segment.tcp.end());
      segment.iv = meta->header.iv;
      segment.packet_size = packet.size();
      const std::uint64_t sum =
          wire::pseudo_header_sum(packet, psp->ip.family, wire::kProtocolTcp,
                                  static_cast<std::uint32_t>(segment.tcp.size()));
      segment.checksum_ok = wire::checksum_fold(wire::checksum_add(sum, segment.tcp)) == 0xffff;
      segments.push_back(std::move(segment));
    }
  return segments;
}

inline Octets payload_of(const std::vector<Segment>& segments) {
  Octets all;
  for (const auto& segment : segments)
    all.insert(all.end(), segment.payload.begin(), segment.payload.end());
  return all;
}

// OpenedFrame is a frame to the stack, taken apart and checked.
struct OpenedFrame {
  VnetHeader vnet;
  FrameTag tag;
  wire::IpHeader ip;
  Octets ip_octets;
  Octets tcp;  // header
  Octets payload;
  std::uint32_t sequence = 0;
  std::uint8_t flags = 0;
};

inline OpenedFrame read_opened(const Octets& frame) {
  OpenedFrame o;
  o.vnet = load_vnet(frame.data());
  o.tag = load_tag(frame.data());
  const std::span packet(frame.data() + kIpAt, frame.size() - kIpAt);
  const auto ip = wire::parse_ip(packet);
  if (!ip) throw std::runtime_error("IP header");
  o.ip = *ip;
  EXPECT_EQ(ip->total_length, packet.size());
  EXPECT_EQ(ip->protocol, wire::kProtocolTcp);
  if (ip->family == 4) {
    EXPECT_EQ(wire::checksum_fold(wire::checksum_add(0, packet.first(ip->header_length))), 0xffff);
  }
  o.ip_octets.assign(packet.begin(), packet.begin() + ip->header_length);
  const auto l4 = packet.subspan(ip->header_length);
  const std::size_t header = std::size_t{l4[kTcpOffsetAt]} / 16 * 4;
  o.tcp.assign(l4.begin(), l4.begin() + static_cast<long>(header));
  o.payload.assign(l4.begin() + static_cast<long>(header), l4.end());
  o.sequence = wire::load_be<std::uint32_t>(o.tcp.data() + kTcpSeqAt);
  o.flags = o.tcp[kTcpFlagsAt];
  EXPECT_EQ(o.vnet.flags, kVnetNeedsCsum);
  EXPECT_EQ(o.vnet.csum_start, kEthHeader + ip->header_length);
  EXPECT_EQ(o.vnet.csum_offset, kTcpChecksumAt);
  EXPECT_EQ(o.vnet.hdr_len, kEthHeader + ip->header_length + header);
  EXPECT_EQ(wire::load_be<std::uint16_t>(o.tcp.data() + kTcpChecksumAt),
            wire::checksum_fold(wire::pseudo_header_sum(packet, ip->family, wire::kProtocolTcp,
                                                        static_cast<std::uint32_t>(l4.size()))));
  if (o.vnet.gso_type != kGsoNone) {
    EXPECT_EQ(o.vnet.gso_type & ~kGsoEcn, ip->family == 4 ? kGsoTcp4 : kGsoTcp6);
    EXPECT_GT(o.payload.size(), o.vnet.gso_size);
    EXPECT_GT(o.vnet.gso_size, 0);
  }
  return o;
}

// has_window_of: any 16 octets in a row of `text` occur in `frame`.
inline bool has_window_of(const Octets& frame, const Octets& text) {
  if (text.size() < 16) return false;
  for (std::size_t i = 0; i + 16 <= text.size(); ++i)
    if (std::search(frame.begin(), frame.end(), text.begin() + static_cast<long>(i),
                    text.begin() + static_cast<long>(i) + 16) != frame.end())
      return true;
  return false;
}

}  // namespace psp::datapath::test
