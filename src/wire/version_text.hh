// SPDX-License-Identifier: Apache-2.0
//
// PSP versions as people write them, in options of every program: "hdr0-aes-gcm-128", "aes-gcm-128"
// or "0"; lists of them with commas; "all" and "none". Two lists are told apart, since "all" is a
// trap: what a device may receive has GMAC in it, which encrypts nothing, and what a connection
// shall use must not have that by accident. Errors name the word, not the list.
#pragma once

#include <expected>
#include <optional>
#include <string>
#include <string_view>

#include "wire/types.hh"

namespace psp {

// parse_version reads "hdr0-aes-gcm-128", "aes-gcm-128" or "0".
std::optional<Version> parse_version(std::string_view text);

// parse_versions reads a comma separated list of versions, "all" or "none". On error it returns the
// word that is no version.
std::expected<VersionSet, std::string_view> parse_versions(std::string_view list);

// parse_versions_to_use reads such a list for a connection that carries data: "all" are those that
// encrypt, for GMAC leaves everything readable and must be named.
std::expected<VersionSet, std::string_view> parse_versions_to_use(std::string_view list);

// readable names the versions of a set that do not encrypt, with commas; empty: all do.
std::string readable(VersionSet versions);

// kVersionWords is what to write into an error message about such a word.
inline constexpr std::string_view kVersionWords =
    "aes-gcm-128 (0), aes-gcm-256 (1), aes-gmac-128 (2), aes-gmac-256 (3), separated by commas";

}  // namespace psp
