// SPDX-License-Identifier: Apache-2.0
//
// The `psp` family as data: operations, attribute sets and enumerations with the names that
// spec/psp.yaml gives them. From it a tool can build any request by name and name all that is in an
// answer. The tables are generated from that file when softpsp is built.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace psp::netlink::spec {

// Enumeration is a list of names; the value of each is its place, from 0.
struct Enumeration {
  std::string_view name;
  std::span<const std::string_view> entries;
};

// Type is how the octets of an attribute are to be read. Integers are in host order.
enum class Type : std::uint8_t {
  kFlag,  // no octets: it is there or not
  kU32,
  kS32,
  kUint,  // 4 octets if the value fits, else 8
  kBinary,
  kNest,  // attributes of the set `nested`
};

struct AttributeSet;

struct Attribute {
  std::string_view name;
  std::string_view doc;  // one or two sentences
  std::uint16_t number = 0;
  Type type = Type::kFlag;
  bool multi = false;                        // may stand several times: a list
  const Enumeration* enumeration = nullptr;  // of its values, null if they have no names
  bool as_flags = false;                     // the value is a mask of 1 << (entry's place)
  const AttributeSet* nested = nullptr;      // for kNest
  std::uint32_t min = 0;                     // the least value that a request may have
};

struct AttributeSet {
  std::string_view name;
  std::span<const Attribute> attributes;  // attributes[i] has the number i + 1

  // find: null if there is none.
  const Attribute* find(std::string_view attribute_name) const;
  const Attribute* find(std::uint16_t number) const;
};

// Message lists the attributes that a message may have, in the order in which they are written.
struct Message {
  bool exists = false;
  std::span<const std::uint16_t> attributes;  // numbers in the operation's attribute set
};

struct Operation {
  std::string_view name;
  std::string_view doc;
  std::uint8_t cmd = 0;
  bool admin_perm = false;  // needs CAP_NET_ADMIN
  const AttributeSet* attributes = nullptr;
  Message do_request, do_reply;
  Message dump_request, dump_reply;
  // For a notification: the name of its group; its attributes are in do_reply. Else empty.
  std::string_view group;

  bool is_notification() const { return !group.empty(); }
};

// operations are all of the family, by number: operations()[i].cmd is i + 1.
std::span<const Operation> operations();

// find_operation: null if there is none.
const Operation* find_operation(std::string_view name);

// attribute_sets are all of the family.
std::span<const AttributeSet* const> attribute_sets();

// groups are the names of the multicast groups, in the order of their numbers.
std::span<const std::string_view> groups();

}  // namespace psp::netlink::spec
