// SPDX-License-Identifier: Apache-2.0
//
// The list of a message's fields, and put and read made from it. A field is the number of an
// attribute and a member of the struct; how the attribute is written, its number knows (kWire, from
// the specification of the family), whatever the member's type is.
//
// For the files that define messages; all others need message.hh only.
#pragma once

#include <array>
#include <optional>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "crypto/secret.hh"
#include "netlink/codec.hh"
#include "netlink/messages/message.hh"
#include "wire/types.hh"

namespace psp::netlink {

// Wire is how an attribute is written. Integers are in host order.
enum class Wire : std::uint8_t {
  kUnknown,
  kFlag,  // no octets: it is there or not
  kU16,
  kU32,
  kS32,
  kUint,    // 4 octets if the value fits, else 8
  kString,  // with its NUL
  kBinary,
  kNest,   // a message; a vector of them is as many attributes
  kArray,  // of messages, numbered from 1: one nest of nests, without NLA_F_NESTED
};

// kWire is made from the specification (scripts/gen-netlink): an attribute that it does not have
// cannot be a field.
template <auto Number>
inline constexpr Wire kWire = Wire::kUnknown;

// When a field is written: a flag if it is true, an optional if it has a value; and what else.
enum class When { kAlways, kUnlessDefault };

// Within is a member of a member.
template <auto Outer, auto Inner>
struct Within {};

// Access is how a member is got at: `of(message)`.
template <typename Path, Path path>
struct Access;
template <typename Message, typename T, T Message::*member>
struct Access<T Message::*, member> {
  static const T& of(const Message& message) { return message.*member; }
  static T& of(Message& message) { return message.*member; }
};
template <auto Outer, auto Inner, Within<Outer, Inner> path>
struct Access<Within<Outer, Inner>, path> {
  static auto& of(auto& message) { return message.*Outer.*Inner; }
};

template <auto Number, auto Member, When when = When::kAlways>
struct Field;

// kFields is the list: a std::tuple of Field, in the order in which they are written.
template <typename Message>
inline constexpr std::tuple<> kFields = {};
template <typename Message>
inline constexpr bool kHasFields = std::tuple_size_v<std::decay_t<decltype(kFields<Message>)>> != 0;

template <typename T>
inline constexpr bool kIsOptional = false;
template <typename T>
inline constexpr bool kIsOptional<std::optional<T>> = true;
template <typename T>
inline constexpr bool kIsList = false;
template <typename T>
inline constexpr bool kIsList<std::vector<T>> = true;

// number_of and from_number: integers, enumerations and what stands for a number.
template <typename T>
constexpr std::uint32_t number_of(const T& value) {
  static_assert(sizeof(T) <= sizeof(std::uint32_t), "the attribute has 4 octets");
  if constexpr (std::is_same_v<T, Spi>)
    return value.value;
  else if constexpr (std::is_same_v<T, VersionSet>)
    return value.bits;
  else
    return static_cast<std::uint32_t>(value);
}
template <typename T>
constexpr T from_number(std::uint32_t number) {
  if constexpr (std::is_same_v<T, Spi> || std::is_same_v<T, VersionSet>)
    return T{number};
  else if constexpr (std::is_same_v<T, Version>)
    return to_version(number).value_or(Version::kAesGcm128);
  else
    return static_cast<T>(number);
}

inline std::span<const std::uint8_t> octets_of(const crypto::SaKey& key) { return key.span(); }
inline std::span<const std::uint8_t> octets_of(std::span<const std::uint8_t> octets) {
  return octets;
}

inline void assign(crypto::SaKey& key, std::span<const std::uint8_t> octets) { key.assign(octets); }
inline void assign(std::span<const std::uint8_t>& to, std::span<const std::uint8_t> octets) {
  to = octets;
}
inline void assign(std::vector<std::uint8_t>& to, std::span<const std::uint8_t> octets) {
  to.assign(octets.begin(), octets.end());
}

template <Wire wire, typename T>
void put_value(Writer& writer, std::uint16_t number, const T& value) {
  if constexpr (kIsOptional<T>) {
    if (value) put_value<wire>(writer, number, *value);
  } else if constexpr (wire == Wire::kFlag) {
    if (value) writer.put_flag(number);
  } else if constexpr (wire == Wire::kU16) {
    writer.put_u16(number, value);
  } else if constexpr (wire == Wire::kU32 || wire == Wire::kS32) {
    writer.put_u32(number, number_of(value));
  } else if constexpr (wire == Wire::kUint) {
    static_assert(sizeof(T) == sizeof(std::uint64_t));
    writer.put_uint(number, value);
  } else if constexpr (wire == Wire::kString) {
    writer.put_string(number, value);
  } else if constexpr (wire == Wire::kBinary) {
    writer.put_octets(number, octets_of(value));
  } else if constexpr (wire == Wire::kArray) {
    if (value.empty()) return;
    std::uint16_t index = 0;
    nlattr* array = writer.nest(number, true);
    for (const auto& entry : value) {
      nlattr* nest = writer.nest(++index, true);
      put(writer, entry);
      writer.end_nest(nest);
    }
    writer.end_nest(array);
  } else {
    nlattr* nest = writer.nest(number);
    put(writer, value);
    writer.end_nest(nest);
  }
}

template <Wire wire, typename T>
void read_value(const nlattr* attribute, T& value) {
  if constexpr (kIsOptional<T>) {
    read_value<wire>(attribute, value.emplace());
  } else if constexpr (wire == Wire::kFlag) {
    value = true;
  } else if constexpr (wire == Wire::kU16) {
    value = get_u16(attribute);
  } else if constexpr (wire == Wire::kU32 || wire == Wire::kS32) {
    value = from_number<T>(get_u32(attribute));
  } else if constexpr (wire == Wire::kUint) {
    value = get_uint(attribute);
  } else if constexpr (wire == Wire::kString) {
    value = get_string(attribute);
  } else if constexpr (wire == Wire::kBinary) {
    assign(value, get_octets(attribute));
  } else if constexpr (wire == Wire::kArray) {
    for_each_attribute(get_octets(attribute), [&](const nlattr* entry) {
      value.push_back(read<typename T::value_type>(get_octets(entry)));
    });
  } else {
    value = read<T>(get_octets(attribute));
  }
}

template <auto Number, auto Member, When when>
struct Field {
  static constexpr std::uint16_t kNumber = Number;
  static constexpr Wire kAs = kWire<Number>;
  static_assert(kAs != Wire::kUnknown, "the specification has no such attribute");

  static void put(Writer& writer, const auto& message) {
    const auto& value = Access<std::remove_cv_t<decltype(Member)>, Member>::of(message);
    using T = std::remove_cvref_t<decltype(value)>;
    if constexpr (when == When::kUnlessDefault)
      if (value == T{}) return;
    if constexpr (kAs == Wire::kNest && kIsList<T>)
      for (const auto& one : value) put_value<kAs>(writer, Number, one);
    else
      put_value<kAs>(writer, Number, value);
  }
  static void read(const nlattr* attribute, auto& message) {
    if (mnl_attr_get_type(attribute) != Number) return;
    auto& value = Access<std::remove_cv_t<decltype(Member)>, Member>::of(message);
    using T = std::remove_cvref_t<decltype(value)>;
    if constexpr (kAs == Wire::kNest && kIsList<T>)
      read_value<kAs>(attribute, value.emplace_back());
    else
      read_value<kAs>(attribute, value);
  }
};

// kNumbers are the attributes of a message, to be compared with the specification's.
template <typename Message>
inline constexpr auto kNumbers = std::apply(
    [](auto... field) { return std::array<std::uint16_t, sizeof...(field)>{field.kNumber...}; },
    kFields<Message>);

template <typename Message>
void put(Writer& writer, const Message& message) {
  static_assert(kHasFields<Message>);
  std::apply([&](auto... field) { (field.put(writer, message), ...); }, kFields<Message>);
}

template <typename Message>
Message read(std::span<const std::uint8_t> attributes) {
  static_assert(kHasFields<Message>);
  Message message{};
  for_each_attribute(attributes, [&](const nlattr* attribute) {
    std::apply([&](auto... field) { (field.read(attribute, message), ...); }, kFields<Message>);
  });
  return message;
}

}  // namespace psp::netlink
