// SPDX-License-Identifier: Apache-2.0
//
// Files with keys, read word by word. Error messages say where, not what: what stands there may be
// a key. The key log passes over what it does not know, so that it can share a file with TLS's; the
// reference's configuration has a fixed order, and the first word that is wrong ends it. A key goes
// from the text straight into a Secret, and lines are written in one place: a string that grows
// leaves copies behind. The caller wipes the text itself (psp-pcap/capture_keys.cc).
#include "pcap/keys.hh"

#include <arpa/inet.h>
#include <charconv>
#include <fmt/format.h>
#include <memory>

#include "wire/version_text.hh"

namespace psp::pcap {
namespace {

using Error = std::unexpected<std::string>;
using Key = crypto::Secret<32>;

constexpr std::string_view kSpace = " \t\r\n\v\f";
constexpr std::size_t kDeviceKeySize = 32;

// next_word takes the next word from the front of `text`; empty at the end.
std::string_view next_word(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
  const auto word = text.substr(0, text.find_first_of(kSpace));
  text.remove_prefix(word.size());
  return word;
}

template <typename T>
std::optional<T> number_of(std::string_view word, int base) {
  if (base == 16 && (word.starts_with("0x") || word.starts_with("0X"))) word.remove_prefix(2);
  T value{};
  const char* last = std::to_address(word.end());
  const auto [end, error] = std::from_chars(std::to_address(word.begin()), last, value, base);
  if (word.empty() || error != std::errc() || end != last) return std::nullopt;
  return value;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

// append_hex adds the octets of a word of hex digits to `key`; false if it is none or is too long.
bool append_hex(std::string_view word, Key& key) {
  if (word.empty() || word.size() % 2 != 0 || key.size() + word.size() / 2 > kDeviceKeySize)
    return false;
  for (; !word.empty(); word.remove_prefix(2)) {
    const std::size_t at = key.size();
    const auto octet = hex_digit(word[0]) < 0 || hex_digit(word[1]) < 0
                           ? -1
                           : hex_digit(word[0]) << 4 | hex_digit(word[1]);
    if (octet < 0) return false;
    key.resize(at + 1);
    key.data()[at] = static_cast<std::uint8_t>(octet);
  }
  return true;
}

// read_device_key takes 32 octets: one word of 64 digits, or the reference's words of one octet.
bool read_device_key(std::string_view& text, Key& key) {
  while (key.size() < kDeviceKeySize) {
    auto word = next_word(text);
    if (word.starts_with("0x") || word.starts_with("0X")) word.remove_prefix(2);
    if (word.size() == 1) {
      const auto octet = number_of<std::uint8_t>(word, 16);
      if (!octet) return false;
      key.resize(key.size() + 1);
      key.data()[key.size() - 1] = *octet;
    } else if (!append_hex(word, key)) {
      return false;
    }
  }
  return true;
}

std::expected<CryptOffset, std::string> read_offset(std::string_view& text, const char* what) {
  const auto units = number_of<unsigned>(next_word(text), 10);
  if (!units) return Error(fmt::format("the {} crypt offset is missing or no number", what));
  // The reference takes 64 too, and then writes it into the reserved bits.
  if (*units > CryptOffset::kMaxUnits)
    return Error(fmt::format("the {} crypt offset {} is more than the field can hold ({})", what,
                             *units, CryptOffset::kMaxUnits));
  return CryptOffset{static_cast<std::uint8_t>(*units)};
}

std::expected<Configuration::Sealing, std::string> read_sealing(std::string_view text) {
  Configuration::Sealing sealing;
  const auto spi = number_of<std::uint32_t>(next_word(text), 16);
  if (!spi) return Error("the SPI is missing or no hex number of 32 bits");
  sealing.spi = {*spi};
  if (!sealing.spi.valid()) return Error("this SPI is reserved: its low 31 bits are zero");
  const auto mode = next_word(text);
  if (mode != "transport" && mode != "tunnel")
    return Error("the mode is neither transport nor tunnel");
  sealing.tunnel = mode == "tunnel";
  const auto algorithm = next_word(text);
  const auto version = algorithm.starts_with("aes-") ? parse_version(algorithm) : std::nullopt;
  if (!version) return Error("the algorithm is neither aes-gcm-128 nor aes-gcm-256");
  sealing.version = *version;
  for (const auto& [offset, what] : {std::pair{&sealing.transport_offset, "transport"},
                                     std::pair{&sealing.ipv4_offset, "IPv4 tunnel"},
                                     std::pair{&sealing.ipv6_offset, "IPv6 tunnel"}}) {
    const auto read = read_offset(text, what);
    if (!read) return Error(read.error());
    *offset = *read;
  }
  const auto cookie = next_word(text);
  if (cookie != "vc" && cookie != "no-vc") return Error("the cookie word is neither vc nor no-vc");
  sealing.cookie = cookie == "vc";
  return sealing;
}

std::expected<void, std::string> read_key_words(std::string_view& line, bool sa, KeyEntry& entry) {
  if (sa) {
    const auto version = parse_version(next_word(line));
    if (!version) return Error("no such PSP version");
    const auto spi = number_of<std::uint32_t>(next_word(line), 16);
    if (!spi) return Error("the SPI is no hex number of 32 bits");
    entry.version = *version;
    entry.spi = {*spi};
  } else {
    const auto index = number_of<std::uint8_t>(next_word(line), 10);
    if (!index || *index > 1) return Error("the index of a device key is 0 or 1");
    entry.kind = KeyEntry::Kind::kDevice;
    entry.index = *index;
  }
  const std::size_t size = sa ? key_size(entry.version) : kDeviceKeySize;
  if (!append_hex(next_word(line), entry.key) || entry.key.size() != size)
    return Error(fmt::format("the key is not {} hex digits", 2 * size));
  const auto destination = next_word(line);
  if (destination.empty() || destination == "-") return {};
  entry.destination = parse_address(destination);
  if (!entry.destination) return Error("the destination is no IP address");
  return {};
}

}  // namespace

std::optional<IpHost> parse_address(std::string_view text) {
  const std::string terminated(text);
  IpHost address;
  if (inet_pton(AF_INET, terminated.c_str(), address.octets.data()) == 1) return address;
  address = {.family = 6};
  if (inet_pton(AF_INET6, terminated.c_str(), address.octets.data()) == 1) return address;
  return std::nullopt;
}

std::string to_text(const IpHost& address) {
  char text[INET6_ADDRSTRLEN] = "?";
  inet_ntop(address.family == 4 ? AF_INET : AF_INET6, address.octets.data(), text, sizeof text);
  return text;
}

std::expected<std::vector<KeyEntry>, std::string> parse_key_log(std::string_view text) {
  std::vector<KeyEntry> entries;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const auto end = text.find('\n');
    auto line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    const auto label = next_word(line);
    if (label != "PSP_SA" && label != "PSP_DEVICE_KEY") continue;
    KeyEntry entry;
    if (const auto read = read_key_words(line, label == "PSP_SA", entry); !read)
      return Error(fmt::format("line {}: {}", number, read.error()));
    entries.push_back(std::move(entry));
  }
  return entries;
}

std::string key_log_line(const KeyEntry& entry) {
  constexpr std::size_t kLongest = 160;
  std::string line;
  line.reserve(kLongest);  // in one place: growing would leave copies of the key behind
  const auto end = std::back_inserter(line);
  if (entry.kind == KeyEntry::Kind::kSa)
    fmt::format_to(end, "PSP_SA {} {:08x} ", static_cast<unsigned>(entry.version), entry.spi.value);
  else
    fmt::format_to(end, "PSP_DEVICE_KEY {} ", entry.index);
  for (const std::uint8_t octet : entry.key.span()) fmt::format_to(end, "{:02x}", octet);
  if (entry.destination) fmt::format_to(end, " {}", to_text(*entry.destination));
  line += '\n';
  return line;
}

std::expected<Configuration, std::string> parse_configuration(std::string_view text, bool sealing) {
  Configuration configuration;
  for (std::size_t i = 0; i < 2; ++i)
    if (!read_device_key(text, configuration.device_keys[i]))
      return Error(fmt::format("device key {} is not 32 octets in hex", i));
  if (!sealing) return configuration;
  const auto rest = read_sealing(text);
  if (!rest) return Error(rest.error());
  configuration.sealing = *rest;
  return configuration;
}

std::expected<Key, std::string> parse_key(std::string_view text) {
  Key key;
  for (auto word = next_word(text); !word.empty(); word = next_word(text))
    if (!append_hex(word, key)) return Error("not 16 or 32 octets in hex");
  if (key.size() != 16 && key.size() != 32) return Error("not 16 or 32 octets in hex");
  return key;
}

}  // namespace psp::pcap
