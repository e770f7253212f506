// SPDX-License-Identifier: Apache-2.0
//
// What two offers come to: a version, or a sentence that says why there is none. The order of the
// versions is part of the protocol: another one here and there, and the two ends would choose
// differently. Encrypting versions come first whatever their keys, so that GMAC is taken only where
// nothing else is in common; offers are inside TLS, so nobody on the way can bring that about.
#include "keyx/versions.hh"

#include <fmt/format.h>

namespace psp::keyx {

std::string names(VersionSet set) {
  std::string out;
  for (unsigned i = 0; i < kVersions; ++i) {
    const auto version = static_cast<Version>(i);
    if (set.has(version)) out += (out.empty() ? "" : ", ") + std::string(name(version));
  }
  return out.empty() ? "none" : out;
}

std::optional<Version> choose_version(VersionSet a, VersionSet b) {
  for (Version version :
       {Version::kAesGcm256, Version::kAesGcm128, Version::kAesGmac256, Version::kAesGmac128})
    if (a.has(version) && b.has(version)) return version;
  return std::nullopt;
}

std::string side_says(const char* who, const Offer& offer) {
  if (offer.versions.bits != 0) return fmt::format("{} can receive {}", who, names(offer.versions));
  return fmt::format("{} cannot receive PSP{}{}", who, offer.reason.empty() ? "" : ": ",
                     offer.reason);
}

}  // namespace psp::keyx
