// SPDX-License-Identifier: Apache-2.0
//
// Inside the layer: numbers of capture files, and loads and stores in the byte order of a file.
// That order is the writer's, told by a magic number: `swapped` means that it is not this
// machine's. Loads check nothing; splitter.cc has judged all lengths first. pcap as libpcap's
// pcap-savefile(5) has it, pcapng after draft-ietf-opsawg-pcapng.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace psp::pcap {

// pcap. Magic numbers as a machine of the file's byte order reads them.
inline constexpr std::uint32_t kMagicMicro = 0xa1b2c3d4;
inline constexpr std::uint32_t kMagicNano = 0xa1b23c4d;
inline constexpr std::size_t kPcapFileHeader = 24;
inline constexpr std::size_t kPcapRecordHeader = 16;
inline constexpr std::size_t kPcapSnapLengthAt = 16;
inline constexpr std::size_t kPcapLinkTypeAt = 20;
inline constexpr std::uint32_t kPcapLinkTypeMask = 0x0fff'ffff;  // above: length of the FCS

// pcapng (draft-ietf-opsawg-pcapng).
inline constexpr std::uint32_t kSectionHeader = 0x0a0d0d0a;  // the same in both byte orders
inline constexpr std::uint32_t kByteOrderMagic = 0x1a2b3c4d;
inline constexpr std::uint32_t kInterfaceDescription = 1;
inline constexpr std::uint32_t kObsoletePacket = 2;
inline constexpr std::uint32_t kSimplePacket = 3;
inline constexpr std::uint32_t kInterfaceStatistics = 5;
inline constexpr std::uint32_t kEnhancedPacket = 6;
inline constexpr std::size_t kBlockHeader = 8;    // type, length
inline constexpr std::size_t kBlockTrailer = 4;   // length again
inline constexpr std::size_t kSectionBody = 16;   // magic, version, section length
inline constexpr std::size_t kInterfaceBody = 8;  // link type, reserved, snap length
inline constexpr std::size_t kEnhancedBody = 20;  // interface, time, captured, original
inline constexpr std::size_t kSimpleBody = 4;     // original
inline constexpr std::size_t kSectionLengthAt = 16;
inline constexpr std::size_t kInterfaceSnapLengthAt = 12;
inline constexpr std::size_t kEnhancedCapturedAt = 20;
inline constexpr std::uint16_t kOptionEnd = 0;
inline constexpr std::uint16_t kOptionHash = 3;  // epb_hash: of the packet as it was

inline std::uint32_t load32(const std::uint8_t* p, bool swapped) {
  std::uint32_t value;
  std::memcpy(&value, p, sizeof value);
  return swapped ? std::byteswap(value) : value;
}
inline std::uint16_t load16(const std::uint8_t* p, bool swapped) {
  std::uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return swapped ? std::byteswap(value) : value;
}
inline void store32(std::uint8_t* p, std::uint32_t value, bool swapped) {
  if (swapped) value = std::byteswap(value);
  std::memcpy(p, &value, sizeof value);
}
constexpr std::size_t padded(std::size_t size) { return (size + 3) & ~std::size_t{3}; }

}  // namespace psp::pcap
