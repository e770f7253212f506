// SPDX-License-Identifier: Apache-2.0
//
// Sealing and opening of PSP packets with a key at hand: the only place where header octets become
// nonce and AAD, as the PSP specification says of encryption, crypt offset and trailer
// (docs/protocol.md, sections 2 and 4).
//
//   nonce = header octets 4..15 (SPI, IV)
//   AAD   = header octets 0..15 and the clear part of what follows, as on the wire
//   GMAC  = everything up to the ICV is AAD, nothing is encrypted
//
// A nonce must never come twice under one key (see aead.hh). These functions take SPI and IV from
// the header that the caller has written: it is the caller who guarantees that no (key, SPI, IV)
// repeats. pspd does by one counter for all devices and workers, which never steps back
// (device::IvAllocator); by keys that are written nowhere and go with the process; and by dropping
// all of them where the machine with that counter may exist twice (kernel::VmForkEvents). A segment
// that TCP sends again gets another IV.
#pragma once

#include <cstdint>
#include <expected>
#include <span>

#include "crypto/aead.hh"
#include "wire/packet.hh"
#include "wire/tunnel.hh"

namespace psp::crypto {

// seal_datagram completes a PSP datagram (UDP payload) at `out`, under a nonce that this key never
// had (see above). The PSP header, `header_size` octets with cookie and extension, is already there
// in clear; `inner` follows it and then the ICV, so `out` has header_size + inner.size() + 16
// octets. `inner` either lies in its place in `out` or does not overlap it. The crypt offset is
// read from the header, in units of 4 octets from the end of the IV (section 2); it must lie in the
// packet. Never fails: lengths are the caller's to get right.
void seal_datagram(Aead& aead, Version version, std::span<std::uint8_t> out,
                   std::size_t header_size, std::span<const std::uint8_t> inner);

// open_datagram checks the PSP datagram `in` (PSP header .. ICV), already parsed as `header`, and
// writes everything behind the PSP base header (16 octets) up to the ICV in clear to `out`, which
// has in.size() - 32 octets: first cookie and extension, header.size() - 16 octets of them, then
// the inner packet. `out` is that same place in `in` or does not overlap it. False if the ICV does
// not match, also for an empty ciphertext; `out` is then useless.
[[nodiscard]] bool open_datagram(Aead& aead, Version version, const wire::PspHeader& header,
                                 std::span<const std::uint8_t> in, std::uint8_t* out);

// seal_packet turns a clear IP packet into a PSP packet in transport mode, written to `out`, which
// does not overlap `clear`.
// The key of options.version is already in `aead`. Returns its length. Errors: wire::write_outer's.
std::expected<std::size_t, Drop> seal_packet(Aead& aead, const wire::EncapOptions& options,
                                             std::span<const std::uint8_t> clear,
                                             std::span<std::uint8_t> out);

// open_packet turns a PSP packet, already parsed as `packet`, back into the clear IP packet,
// written to `out`, which has room for in.size() octets and does not overlap `in`. Returns its
// length. Errors: AUTH_FAIL, BAD_VERSION (none that is known).
std::expected<std::size_t, Drop> open_packet(Aead& aead, const wire::PspPacket& packet,
                                             std::span<const std::uint8_t> in,
                                             std::span<std::uint8_t> out);

// seal_tunnel_packet is seal_packet in tunnel mode: the whole IP packet `clear` goes into a packet
// with the outer header `outer` (see wire::outer_ip_of). Errors: wire::write_tunnel_outer's.
std::expected<std::size_t, Drop> seal_tunnel_packet(Aead& aead, const wire::EncapOptions& options,
                                                    const wire::OuterIp& outer,
                                                    std::span<const std::uint8_t> clear,
                                                    std::span<std::uint8_t> out);

// EcnAtExit is what a tunnel's end does with congestion marks on the outer header.
enum class EcnAtExit {
  kMerge,   // RFC 6040
  kIgnore,  // the reference implementation throws the outer header away
};

// open_tunnel_packet turns a PSP packet in tunnel mode (wire::is_tunnel of its Next Header) back
// into the inner IP packet, as open_packet does in transport mode. Errors: AUTH_FAIL, BAD_VERSION,
// BAD_INNER (no IP packet of that family and length inside), BAD_ECN.
std::expected<std::size_t, Drop> open_tunnel_packet(Aead& aead, const wire::PspPacket& packet,
                                                    std::span<const std::uint8_t> in,
                                                    std::span<std::uint8_t> out, EcnAtExit ecn);

}  // namespace psp::crypto
