// SPDX-License-Identifier: Apache-2.0
//
// Sealing and opening of corpus cases, and the file that they stand in. A case may have any octets
// between PSP header and inner packet, which no sender of the library writes: so seal() takes IP
// and UDP from the library and writes the PSP header itself. receive() is the library's receiver as
// it is.
//
// read_json trusts its file but for the format's name: it reads the committed corpus, or one that
// was just made, and throws where a field is missing.
#include "corpus.hh"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "wire/bytes.hh"
#include "wire/tunnel.hh"

namespace psp::conformance {
namespace {

std::string_view kind_name(Case::Kind kind) {
  return kind == Case::Kind::kSeal ? "seal" : kind == Case::Kind::kOpen ? "open" : "drop";
}

void add(std::string& line, std::string_view key, std::string_view text) {
  line += fmt::format(",\"{}\":\"{}\"", key, text);
}
void add(std::string& line, std::string_view key, unsigned number) {
  line += fmt::format(",\"{}\":{}", key, number);
}

void add_sender(std::string& line, const Keys& keys, const Case& one) {
  add(line, "mode", one.tunnel ? "tunnel" : "transport");
  add(line, "mixed", one.mixed ? 1u : 0u);
  add(line, "version", static_cast<unsigned>(one.version));
  add(line, "spi", fmt::format("{:08x}", one.spi.value));
  add(line, "iv", fmt::format("{:016x}", one.iv));
  add(line, "crypt_offset", one.crypt_offset.units);
  add(line, "cookie", one.cookie ? 1u : 0u);
  add(line, "extension", to_hex(one.extension));
  add(line, "source_port", one.source_port);
  add(line, "sa_key", to_hex(keys.derive(one.version, one.spi).span()));
}

std::string line_of(const Keys& keys, const Case& one) {
  std::string line = fmt::format("{{\"name\":\"{}\"", one.name);
  add(line, "kind", kind_name(one.kind));
  if (one.kind == Case::Kind::kSeal) add_sender(line, keys, one);
  if (one.kind == Case::Kind::kDrop) {
    add(line, "reason", name(one.reason));
    add(line, "counter", counter_name(one.reason));
    if (one.or_ignore) add(line, "or_ignore", 1u);
  } else {
    add(line, "clear", to_hex(one.clear));
  }
  if (one.open_question) add(line, "open_question", 1u);
  add(line, "packet", to_hex(one.packet));
  return line + "}";
}

Drop drop_named(std::string_view wanted) {
  for (unsigned number = 1; number < PSP_DROP_MAX; ++number)
    if (name(Drop{static_cast<std::uint8_t>(number)}) == wanted)
      return Drop{static_cast<std::uint8_t>(number)};
  return Drop{0};
}

Case case_of(const nlohmann::json& json) {
  Case one;
  one.name = json.at("name");
  const std::string kind = json.at("kind");
  one.kind = kind == "seal"   ? Case::Kind::kSeal
             : kind == "open" ? Case::Kind::kOpen
                              : Case::Kind::kDrop;
  one.packet = from_hex(json.at("packet").get<std::string>());
  if (json.contains("clear")) one.clear = from_hex(json.at("clear").get<std::string>());
  if (json.contains("reason")) one.reason = drop_named(json.at("reason").get<std::string>());
  one.or_ignore = json.contains("or_ignore");
  one.open_question = json.contains("open_question");
  if (one.kind != Case::Kind::kSeal) return one;
  one.tunnel = json.at("mode") == "tunnel";
  one.mixed = json.at("mixed") == 1;
  one.version = *to_version(json.at("version").get<unsigned>());
  one.spi = {
      static_cast<std::uint32_t>(std::stoul(json.at("spi").get<std::string>(), nullptr, 16))};
  one.iv = std::stoull(json.at("iv").get<std::string>(), nullptr, 16);
  one.crypt_offset = {json.at("crypt_offset").get<std::uint8_t>()};
  one.cookie = json.at("cookie") == 1;
  one.extension = from_hex(json.at("extension").get<std::string>());
  one.source_port = json.at("source_port");
  return one;
}

// other_family are the ends of a tunnel of that family: documentation addresses.
wire::Endpoints other_family(std::uint8_t family) {
  wire::Endpoints endpoints{.family = family};
  const Octets source = family == 4 ? Octets{192, 0, 2, 1} : Octets{0x20, 0x01, 0x0d, 0xb8};
  std::ranges::copy(source, endpoints.source.begin());
  endpoints.destination = endpoints.source;
  endpoints.destination[3] = family == 4 ? 2 : 0xb8;
  endpoints.destination[15] = 2;
  return endpoints;
}

// outer_headers writes IP and UDP for a case without extension; returns where UDP starts.
std::size_t outer_headers(const Case& one, Octets& out) {
  wire::EncapOptions options{.version = one.version, .source_port = one.source_port};
  std::expected<wire::PspPacket, Drop> written;
  if (one.tunnel) {
    wire::TunnelPolicy policy;
    if (one.mixed) policy.endpoints = other_family(one.clear[0] >> 4 == 4 ? 6 : 4);
    const auto outer = wire::outer_ip_of(one.clear, policy);
    written = wire::write_tunnel_outer(one.clear, options, *outer, out);
  } else {
    written = wire::write_outer(one.clear, options, out);
  }
  if (!written) throw std::runtime_error(fmt::format("{}: {}", one.name, name(written.error())));
  return written->psp_offset - kUdpHeader;
}

}  // namespace

Octets from_hex(std::string_view hex) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  Octets octets(hex.size() / 2);
  for (std::size_t i = 0; i < octets.size(); ++i)
    octets[i] = static_cast<std::uint8_t>(digit(hex[2 * i]) << 4 | digit(hex[2 * i + 1]));
  return octets;
}

std::string to_hex(std::span<const std::uint8_t> octets) {
  std::string hex;
  hex.reserve(2 * octets.size());
  for (const std::uint8_t octet : octets) {
    hex += "0123456789abcdef"[octet >> 4];
    hex += "0123456789abcdef"[octet & 15];
  }
  return hex;
}

Keys::Keys(const crypto::Backend& backend) : aead_(backend.make_aead()) {
  for (int i = 0; i < 2; ++i)
    kdfs_[i] = backend.make_kdf(crypto::DeviceKey(from_hex(kDeviceKeyHex[i])));
}

crypto::SaKey Keys::derive(Version version, Spi spi) const {
  crypto::SaKey key;
  kdfs_[spi.phase()]->derive(version, spi, key);
  return key;
}

crypto::Aead& Keys::aead(Version version, Spi spi) {
  aead_->rekey(version, derive(version, spi).span());
  return *aead_;
}

Octets seal(Keys& keys, const Case& one) {
  Octets out(one.clear.size() + one.extension.size() + 200);
  const std::size_t udp = outer_headers(one, out);
  const auto clear_ip = wire::parse_ip(one.clear);
  const std::size_t skip = one.tunnel ? 0 : clear_ip->header_length;
  const auto inner = std::span(one.clear).subspan(skip, clear_ip->total_length - skip);
  // The headers again, with the extension in them.
  const std::size_t header_size = kPspBaseHeader + one.extension.size();
  const std::size_t ip_payload = kUdpHeader + header_size + inner.size() + kIcv;
  const auto outer = wire::parse_ip(std::span(out).first(out.size()));
  wire::set_ip_payload(out, *outer, ip_payload, wire::kProtocolUdp);
  wire::store_be(out.data() + udp + 4, static_cast<std::uint16_t>(ip_payload));
  wire::PspHeader header{.next_header = one.tunnel ? (clear_ip->family == 4 ? wire::kProtocolIpv4
                                                                            : wire::kProtocolIpv6)
                                                   : clear_ip->protocol,
                         .ext_length = static_cast<std::uint8_t>(header_size / 8 - 1),
                         .crypt_offset = one.crypt_offset,
                         .version_number = static_cast<std::uint8_t>(one.version),
                         .spi = one.spi,
                         .iv = one.iv};
  if (one.cookie) header.cookie = wire::load_be<std::uint64_t>(one.extension.data());
  const std::size_t psp = udp + kUdpHeader;
  wire::write_header(std::span(out).subspan(psp), header);
  std::ranges::copy(one.extension, out.begin() + static_cast<std::ptrdiff_t>(psp + kPspBaseHeader));
  const auto datagram = std::span(out).subspan(psp, header_size + inner.size() + kIcv);
  crypto::seal_datagram(keys.aead(one.version, one.spi), one.version, datagram, header_size, inner);
  out.resize(psp + datagram.size());
  return out;
}

std::expected<Octets, Drop> receive(Keys& keys, std::span<const std::uint8_t> in) {
  const auto packet = wire::parse_packet(in);
  if (!packet) return std::unexpected(packet.error());
  const auto version = packet->header.version();
  if (!version) return std::unexpected(Drop::BAD_VERSION);
  if (!packet->header.spi.valid()) return std::unexpected(Drop::BAD_SPI);
  Octets out(in.size());
  auto& aead = keys.aead(*version, packet->header.spi);
  const auto size =
      wire::is_tunnel(packet->header.next_header)
          ? crypto::open_tunnel_packet(aead, *packet, in, out, crypto::EcnAtExit::kMerge)
          : crypto::open_packet(aead, *packet, in, out);
  if (!size) return std::unexpected(size.error());
  out.resize(*size);
  return out;
}

std::string to_json(const Keys& keys, const std::vector<Case>& cases, std::uint64_t seed) {
  std::string text = fmt::format(
      "{{\"format\":\"psp-conformance-1\",\"seed\":{},\"device_key_0\":\"{}\","
      "\"device_key_1\":\"{}\",\"cases\":[\n",
      seed, kDeviceKeyHex[0], kDeviceKeyHex[1]);
  for (std::size_t i = 0; i < cases.size(); ++i)
    text += line_of(keys, cases[i]) + (i + 1 < cases.size() ? ",\n" : "\n");
  return text + "]}\n";
}

std::vector<Case> read_json(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  std::vector<Case> cases;
  if (json.is_discarded() || json.value("format", "") != "psp-conformance-1") return cases;
  for (const auto& one : json.at("cases")) cases.push_back(case_of(one));
  return cases;
}

}  // namespace psp::conformance
