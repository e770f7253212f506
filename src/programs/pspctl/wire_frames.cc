// SPDX-License-Identifier: Apache-2.0
//
// Frames are changed where they lie in the ring if they can be, and else copied.
//
// A frame that the kernel has not cut yet becomes the packets of the wire: each gets headers of its
// own, with length, identification and checksums as the segmentation of Linux writes them. A
// checksum is completed only where the whole packet is there: of one that the ring cut short it
// cannot be known.
#include "wire_frames.hh"

#include <algorithm>
#include <cstring>

#include "pcap/link.hh"
#include "wire/bytes.hh"
#include "wire/checksum.hh"
#include "wire/ip_octets.hh"
#include "wire/packet.hh"

namespace psp::ctl {

namespace {

constexpr std::size_t kTagAt = 12;
constexpr std::size_t kTag = 4;

// end_checksum does what was left to the NIC: the field holds the pseudo header's sum already.
void end_checksum(const RingFrame& frame) {
  const std::size_t at = std::size_t{frame.checksum_start} + frame.checksum_offset;
  if (!frame.checksum_missing || frame.octets.size() < frame.length ||
      frame.checksum_start > frame.octets.size() || at + 2 > frame.octets.size())
    return;
  const std::uint16_t sum = static_cast<std::uint16_t>(
      ~wire::checksum_fold(wire::checksum_add(0, frame.octets.subspan(frame.checksum_start))));
  wire::store_be(frame.octets.data() + at, sum == 0 ? std::uint16_t{0xffff} : sum);
}

// end_udp makes IP and UDP header of one packet out of those of many.
void end_udp(std::span<std::uint8_t> packet, const wire::IpHeader& ip, unsigned number) {
  const std::size_t size = packet.size() - ip.header_length;
  if (ip.family == 4)
    wire::store_be(
        packet.data() + wire::kIpv4IdentificationAt,
        static_cast<std::uint16_t>(
            wire::load_be<std::uint16_t>(packet.data() + wire::kIpv4IdentificationAt) + number));
  wire::set_ip_payload(packet, ip, size, wire::kProtocolUdp);
  std::uint8_t* udp = packet.data() + ip.header_length;
  wire::store_be(udp + wire::kUdpLengthAt, static_cast<std::uint16_t>(size));
  wire::store_be(udp + kUdpChecksumAt, std::uint16_t{0});
  const auto pseudo = wire::pseudo_header_sum(packet, ip.family, wire::kProtocolUdp,
                                              static_cast<std::uint32_t>(size));
  const std::uint16_t sum = static_cast<std::uint16_t>(
      ~wire::checksum_fold(wire::checksum_add(pseudo, packet.subspan(ip.header_length))));
  wire::store_be(udp + kUdpChecksumAt, sum == 0 ? std::uint16_t{0xffff} : sum);
}

// Emitting finds the IP packet, puts the VLAN tag back and hands the frame on.
class Emitting {
 public:
  Emitting(std::optional<std::uint16_t> tag, pcap::Buffer& room,
           const std::function<bool(const WireFrame&)>& on_frame)
      : tag_(tag), room_(room), on_frame_(on_frame) {}

  bool emit(std::span<std::uint8_t> octets, std::uint32_t length) {
    if (!tag_ || octets.size() < kTagAt + 2) return hand_on(octets, length);
    constexpr std::uint16_t kVlan = 0x8100;
    room_.resize(octets.size() + kTag);
    std::uint8_t* to = room_.data();
    std::memcpy(to, octets.data(), kTagAt);
    wire::store_be(to + kTagAt, kVlan);
    wire::store_be(to + kTagAt + 2, *tag_);
    std::memcpy(to + kTagAt + kTag, octets.data() + kTagAt, octets.size() - kTagAt);
    return hand_on({to, room_.size()}, length + static_cast<std::uint32_t>(kTag));
  }

 private:
  bool hand_on(std::span<std::uint8_t> octets, std::uint32_t length) {
    const auto link = pcap::find_ip(pcap::kLinkEthernet, octets);
    return on_frame_({octets, length, link ? octets.subspan(link->ip_at) : octets.first(0)});
  }

  std::optional<std::uint16_t> tag_;
  pcap::Buffer& room_;
  const std::function<bool(const WireFrame&)>& on_frame_;
};

}  // namespace

bool for_each_wire_frame(RingFrame& frame, pcap::Buffer& room,
                         const std::function<bool(const WireFrame&)>& on_frame) {
  Emitting out(frame.vlan, room, on_frame);
  const auto link = pcap::find_ip(pcap::kLinkEthernet, frame.octets);
  const auto ip =
      link ? wire::parse_ip(frame.octets.subspan(link->ip_at)) : std::unexpected(Drop::BAD_IP);
  if (frame.segment == 0 || !ip) {
    end_checksum(frame);
    return out.emit(frame.octets, frame.length);
  }
  const std::size_t headers = link->ip_at + ip->header_length + kUdpHeader;
  pcap::Buffer one;
  unsigned number = 0;
  for (std::size_t at = headers; at < frame.octets.size(); at += frame.segment, ++number) {
    const std::size_t size = std::min<std::size_t>(frame.segment, frame.octets.size() - at);
    one.clear();
    one.append(frame.octets.first(headers));
    one.append(frame.octets.subspan(at, size));
    const std::span<std::uint8_t> octets(one.data(), one.size());
    end_udp(octets.subspan(link->ip_at), *ip, number);
    if (!out.emit(octets, static_cast<std::uint32_t>(octets.size()))) return false;
  }
  return true;
}

}  // namespace psp::ctl
