// SPDX-License-Identifier: Apache-2.0
//
// Datagrams in one piece: a host that leaves segmentation to its network card (GSO), or that joins
// what arrives (GRO), shows a capture several datagrams behind one UDP header, each as long as the
// first, the last one maybe shorter. Nothing in the packet says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace psp::pcap {

// joined_stride is the length of the PSP datagrams that `payload`, what stands behind a UDP header,
// is made of; 0 if it looks like one. Without a key that is a judgement: at every step there is
// a header like the first, by its fixed part, SPI, and IV. A header may be damaged here and there,
// and several SAs may take turns. Who has a key asks the ICV of the whole first.
std::size_t joined_stride(std::span<const std::uint8_t> payload);

}  // namespace psp::pcap
