// SPDX-License-Identifier: Apache-2.0
//
// Files with keys as a user might give them: the reference's configuration, a key log, one key.
// What was read keeps to its limits, and a key log that is written again reads as before.
//
// What is refused must come with a reason for the user: a sentence, or for a key log the line. Each
// input is shown to all three readers; sanitizers see to the rest.
//
// Input: the text of the file.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "pcap/keys.hh"

namespace psp::pcap {
namespace {

// check ends the run where an invariant does not hold; the fuzzer then keeps the input.
void check(bool held) {
  if (!held) std::abort();
}

void check_configuration(std::string_view text) {
  const auto keys = parse_configuration(text, false);
  const auto all = parse_configuration(text, true);
  if (keys)
    for (const auto& key : keys->device_keys) check(key.size() == 32);
  if (!all) return check(!all.error().empty());
  check(keys.has_value() && all->sealing.has_value());
  check(all->sealing->spi.valid());
  for (const auto offset :
       {all->sealing->transport_offset, all->sealing->ipv4_offset, all->sealing->ipv6_offset})
    check(offset.units <= CryptOffset::kMaxUnits);
}

void check_key_log(std::string_view text) {
  const auto log = parse_key_log(text);
  if (!log) return check(log.error().starts_with("line "));
  std::string written;
  for (const auto& entry : *log) {
    check(entry.key.size() ==
          (entry.kind == KeyEntry::Kind::kSa ? key_size(entry.version) : std::size_t{32}));
    written += key_log_line(entry);
  }
  const auto again = parse_key_log(written);
  check(again && again->size() == log->size());
  for (std::size_t i = 0; i < log->size(); ++i) {
    check(again->at(i).spi == log->at(i).spi && again->at(i).index == log->at(i).index);
    check(again->at(i).destination == log->at(i).destination);
    check(std::ranges::equal(again->at(i).key.span(), log->at(i).key.span()));
  }
}

}  // namespace
}  // namespace psp::pcap

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace psp::pcap;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  check_configuration(text);
  check_key_log(text);
  if (const auto key = parse_key(text)) check(key->size() == 16 || key->size() == 32);
  return 0;
}
