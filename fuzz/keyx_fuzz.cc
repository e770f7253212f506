// SPDX-License-Identifier: Apache-2.0
//
// Octets from a peer of the key exchange. Whatever is accepted must keep the promises of message.hh
// and come back the same when it is written and parsed again.
//
// Input: the message.
#include <cstdint>
#include <cstdlib>

#include <psp/keyx/message.hh>

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

}  // namespace
}  // namespace psp::keyx

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace psp::keyx;
  const std::span<const std::uint8_t> octets(data, size);
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
