// SPDX-License-Identifier: Apache-2.0
//
// The tables of the specification say what each attribute is; here is a function for each type, one
// way and the other. An error names the path of the value (".tx-key.spi"), as the user wrote it.
// Keys are wiped wherever they have been: in the text, in the octets on their way, in the message.
#include "attribute_json.hh"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <fmt/format.h>
#include <libmnl/libmnl.h>
#include <limits>

namespace psp::ctl {

namespace {

using Json = nlohmann::ordered_json;
using netlink::spec::Attribute;
using netlink::spec::AttributeSet;
using netlink::spec::Type;

std::span<const std::uint8_t> octets_of(const auto& value) {
  return {reinterpret_cast<const std::uint8_t*>(&value), sizeof value};
}

std::string names_of(const netlink::spec::Enumeration& enumeration) {
  return fmt::format("{}", fmt::join(enumeration.entries, ", "));
}

std::optional<std::uint32_t> place_of(const Json& value,
                                      const netlink::spec::Enumeration& enumeration) {
  if (!value.is_string()) return {};
  const auto found = std::ranges::find(enumeration.entries, value.get_ref<const std::string&>());
  if (found == enumeration.entries.end()) return {};
  return static_cast<std::uint32_t>(found - enumeration.entries.begin());
}

template <typename T>
Outcome<T> read_integer(const Json& value, const std::string& path) {
  using Limits = std::numeric_limits<T>;
  // As nlohmann has them: every integer that is not negative is also "unsigned".
  const bool fits = value.is_number_unsigned()
                        ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(Limits::max())
                        : value.is_number_integer() && std::is_signed_v<T> &&
                              value.get<std::int64_t>() >= static_cast<std::int64_t>(Limits::min());
  if (fits) return value.get<T>();
  return usage_error(
      fmt::format("{}: not a number from {} to {}", path, Limits::min(), Limits::max()));
}

Outcome<std::uint32_t> read_mask(const Json& value, const Attribute& attribute,
                                 const std::string& path) {
  if (value.is_number()) return read_integer<std::uint32_t>(value, path);
  std::uint32_t mask = 0;
  for (const Json& one : value.is_array() ? value : Json::array({value})) {
    const auto place = place_of(one, *attribute.enumeration);
    if (!place)
      return usage_error(fmt::format("{}: neither a mask nor a list of names ({})", path,
                                     names_of(*attribute.enumeration)));
    mask |= 1u << *place;
  }
  return mask;
}

Outcome<std::uint32_t> read_u32(const Json& value, const Attribute& attribute,
                                const std::string& path) {
  if (attribute.enumeration == nullptr) return read_integer<std::uint32_t>(value, path);
  if (attribute.as_flags) return read_mask(value, attribute, path);
  if (const auto place = place_of(value, *attribute.enumeration)) return *place;
  if (value.is_number()) return read_integer<std::uint32_t>(value, path);
  return usage_error(fmt::format("{}: neither a number nor a name of it ({})", path,
                                 names_of(*attribute.enumeration)));
}

Outcome<void> put_binary(Json& value, const std::string& path, std::uint16_t number,
                         AttributeOctets& out) {
  const auto refusal = [&] { return usage_error(fmt::format("{}: not hex digits", path)); };
  if (!value.is_string()) return refusal();
  auto& text = value.get_ref<std::string&>();
  std::vector<std::uint8_t> octets(text.size() / 2);
  bool right = text.size() % 2 == 0;
  for (std::size_t i = 0; right && i < octets.size(); ++i) {
    const char* end = text.data() + 2 * i + 2;
    const auto parsed = std::from_chars(end - 2, end, octets[i], 16);
    right = parsed.ec == std::errc{} && parsed.ptr == end;
  }
  if (right) out.put(number, octets);
  if (!octets.empty()) explicit_bzero(octets.data(), octets.size());
  explicit_bzero(text.data(), text.size());
  if (!right) return refusal();
  return {};
}

Outcome<void> put_nest(Json& value, const Attribute& attribute, const std::string& path,
                       AttributeOctets& out) {
  AttributeOctets inner;
  if (auto encoded = encode(value, *attribute.nested, path, inner); !encoded) return encoded;
  out.put(attribute.number | NLA_F_NESTED, inner.span());
  return {};
}

Outcome<void> put_flag(const Json& value, const std::string& path, std::uint16_t number,
                       AttributeOctets& out) {
  if (!value.is_boolean()) return usage_error(fmt::format("{}: neither true nor false", path));
  if (value.get<bool>()) out.put(number, {});
  return {};
}

// put_integer puts what a read_ function has read.
template <typename T>
Outcome<void> put_integer(const Outcome<T>& value, std::uint16_t number, AttributeOctets& out) {
  if (!value) return std::unexpected(value.error());
  out.put(number, octets_of(*value));
  return {};
}

Outcome<void> put_uint(const Json& value, const std::string& path, std::uint16_t number,
                       AttributeOctets& out) {
  const auto read = read_integer<std::uint64_t>(value, path);
  if (!read || *read > UINT32_MAX) return put_integer(read, number, out);
  return put_integer(Outcome<std::uint32_t>(static_cast<std::uint32_t>(*read)), number, out);
}

Outcome<void> put_value(Json& value, const Attribute& attribute, const std::string& path,
                        AttributeOctets& out) {
  switch (attribute.type) {
    case Type::kFlag:
      return put_flag(value, path, attribute.number, out);
    case Type::kU32:
      return put_integer(read_u32(value, attribute, path), attribute.number, out);
    case Type::kS32:
      return put_integer(read_integer<std::int32_t>(value, path), attribute.number, out);
    case Type::kUint:
      return put_uint(value, path, attribute.number, out);
    case Type::kBinary:
      return put_binary(value, path, attribute.number, out);
    case Type::kNest:
      return put_nest(value, attribute, path, out);
  }
  return {};
}

std::string hex(std::span<const std::uint8_t> octets) {
  return fmt::format("{:02x}", fmt::join(octets, ""));
}

template <typename T>
T get(std::span<const std::uint8_t> octets) {
  T value{};
  std::memcpy(&value, octets.data(), sizeof value);
  return value;
}

Json decode_u32(std::uint32_t value, const Attribute& attribute) {
  if (attribute.enumeration == nullptr) return value;
  const auto& entries = attribute.enumeration->entries;
  const auto name = [&](std::uint32_t place) {
    return place < entries.size() ? Json(entries[place]) : Json(place);
  };
  if (!attribute.as_flags) return name(value);
  Json names = Json::array();
  for (std::uint32_t place = 0; place < 32; ++place)
    if ((value >> place & 1u) != 0) names.push_back(name(place));
  return names;
}

Json decode_value(std::span<const std::uint8_t> octets, const Attribute& attribute, bool keys) {
  switch (attribute.type) {
    case Type::kFlag:
      return true;
    case Type::kU32:
      if (octets.size() == 4) return decode_u32(get<std::uint32_t>(octets), attribute);
      break;
    case Type::kS32:
      if (octets.size() == 4) return get<std::int32_t>(octets);
      break;
    case Type::kUint:
      if (octets.size() == 4) return get<std::uint32_t>(octets);
      if (octets.size() == 8) return get<std::uint64_t>(octets);
      break;
    case Type::kBinary:
      return keys ? Json(hex(octets)) : Json();
    case Type::kNest:
      return decode(octets, *attribute.nested, keys);
  }
  return hex(octets);  // not as the specification says
}

}  // namespace

void AttributeOctets::put(std::uint16_t type, std::span<const std::uint8_t> value) {
  nlattr header{};
  header.nla_len = static_cast<std::uint16_t>(sizeof header + value.size());
  header.nla_type = type;
  // A vector that grows leaves a copy behind: grow by hand, and wipe the old one.
  std::vector<std::uint8_t> grown(octets_.size() + MNL_ALIGN(header.nla_len));
  std::ranges::copy(octets_, grown.begin());
  std::ranges::copy(octets_of(header), grown.begin() + static_cast<std::ptrdiff_t>(octets_.size()));
  std::ranges::copy(value, grown.begin() + static_cast<std::ptrdiff_t>(octets_.size() + 4));
  octets_.swap(grown);
  if (!grown.empty()) explicit_bzero(grown.data(), grown.size());
}

Outcome<void> encode(Json& object, const AttributeSet& set, const std::string& path,
                     AttributeOctets& out) {
  if (!object.is_object())
    return usage_error(fmt::format("{}: not a JSON object", path.empty() ? "--json" : path));
  for (auto& [key, value] : object.items()) {
    const Attribute* attribute = set.find(key);
    const std::string here = fmt::format("{}.{}", path, key);
    if (attribute == nullptr) {
      std::vector<std::string_view> names;
      for (const Attribute& one : set.attributes) names.push_back(one.name);
      return usage_error(fmt::format("{}: no such attribute ({})", here, fmt::join(names, ", ")));
    }
    if (!attribute->multi || !value.is_array()) {
      if (auto put = put_value(value, *attribute, here, out); !put) return put;
      continue;
    }
    for (Json& one : value)
      if (auto put = put_value(one, *attribute, here, out); !put) return put;
  }
  return {};
}

bool has_binary(const Json& object, const AttributeSet& set) {
  if (!object.is_object()) return false;
  return std::ranges::any_of(object.items(), [&](const auto& item) {
    const Attribute* attribute = set.find(item.key());
    if (attribute == nullptr) return false;
    return attribute->type == Type::kBinary ||
           (attribute->type == Type::kNest && has_binary(item.value(), *attribute->nested));
  });
}

Json decode(std::span<const std::uint8_t> attributes, const AttributeSet& set, bool keys) {
  Json object = Json::object();
  while (attributes.size() >= sizeof(nlattr)) {
    const auto header = get<nlattr>(attributes);
    if (header.nla_len < sizeof header || header.nla_len > attributes.size()) break;
    const auto value = attributes.subspan(sizeof header, header.nla_len - sizeof header);
    attributes =
        attributes.subspan(std::min<std::size_t>(MNL_ALIGN(header.nla_len), attributes.size()));
    const auto number = static_cast<std::uint16_t>(header.nla_type & NLA_TYPE_MASK);
    const Attribute* attribute = set.find(number);
    if (attribute == nullptr)
      object[fmt::to_string(number)] = keys ? Json(hex(value)) : Json();
    else if (attribute->multi)
      object[std::string(attribute->name)].push_back(decode_value(value, *attribute, keys));
    else
      object[std::string(attribute->name)] = decode_value(value, *attribute, keys);
  }
  return object;
}

}  // namespace psp::ctl
