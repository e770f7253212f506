// SPDX-License-Identifier: Apache-2.0
//
// The tables of the family's specification, made of spec/psp.yaml by scripts/gen-netlink, and the
// search in them: by name for tools, by number for answers. Attributes are numbered from 1 without
// a gap, as spec_test.cc checks, so a number is an index. For `pspctl netlink`, which has no
// operation written down in it.
#include "netlink/spec.hh"

#include <algorithm>

namespace psp::netlink::spec {
namespace {

#include "psp_spec.inc"

}  // namespace

const Attribute* AttributeSet::find(std::string_view attribute_name) const {
  const auto it = std::ranges::find(attributes, attribute_name, &Attribute::name);
  return it != attributes.end() ? &*it : nullptr;
}

const Attribute* AttributeSet::find(std::uint16_t number) const {
  return number != 0 && number <= attributes.size() ? &attributes[number - 1u] : nullptr;
}

std::span<const Operation> operations() { return kOperations; }

const Operation* find_operation(std::string_view name) {
  const auto it = std::ranges::find(kOperations, name, &Operation::name);
  return it != std::end(kOperations) ? it : nullptr;
}

std::span<const AttributeSet* const> attribute_sets() { return kSets; }

std::span<const std::string_view> groups() { return kGroups; }

}  // namespace psp::netlink::spec
