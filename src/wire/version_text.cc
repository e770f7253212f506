// SPDX-License-Identifier: Apache-2.0
//
// A version is its number, its name in the kernel, or that name without what all of them begin
// with. "all" means what can be received, and for use only what encrypts: see
// parse_versions_to_use.
#include "wire/version_text.hh"

namespace psp {

std::optional<Version> parse_version(std::string_view text) {
  for (std::uint32_t number = 0; number < kVersions; number++) {
    const Version version = *to_version(number);
    const std::string_view full = name(version);
    const bool digit = text.size() == 1 && text[0] == static_cast<char>('0' + number);
    if (text == full || text == full.substr(full.find('-') + 1) || digit) return version;
  }
  return std::nullopt;
}

std::expected<VersionSet, std::string_view> parse_versions(std::string_view list) {
  if (list == "all") return VersionSet::all();
  if (list == "none") return VersionSet{};
  VersionSet versions;
  for (std::size_t comma = 0; comma != std::string_view::npos;) {
    comma = list.find(',');
    const std::string_view word = list.substr(0, comma);
    const auto version = parse_version(word);
    if (!version) return std::unexpected(word);
    versions.bits |= 1u << static_cast<unsigned>(*version);
    if (comma != std::string_view::npos) list.remove_prefix(comma + 1);
  }
  return versions;
}

std::expected<VersionSet, std::string_view> parse_versions_to_use(std::string_view list) {
  if (list != "all") return parse_versions(list);
  VersionSet versions;
  for (std::uint32_t number = 0; number < kVersions; number++)
    if (encrypts(*to_version(number))) versions.bits |= 1u << number;
  return versions;
}

std::string readable(VersionSet versions) {
  std::string names;
  for (std::uint32_t number = 0; number < kVersions; number++) {
    const Version version = *to_version(number);
    if ((versions.bits >> number & 1) == 0 || encrypts(version)) continue;
    if (!names.empty()) names += ", ";
    names += name(version);
  }
  return names;
}

}  // namespace psp
