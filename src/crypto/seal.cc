// SPDX-License-Identifier: Apache-2.0
//
// Sealing and opening of datagrams and packets. The payload moves once, through the cipher; what is
// copied besides are headers, what the crypt offset leaves in clear, and the payload of the GMAC
// versions, which no cipher moves.
//
// `tail` below is all between the PSP base header and the ICV: cookie and extension, then the inner
// packet. The crypt offset counts from its start.
#include "crypto/seal.hh"

#include <cstring>

#include "require.hh"

namespace psp::crypto {
namespace {

// clear_size is how much of a tail stays in clear.
std::size_t clear_size(Version version, CryptOffset offset, std::size_t tail_size) {
  return encrypts(version) ? offset.octets() : tail_size;
}

void copy(std::uint8_t* to, const std::uint8_t* from, std::size_t size) {
  if (to != from && size != 0) std::memcpy(to, from, size);
}

}  // namespace

void seal_datagram(Aead& aead, Version version, std::span<std::uint8_t> out,
                   std::size_t header_size, std::span<const std::uint8_t> inner) {
  require(header_size >= kPspBaseHeader && out.size() >= header_size + inner.size() + kIcv,
          "the datagram has room for header, payload and ICV");
  std::uint8_t* tail = out.data() + kPspBaseHeader;
  const std::size_t extension = header_size - kPspBaseHeader;
  const std::size_t tail_size = extension + inner.size();
  const std::size_t clear = clear_size(version, wire::crypt_offset_of(out.data()), tail_size);
  require(clear <= tail_size, "the crypt offset lies in the packet");

  // Plaintext is one piece only where it starts: in `inner`, or in `out` if it begins with a part
  // of the extension, which is rare and worth a copy.
  const bool splits_extension = clear < extension;
  const std::size_t to_copy = splits_extension ? inner.size() : clear - extension;
  copy(tail + extension, inner.data(), to_copy);
  const std::span<const std::uint8_t> plain =
      splits_extension ? std::span<const std::uint8_t>(tail + clear, tail_size - clear)
                       : inner.subspan(clear - extension);
  aead.seal(wire::nonce_of(out.data()), out.first(kPspBaseHeader + clear), plain, tail + clear,
            tail + tail_size);
}

bool open_datagram(Aead& aead, Version version, const wire::PspHeader& header,
                   std::span<const std::uint8_t> in, std::uint8_t* out) {
  require(in.size() >= header.size() + kIcv, "the datagram was parsed");
  const auto tail = in.subspan(kPspBaseHeader, in.size() - kPspBaseHeader - kIcv);
  const std::size_t clear = clear_size(version, header.crypt_offset, tail.size());
  require(clear <= tail.size(), "the crypt offset lies in the packet");
  if (!aead.open(wire::nonce_of(in.data()), in.first(kPspBaseHeader + clear), tail.subspan(clear),
                 out + clear, tail.data() + tail.size()))
    return false;
  copy(out, tail.data(), clear);
  return true;
}

std::expected<std::size_t, Drop> seal_packet(Aead& aead, const wire::EncapOptions& options,
                                             std::span<const std::uint8_t> clear,
                                             std::span<std::uint8_t> out) {
  const auto packet = wire::write_outer(clear, options, out);
  if (!packet) return std::unexpected(packet.error());
  const std::size_t total = packet->icv_offset + kIcv;
  const auto inner =
      clear.subspan(packet->ip.header_length, packet->icv_offset - packet->inner_offset);
  seal_datagram(aead, options.version, out.subspan(packet->psp_offset, total - packet->psp_offset),
                packet->header.size(), inner);
  return total;
}

std::expected<std::size_t, Drop> open_packet(Aead& aead, const wire::PspPacket& packet,
                                             std::span<const std::uint8_t> in,
                                             std::span<std::uint8_t> out) {
  const auto version = packet.header.version();
  if (!version) return std::unexpected(Drop::BAD_VERSION);
  require(packet.icv_offset + kIcv <= in.size() && out.size() >= in.size(),
          "the packet was parsed and there is room for it");
  const std::size_t ip_header = packet.ip.header_length;
  const std::size_t extension = packet.header.size() - kPspBaseHeader;
  const std::size_t inner_size = packet.icv_offset - packet.inner_offset;
  const auto datagram = in.subspan(packet.psp_offset, packet.icv_offset + kIcv - packet.psp_offset);

  // The extension comes out in front of the inner packet. If it is short it goes where the IP
  // header will be written over it; if not, the inner packet has to be moved.
  const bool fits = extension <= ip_header;
  std::uint8_t* tail = fits ? out.data() + ip_header - extension : out.data();
  if (!open_datagram(aead, *version, packet.header, datagram, tail))
    return std::unexpected(Drop::AUTH_FAIL);
  if (!fits) std::memmove(out.data() + ip_header, tail + extension, inner_size);
  std::memcpy(out.data(), in.data(), ip_header);
  wire::set_ip_payload(out, packet.ip, inner_size, packet.header.next_header);
  return ip_header + inner_size;
}

std::expected<std::size_t, Drop> seal_tunnel_packet(Aead& aead, const wire::EncapOptions& options,
                                                    const wire::OuterIp& outer,
                                                    std::span<const std::uint8_t> clear,
                                                    std::span<std::uint8_t> out) {
  const auto packet = wire::write_tunnel_outer(clear, options, outer, out);
  if (!packet) return std::unexpected(packet.error());
  const std::size_t total = packet->icv_offset + kIcv;
  seal_datagram(aead, options.version, out.subspan(packet->psp_offset, total - packet->psp_offset),
                packet->header.size(), clear.first(packet->icv_offset - packet->inner_offset));
  return total;
}

std::expected<std::size_t, Drop> open_tunnel_packet(Aead& aead, const wire::PspPacket& packet,
                                                    std::span<const std::uint8_t> in,
                                                    std::span<std::uint8_t> out, EcnAtExit ecn) {
  const auto version = packet.header.version();
  if (!version) return std::unexpected(Drop::BAD_VERSION);
  require(packet.icv_offset + kIcv <= in.size() && out.size() >= in.size(),
          "the packet was parsed and there is room for it");
  const std::size_t extension = packet.header.size() - kPspBaseHeader;
  const std::size_t inner_size = packet.icv_offset - packet.inner_offset;
  const auto datagram = in.subspan(packet.psp_offset, packet.icv_offset + kIcv - packet.psp_offset);
  if (!open_datagram(aead, *version, packet.header, datagram, out.data()))
    return std::unexpected(Drop::AUTH_FAIL);
  if (extension != 0) std::memmove(out.data(), out.data() + extension, inner_size);
  const auto inner = out.first(inner_size);
  if (const auto refused = wire::check_inner(inner, packet.header.next_header))
    return std::unexpected(*refused);
  if (ecn == EcnAtExit::kMerge)
    if (const auto refused = wire::merge_ecn(inner, in)) return std::unexpected(*refused);
  return inner_size;
}

}  // namespace psp::crypto
