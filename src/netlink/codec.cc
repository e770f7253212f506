// SPDX-License-Identifier: Apache-2.0
//
// Netlink octets, both ways. The order of the checks, their texts and what comes with an error were
// compared with a running kernel 6.18 (family `netdev`, which is declared as `psp` is). Lengths are
// believed only as far as the datagram goes. Padding is written as zero, and memory that held a
// message is wiped, for it may have held a key. A message that has no room is left out whole, and
// put calls behind that do nothing.
#include "netlink/codec.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace psp::netlink {
namespace {

// NL_POLICY_TYPE_ATTR_MASK is younger than some distributions' headers.
constexpr std::uint16_t kPolicyAttrMask = 12;
// The kernel's limit on what a request may copy back is the socket buffer; ours is the datagram.
// Extack attributes need at most this.
constexpr std::size_t kExtAckRoom = 512;

int refuse(ExtAck& ack, int error, const char* text, const nlattr* bad,
           const Policy* policy = nullptr) {
  ack = {.text = text, .bad = bad, .policy = policy};
  return error;
}

std::size_t exact_length(Policy::Kind kind) {
  switch (kind) {
    case Policy::Kind::kU16:
      return 2;
    case Policy::Kind::kU32:
    case Policy::Kind::kS32:
      return 4;
    default:
      return 0;
  }
}

int check_string(const nlattr* attribute, const Policy& policy, ExtAck& ack) {
  constexpr const char* kText = "Attribute failed policy validation";
  const auto* text = static_cast<const char*>(mnl_attr_get_payload(attribute));
  std::size_t size = mnl_attr_get_payload_len(attribute);
  const std::size_t window = std::min<std::size_t>(size, policy.max + 1);
  if (window == 0 || std::memchr(text, '\0', window) == nullptr)
    return refuse(ack, -EINVAL, kText, attribute, &policy);
  if (text[size - 1] == '\0') --size;
  if (size > policy.max) return refuse(ack, -ERANGE, kText, attribute, &policy);
  return 0;
}

int check_value(const nlattr* attribute, const Policy& policy, ExtAck& ack) {
  const std::uint32_t value = mnl_attr_get_u32(attribute);
  if (policy.limit == Policy::Limit::kRange && (value < policy.min || value > policy.max))
    return refuse(ack, -ERANGE, "integer out of range", attribute, &policy);
  if (policy.limit == Policy::Limit::kMask && (value & ~policy.max) != 0)
    return refuse(ack, -EINVAL, "reserved bit set", attribute);
  return 0;
}

int check_attribute(const nlattr* attribute, const Policy& policy, Strictness strictness,
                    ExtAck& ack) {
  const bool strict = strictness == Strictness::kStrict;
  const std::size_t size = mnl_attr_get_payload_len(attribute);
  const std::size_t exact = exact_length(policy.kind);
  const bool nest_flag = (attribute->nla_type & NLA_F_NESTED) != 0;
  const bool nest = policy.kind == Policy::Kind::kNested;
  if (strict && exact != 0 && size != exact)
    return refuse(ack, -EINVAL, "invalid attribute length", attribute, &policy);
  if (strict && nest && !nest_flag)
    return refuse(ack, -EINVAL, "NLA_F_NESTED is missing", attribute, &policy);
  if (strict && !nest && policy.kind != Policy::Kind::kUnset && nest_flag)
    return refuse(ack, -EINVAL, "NLA_F_NESTED not expected", attribute, &policy);

  switch (policy.kind) {
    case Policy::Kind::kUnset:
      return strict ? refuse(ack, -EINVAL, "Unsupported attribute", attribute) : 0;
    case Policy::Kind::kNulString:
      return check_string(attribute, policy, ack);
    case Policy::Kind::kBinary:
      return 0;
    case Policy::Kind::kNested:
      if (size == 0) return 0;
      if (size < sizeof(nlattr))
        return refuse(ack, -ERANGE, "Attribute failed policy validation", attribute, &policy);
      return parse_attributes(mnl_attr_get_payload(attribute), size, *policy.nested, strictness,
                              nullptr, ack);
    case Policy::Kind::kU16:
    case Policy::Kind::kU32:
    case Policy::Kind::kS32:
      if (size < exact)
        return refuse(ack, -ERANGE, "Attribute failed policy validation", attribute, &policy);
      return policy.limit == Policy::Limit::kNone ? 0 : check_value(attribute, policy, ack);
  }
  return 0;
}

}  // namespace

void Writer::begin_plain(std::uint16_t type, std::uint16_t flags, std::uint32_t seq,
                         std::uint32_t pid, std::span<const std::uint8_t> payload) {
  const std::size_t need = NLMSG_HDRLEN + MNL_ALIGN(payload.size());
  fits_ = room() >= need;
  if (!fits_) return;
  touched_ = std::max(touched_, size_ + need);
  nlmsghdr* header = mnl_nlmsg_put_header(message());
  header->nlmsg_type = type;
  header->nlmsg_flags = flags;
  header->nlmsg_seq = seq;
  header->nlmsg_pid = pid;
  if (payload.empty()) return;
  void* start = mnl_nlmsg_put_extra_header(header, payload.size());  // zeroes the padding too
  std::memcpy(start, payload.data(), payload.size());
}

void Writer::begin(std::uint16_t type, std::uint16_t flags, std::uint32_t seq, std::uint32_t pid,
                   std::uint8_t cmd, std::uint8_t version) {
  const genlmsghdr header = {.cmd = cmd, .version = version, .reserved = 0};
  begin_plain(type, flags, seq, pid,
              {reinterpret_cast<const std::uint8_t*>(&header), sizeof header});
}

bool Writer::end() {
  if (fits_) size_ += message()->nlmsg_len;
  return std::exchange(fits_, false);
}

void Writer::put(std::uint16_t type, const void* data, std::size_t size) {
  if (!fits_) return;
  const std::size_t need = MNL_ALIGN(sizeof(nlattr) + size);
  fits_ = size <= UINT16_MAX - sizeof(nlattr) && message()->nlmsg_len + need <= room();
  if (!fits_) return;
  // libmnl leaves the padding as it was: it must not tell what this memory held before.
  auto* tail = static_cast<std::uint8_t*>(mnl_nlmsg_get_payload_tail(message()));
  std::memset(tail + need - NLA_ALIGNTO, 0, NLA_ALIGNTO);
  mnl_attr_put(message(), type, size, data != nullptr ? data : "");
  touched_ = std::max(touched_, size_ + message()->nlmsg_len);
}

void Writer::put_uint(std::uint16_t type, std::uint64_t value) {
  if (value <= UINT32_MAX)
    put_u32(type, static_cast<std::uint32_t>(value));
  else
    put_u64(type, value);
}

void Writer::put_string(std::uint16_t type, std::string_view text) {
  const std::string terminated(text);
  put(type, terminated.c_str(), terminated.size() + 1);
}

nlattr* Writer::nest(std::uint16_t type, bool old_style) {
  if (!fits_) return nullptr;
  auto* start = static_cast<nlattr*>(mnl_nlmsg_get_payload_tail(message()));
  put(old_style ? type : type | NLA_F_NESTED, nullptr, 0);
  return fits_ ? start : nullptr;
}

void Writer::end_nest(nlattr* nest) {
  if (fits_ && nest != nullptr) mnl_attr_nest_end(message(), nest);
}

std::vector<std::uint8_t> Writer::take() {
  std::vector<std::uint8_t> datagram(octets_->data(), octets_->data() + size_);
  clear();
  return datagram;
}

void Writer::clear() {
  explicit_bzero(octets_->data(), touched_);
  size_ = touched_ = 0;
  fits_ = false;
}

AlignedCopy::AlignedCopy(std::span<const std::uint8_t> octets)
    : words_((octets.size() + 3) / 4 + 1), size_(octets.size()) {
  if (size_ != 0) std::memcpy(words_.data(), octets.data(), size_);
}

int parse_attributes(const void* octets, std::size_t size, const PolicySet& set,
                     Strictness strictness, Attributes* found, ExtAck& ack) {
  if (found != nullptr) found->fill(nullptr);
  const auto* attribute = static_cast<const nlattr*>(octets);
  std::ptrdiff_t left = static_cast<std::ptrdiff_t>(size);  // negative: the last one lacks padding
  while (mnl_attr_ok(attribute, static_cast<int>(left))) {
    const std::uint16_t type = mnl_attr_get_type(attribute);
    if (type == 0 || type > set.max_type()) {
      if (strictness == Strictness::kStrict)
        return refuse(ack, -EINVAL, "Unknown attribute type", attribute);
    } else {
      const int error = check_attribute(attribute, set.policies[type], strictness, ack);
      if (error != 0) return error;
      if (found != nullptr) (*found)[type] = attribute;
    }
    left -= MNL_ALIGN(attribute->nla_len);
    if (left <= 0) break;
    attribute = mnl_attr_next(attribute);
  }
  if (left > 0) {
    ack = {.text = "bytes leftover after parsing attributes"};
    if (strictness == Strictness::kStrict) return -EINVAL;
  }
  return 0;
}

std::span<const std::uint8_t> message_attributes(const nlmsghdr* message) {
  constexpr std::size_t kHeaders = NLMSG_HDRLEN + GENL_HDRLEN;
  if (message->nlmsg_len <= kHeaders) return {};
  return {reinterpret_cast<const std::uint8_t*>(message) + kHeaders, message->nlmsg_len - kHeaders};
}

void put_error(Writer& writer, const nlmsghdr* request, int error, const ExtAck& said, bool ext_ack,
               bool cap_ack) {
  const ExtAck ack = ext_ack ? said : ExtAck{};
  const bool whole = error != 0 && !cap_ack && request->nlmsg_len <= kMaxDatagram - kExtAckRoom;
  const bool text = ack.text[0] != '\0';
  const bool attributes =
      text ||
      (error != 0 && (ack.bad != nullptr || ack.missing_type != 0 || ack.policy != nullptr));
  const std::uint16_t flags = (whole ? 0 : NLM_F_CAPPED) | (attributes ? NLM_F_ACK_TLVS : 0);
  std::vector<std::uint8_t> payload(sizeof error + (whole ? request->nlmsg_len : sizeof *request));
  std::memcpy(payload.data(), &error, sizeof error);
  std::memcpy(payload.data() + sizeof error, request, payload.size() - sizeof error);
  writer.begin_plain(NLMSG_ERROR, flags, request->nlmsg_seq, request->nlmsg_pid, payload);
  explicit_bzero(payload.data(), payload.size());  // a refused tx-assoc holds a key
  const auto offset = [request](const nlattr* attribute) {
    return static_cast<std::uint32_t>(reinterpret_cast<const std::uint8_t*>(attribute) -
                                      reinterpret_cast<const std::uint8_t*>(request));
  };
  if (text) writer.put_string(NLMSGERR_ATTR_MSG, ack.text);
  if (error != 0 && ack.bad != nullptr) writer.put_u32(NLMSGERR_ATTR_OFFS, offset(ack.bad));
  if (error != 0 && ack.policy != nullptr) put_policy(writer, NLMSGERR_ATTR_POLICY, *ack.policy);
  if (error != 0 && ack.missing_type != 0)
    writer.put_u32(NLMSGERR_ATTR_MISS_TYPE, ack.missing_type);
  if (error != 0 && ack.missing_nest != nullptr)
    writer.put_u32(NLMSGERR_ATTR_MISS_NEST, offset(ack.missing_nest));
  writer.end();
}

void put_policy(Writer& writer, std::uint16_t attribute_type, const Policy& policy,
                std::optional<std::uint32_t> nested_index) {
  if (policy.kind == Policy::Kind::kUnset) return;
  nlattr* nest = writer.nest(attribute_type);
  std::uint32_t type = NL_ATTR_TYPE_INVALID;
  switch (policy.kind) {
    case Policy::Kind::kUnset:
      break;
    case Policy::Kind::kU16:
    case Policy::Kind::kU32: {
      const bool wide = policy.kind == Policy::Kind::kU32;
      if (policy.limit == Policy::Limit::kMask) {
        writer.put_u64(kPolicyAttrMask, policy.max);
      } else {
        writer.put_u64(NL_POLICY_TYPE_ATTR_MIN_VALUE_U, policy.min);
        writer.put_u64(NL_POLICY_TYPE_ATTR_MAX_VALUE_U,
                       wide ? policy.max : std::min<std::uint32_t>(policy.max, UINT16_MAX));
      }
      type = wide ? NL_ATTR_TYPE_U32 : NL_ATTR_TYPE_U16;
      break;
    }
    case Policy::Kind::kS32:  // none of ours has limits
      writer.put_u64(NL_POLICY_TYPE_ATTR_MIN_VALUE_S,
                     static_cast<std::uint64_t>(std::int64_t{INT32_MIN}));
      writer.put_u64(NL_POLICY_TYPE_ATTR_MAX_VALUE_S, INT32_MAX);
      type = NL_ATTR_TYPE_S32;
      break;
    case Policy::Kind::kBinary:
      type = NL_ATTR_TYPE_BINARY;
      break;
    case Policy::Kind::kNested:
      if (nested_index) {
        writer.put_u32(NL_POLICY_TYPE_ATTR_POLICY_IDX, *nested_index);
        writer.put_u32(NL_POLICY_TYPE_ATTR_POLICY_MAXTYPE, policy.nested->max_type());
      }
      type = NL_ATTR_TYPE_NESTED;
      break;
    case Policy::Kind::kNulString:
      writer.put_u32(NL_POLICY_TYPE_ATTR_MAX_LENGTH, policy.max);
      type = NL_ATTR_TYPE_NUL_STRING;
      break;
  }
  writer.put_u32(NL_POLICY_TYPE_ATTR_TYPE, type);
  writer.end_nest(nest);
}

std::uint16_t get_u16(const nlattr* attribute) {
  const bool enough = mnl_attr_get_payload_len(attribute) >= sizeof(std::uint16_t);
  return enough ? mnl_attr_get_u16(attribute) : std::uint16_t{0};
}

std::uint32_t get_u32(const nlattr* attribute) {
  return mnl_attr_get_payload_len(attribute) == 4 ? mnl_attr_get_u32(attribute) : 0;
}

std::uint64_t get_uint(const nlattr* attribute) {
  switch (mnl_attr_get_payload_len(attribute)) {
    case 4:
      return mnl_attr_get_u32(attribute);
    case 8:
      return mnl_attr_get_u64(attribute);
    default:
      return 0;
  }
}

std::string_view get_string(const nlattr* attribute) {
  const auto* text = static_cast<const char*>(mnl_attr_get_payload(attribute));
  return {text, strnlen(text, mnl_attr_get_payload_len(attribute))};
}

std::span<const std::uint8_t> get_octets(const nlattr* attribute) {
  return {static_cast<const std::uint8_t*>(mnl_attr_get_payload(attribute)),
          mnl_attr_get_payload_len(attribute)};
}

}  // namespace psp::netlink
