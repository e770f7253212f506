// SPDX-License-Identifier: Apache-2.0
//
// Between JSON and netlink attributes, by the names of the family's specification
// (psp/netlink/spec.hh). The ways of writing values are those of the kernel's ynl tool:
// enumerations by name or number, masks as lists of names or a number, binary as hex digits, nests
// as objects, repeated attributes as lists, flags as true.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string.h>
#include <string>
#include <vector>

#include "netlink/spec.hh"

#include "failure.hh"

namespace psp::ctl {

// AttributeOctets holds attributes as they travel; wiped when dropped.
class AttributeOctets {
 public:
  AttributeOctets() = default;
  AttributeOctets(const AttributeOctets&) = delete;
  AttributeOctets& operator=(const AttributeOctets&) = delete;
  ~AttributeOctets() {
    if (!octets_.empty()) explicit_bzero(octets_.data(), octets_.size());
  }

  void put(std::uint16_t type, std::span<const std::uint8_t> value);
  std::span<const std::uint8_t> span() const { return octets_; }

 private:
  std::vector<std::uint8_t> octets_;
};

// encode appends the attributes of `object`. Text of binary attributes, which are keys, is wiped in
// it. `path` is where the object stands (".tx-key"), for errors. Errors: kUsage.
Outcome<void> encode(nlohmann::ordered_json& object, const netlink::spec::AttributeSet& set,
                     const std::string& path, AttributeOctets& out);

// has_binary tells whether `object` gives a binary attribute, that is a key.
bool has_binary(const nlohmann::ordered_json& object, const netlink::spec::AttributeSet& set);

// decode names the attributes of an answer. Binary ones are null unless `keys`; what the
// specification does not have is named by its number.
nlohmann::ordered_json decode(std::span<const std::uint8_t> attributes,
                              const netlink::spec::AttributeSet& set, bool keys);

}  // namespace psp::ctl
