// SPDX-License-Identifier: Apache-2.0
//
// Capture files made by hand, in both formats and byte orders, for the tests of this layer and of
// psp-pcap. They know the numbers of the formats for themselves and not by octets.hh, so that one
// that is wrong there shows. Nothing is checked: broken files are made with it, too.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "pcap/record.hh"

namespace psp::pcap::test {

using Octets = std::vector<std::uint8_t>;

// FileMaker appends numbers in the byte order of the file.
class FileMaker {
 public:
  explicit FileMaker(bool swapped = false) : swapped_(swapped) {}
  FileMaker& u16(std::uint16_t value) { return put(swapped_ ? std::byteswap(value) : value); }
  FileMaker& u32(std::uint32_t value) { return put(swapped_ ? std::byteswap(value) : value); }
  FileMaker& octets(const Octets& more) {
    made.insert(made.end(), more.begin(), more.end());
    return *this;
  }
  FileMaker& pad() {
    while (made.size() % 4 != 0) made.push_back(0);
    return *this;
  }

  FileMaker& pcap_header(std::uint32_t link = kLinkEthernet, std::uint32_t snap = 65535,
                         std::uint32_t magic = 0xa1b2c3d4) {
    return u32(magic).u16(2).u16(4).u32(0).u32(0).u32(snap).u32(link);
  }
  FileMaker& pcap_packet(const Octets& packet, std::uint32_t original = 0) {
    const auto size = static_cast<std::uint32_t>(packet.size());
    return u32(1000).u32(999'999).u32(size).u32(original ? original : size).octets(packet);
  }
  FileMaker& block(std::uint32_t type, const FileMaker& body) {
    const auto size = static_cast<std::uint32_t>(12 + body.made.size());
    return u32(type).u32(size).octets(body.made).u32(size);
  }
  FileMaker& section() {
    return block(0x0a0d0d0a, FileMaker(swapped_).u32(0x1a2b3c4d).u16(1).u16(0).u32(~0u).u32(~0u));
  }
  FileMaker& interface(std::uint16_t link = kLinkEthernet, std::uint32_t snap = 0) {
    return block(1, FileMaker(swapped_).u16(link).u16(0).u32(snap));
  }
  FileMaker& enhanced(const Octets& packet, const Octets& options = {}, std::uint32_t where = 0) {
    const auto size = static_cast<std::uint32_t>(packet.size());
    return block(6, FileMaker(swapped_)
                        .u32(where)
                        .u32(1)
                        .u32(2)
                        .u32(size)
                        .u32(size)
                        .octets(packet)
                        .pad()
                        .octets(options));
  }

  Octets made;

 private:
  template <typename T>
  FileMaker& put(T value) {
    const auto* p = reinterpret_cast<const std::uint8_t*>(&value);
    made.insert(made.end(), p, p + sizeof value);
    return *this;
  }
  bool swapped_;
};

inline Octets octets_of(std::size_t size, std::uint8_t first = 1) {
  Octets octets(size);
  for (std::size_t i = 0; i < size; ++i) octets[i] = static_cast<std::uint8_t>(first + i * 7);
  return octets;
}

}  // namespace psp::pcap::test
