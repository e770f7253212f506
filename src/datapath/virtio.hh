// SPDX-License-Identifier: Apache-2.0
//
// The virtio-net header in front of every frame on the TAP: how the kernel and user space tell each
// other that a frame is bigger than the MTU and has its checksum unfinished. Legacy layout, 10
// octets, native byte order (TUNSETVNETLE is not used). The numbers are of linux/virtio_net.h and
// linux/if_tun.h; the ones for UDP are younger than the headers of Debian 12.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace psp::datapath {

// VnetHeader is struct virtio_net_hdr. Offsets and lengths count from the Ethernet header.
struct VnetHeader {
  std::uint8_t flags = 0;
  std::uint8_t gso_type = 0;
  std::uint16_t hdr_len = 0;      // Ethernet, IP and L4 header
  std::uint16_t gso_size = 0;     // octets of payload per segment
  std::uint16_t csum_start = 0;   // L4 header
  std::uint16_t csum_offset = 0;  // of the checksum field in the L4 header
};
inline constexpr std::size_t kVnetHeader = 10;
static_assert(sizeof(VnetHeader) == kVnetHeader);

inline constexpr std::uint8_t kVnetNeedsCsum = 1;

inline constexpr std::uint8_t kGsoNone = 0;
inline constexpr std::uint8_t kGsoTcp4 = 1;
inline constexpr std::uint8_t kGsoTcp6 = 4;
inline constexpr std::uint8_t kGsoUdpL4 = 5;
inline constexpr std::uint8_t kGsoEcn = 0x80;  // flag: the first TCP segment carries CWR

// TUNSETOFFLOAD.
inline constexpr unsigned kTunCsum = 0x01;
inline constexpr unsigned kTunTso4 = 0x02;
inline constexpr unsigned kTunTso6 = 0x04;
inline constexpr unsigned kTunTsoEcn = 0x08;
inline constexpr unsigned kTunUso4 = 0x20;
inline constexpr unsigned kTunUso6 = 0x40;

inline VnetHeader load_vnet(const std::uint8_t* p) {
  VnetHeader header;
  std::memcpy(&header, p, sizeof header);
  return header;
}

inline void store_vnet(std::uint8_t* p, const VnetHeader& header) {
  std::memcpy(p, &header, sizeof header);
}

}  // namespace psp::datapath
