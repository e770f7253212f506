// SPDX-License-Identifier: Apache-2.0
//
// Octets from the network and from the local stack, as IP packets. Received: parsed and opened
// under the key that the specification's device keys give its SPI, so that the reference packets of
// the corpus get through to the end. Sent: sealed, and then it has to come back as it was. Both
// backends must agree on all of it.
//
// Input: 4 octets of choices for the sender (see read_choices), then the packet.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "crypto/seal.hh"
#include "wire/bytes.hh"
#include "wire/checksum.hh"

namespace psp {
namespace {

using Octets = std::vector<std::uint8_t>;

constexpr std::size_t kChoices = 4;

// check ends the run where an invariant does not hold; the fuzzer then keeps the input.
void check(bool held) {
  if (!held) std::abort();
}

constexpr std::array<std::uint8_t, 32> kDeviceKeys[2] = {
    {0x34, 0x44, 0x8a, 0x06, 0x42, 0x92, 0x60, 0x1b, 0x11, 0xa0, 0x97,
     0x8f, 0x56, 0xa2, 0xd3, 0x4c, 0xf3, 0xfc, 0x35, 0xed, 0xe1, 0xa6,
     0xbc, 0x04, 0xf8, 0xdb, 0x3e, 0x52, 0x43, 0xa2, 0xb0, 0xca},
    {0x56, 0x39, 0x52, 0x56, 0x5d, 0x3a, 0x78, 0xae, 0x77, 0x3e, 0xc1,
     0xb7, 0x79, 0xf2, 0xf2, 0xd9, 0x9f, 0x4a, 0x7f, 0x53, 0xa6, 0xfb,
     0xb9, 0xb0, 0x7d, 0x5b, 0x71, 0xf3, 0x93, 0x64, 0xd7, 0x39}};

// Engine is one backend with both device keys.
class Engine {
 public:
  explicit Engine(const crypto::Backend& backend)
      : aead_(backend.make_aead()),
        kdfs_{backend.make_kdf(crypto::DeviceKey(kDeviceKeys[0])),
              backend.make_kdf(crypto::DeviceKey(kDeviceKeys[1]))} {}

  crypto::Aead& with_key(Version version, Spi spi) {
    crypto::SaKey key;
    kdfs_[spi.phase()]->derive(version, spi, key);
    aead_->rekey(version, key.span());
    return *aead_;
  }

 private:
  std::unique_ptr<crypto::Aead> aead_;
  std::array<std::unique_ptr<crypto::Kdf>, 2> kdfs_;
};

std::vector<Engine>& engines() {
  static std::vector<Engine> all = [] {
    std::vector<Engine> made;
    made.emplace_back(crypto::openssl_backend());
    if (crypto::ipsec_mb_backend()) made.emplace_back(*crypto::ipsec_mb_backend());
    return made;
  }();
  return all;
}

std::expected<Octets, Drop> open_with(Engine& engine, const wire::PspPacket& packet,
                                      std::span<const std::uint8_t> in) {
  const auto version = packet.header.version();
  if (!version) return std::unexpected(Drop::BAD_VERSION);
  Octets out(in.size());
  const auto size =
      crypto::open_packet(engine.with_key(*version, packet.header.spi), packet, in, out);
  if (!size) return std::unexpected(size.error());
  out.resize(*size);
  return out;
}

void check_parts(const wire::PspPacket& packet, std::span<const std::uint8_t> in) {
  check(packet.psp_offset + kPspBaseHeader <= packet.inner_offset);
  check(packet.inner_offset <= packet.icv_offset);
  check(packet.icv_offset + kIcv == packet.ip.total_length);
  check(packet.ip.total_length <= in.size());
}

void receive(std::span<const std::uint8_t> in) {
  (void)wire::parse_header(in);
  const auto packet = wire::parse_packet(in);
  if (!packet) return;
  check_parts(*packet, in);
  const auto first = open_with(engines().front(), *packet, in);
  for (Engine& engine : engines()) check(open_with(engine, *packet, in) == first);
  if (!first) return;
  const auto clear = wire::parse_ip(*first);
  check(clear && clear->total_length == first->size());
  check(clear->protocol == packet->header.next_header);
}

wire::EncapOptions read_choices(std::span<const std::uint8_t> choices) {
  wire::EncapOptions options;
  options.version = *to_version(choices[0] & 3u);
  if (choices[0] & 4u) options.cookie = 0x0123456789abcdefu * choices[3];
  options.crypt_offset = {static_cast<std::uint8_t>(choices[1] & CryptOffset::kMaxUnits)};
  options.spi = {choices[2] | (choices[0] & 8u ? Spi::kPhaseBit : 0u)};
  options.iv = choices[3];
  options.source_port = static_cast<std::uint16_t>(choices[2] << 8 | choices[3]);
  return options;
}

void send(const wire::EncapOptions& options, std::span<const std::uint8_t> clear) {
  const auto ip = wire::parse_ip(clear);
  if (ip) check(ip->header_length <= ip->total_length && ip->total_length <= clear.size());
  Octets first;
  for (Engine& engine : engines()) {
    Octets out(wire::sealed_size(clear.size(), options.cookie.has_value()));
    const auto size =
        crypto::seal_packet(engine.with_key(options.version, options.spi), options, clear, out);
    if (!size) return;
    out.resize(*size);
    if (first.empty()) first = out;
    check(out == first);
    const auto packet = wire::parse_packet(out);
    check(packet.has_value());
    const auto opened = open_with(engine, *packet, out);
    check(opened.has_value());
    // Padding is gone and the header checksum is right, whatever it was.
    Octets expected(clear.begin(), clear.begin() + ip->total_length);
    wire::set_ip_payload(expected, *ip, ip->total_length - ip->header_length, ip->protocol);
    check(*opened == expected);
  }
}

// with_checksum is the packet with its IPv4 header checksum put right, without which few inputs
// would get past it.
Octets with_checksum(std::span<const std::uint8_t> in) {
  Octets packet(in.begin(), in.end());
  if (const auto ip = wire::parse_ip(packet))
    wire::set_ip_payload(packet, *ip, ip->total_length - ip->header_length, ip->protocol);
  return packet;
}

}  // namespace
}  // namespace psp

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < psp::kChoices) return 0;
  const std::span<const std::uint8_t> input(data, size);
  const auto packet = input.subspan(psp::kChoices);
  psp::receive(packet);
  psp::receive(psp::with_checksum(packet));
  psp::send(psp::read_choices(input), packet);
  return 0;
}
