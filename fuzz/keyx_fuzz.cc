// SPDX-License-Identifier: Apache-2.0
//
// Octets from a peer of the key exchange. Whatever is accepted must keep the promises of message.hh
// and come back the same when it is written and parsed again.
//
// Input: the message, ours (it begins with PSPX) or a TLV of fizz-v0. Each is shown to both
// parsers.
#include <cstdint>
#include <cstdlib>

#include "keyx/message.hh"

namespace psp::keyx {
namespace {

void check(bool held) {
  if (!held) std::abort();
}

void check_text(const std::string& text) {
  check(text.size() <= kTextMax);
  for (char c : text) check(c >= 0x20 && c < 0x7f);
}

void same(const Offer& a, const Offer& b) {
  check_text(a.reason);
  check(VersionSet::all().contains(a.versions));
  check(a.versions == b.versions && a.tls_allowed == b.tls_allowed && a.absence == b.absence &&
        a.reason == b.reason);
}

void same(const KeyMessage& a, const KeyMessage& b) {
  check(a.spi.valid() && a.key.size() == key_size(a.version));
  check(a.version == b.version && a.spi == b.spi &&
        crypto::constant_time_equal(a.key.span(), b.key.span()));
}

void same(const ErrorMessage& a, const ErrorMessage& b) {
  check_text(a.text);
  check(a.code == b.code && a.text == b.text);
}

void same(const FizzError& a, const FizzError& b) { check(a.code == b.code); }

// check_fizz: what stands behind an SA's 40 octets and in its padding does not come back.
void check_fizz(std::span<const std::uint8_t> octets) {
  const auto message = parse_fizz(octets);
  if (!message) return;
  check(octets.size() <= kFizzMax && octets.size() == kFizzHeader + octets[1]);
  std::visit(
      [](const auto& first) {
        const auto again = parse_fizz(serialize_fizz(first).span());
        check(again.has_value());
        const auto* second = std::get_if<std::decay_t<decltype(first)>>(&*again);
        check(second != nullptr);
        same(first, *second);
      },
      *message);
}

}  // namespace
}  // namespace psp::keyx

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace psp::keyx;
  const std::span<const std::uint8_t> octets(data, size);
  check_fizz(octets);
  const auto length = body_length(octets);
  const auto message = parse(octets);
  if (!message) return 0;
  check(length && *length + kMessageHeader == size && size <= kMessageMax);
  std::visit(
      [](const auto& first) {
        const auto again = parse(serialize(first).span());
        check(again.has_value());
        const auto* second = std::get_if<std::decay_t<decltype(first)>>(&*again);
        check(second != nullptr);
        same(first, *second);
      },
      *message);
  return 0;
}
