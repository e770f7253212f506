// SPDX-License-Identifier: Apache-2.0
//
// The version that two sides settle on. Each computes it for itself, from both offers, and must
// come to the same. There is no message that says what was chosen, and none that could be changed;
// the version is in START, so that two ends that differ find out. Used by exchange.cc.
#pragma once

#include <optional>
#include <string>

#include "keyx/message.hh"
#include "wire/types.hh"

namespace psp::keyx {

// choose_version is the version that both sides settle on, whoever of them computes it: the best of
// those in both sets. Encrypting ones first, longer keys first: 1, 0, 3, 2.
std::optional<Version> choose_version(VersionSet a, VersionSet b);

// names is a set as people read it: "hdr0-aes-gcm-128, hdr0-aes-gcm-256", or "none".
std::string names(VersionSet set);

// side_says is a side's part of the sentence why there is no PSP.
std::string side_says(const char* who, const Offer& offer);

}  // namespace psp::keyx
