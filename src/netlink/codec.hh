// SPDX-License-Identifier: Apache-2.0
//
// Netlink octets, both ways: a writer of datagrams and the kernel's attribute validation (nlattr.c:
// strict for families as new as `psp`, liberal for nlctrl). Headers and attributes are libmnl's.
// What is read here must lie 4-octet aligned (see AlignedCopy).
#pragma once

#include <array>
#include <cstdint>
#include <libmnl/libmnl.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <memory>
#include <optional>
#include <span>
#include <string.h>
#include <string_view>
#include <vector>

namespace psp::netlink {

// kMaxDatagram is the most that one answer may hold.
inline constexpr std::size_t kMaxDatagram = 16384;

// Writer fills one datagram with messages, all or nothing for each. Wiped when dropped.
class Writer {
 public:
  Writer() : octets_(std::make_unique_for_overwrite<Octets>()) {}
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer() { clear(); }

  // begin starts a generic netlink message; put its attributes, then end().
  void begin(std::uint16_t type, std::uint16_t flags, std::uint32_t seq, std::uint32_t pid,
             std::uint8_t cmd, std::uint8_t version);
  // begin_plain starts a message without generic netlink header, with `payload` as its start.
  void begin_plain(std::uint16_t type, std::uint16_t flags, std::uint32_t seq, std::uint32_t pid,
                   std::span<const std::uint8_t> payload);
  // take_back drops the message that was begun.
  void take_back() { fits_ = false; }
  // end completes the message. False: it did not fit and was taken back.
  bool end();

  void put_u16(std::uint16_t type, std::uint16_t value) { put(type, &value, sizeof value); }
  void put_u32(std::uint16_t type, std::uint32_t value) { put(type, &value, sizeof value); }
  void put_u64(std::uint16_t type, std::uint64_t value) { put(type, &value, sizeof value); }
  // put_uint takes 4 octets if the value fits, else 8.
  void put_uint(std::uint16_t type, std::uint64_t value);
  void put_string(std::uint16_t type, std::string_view text);  // with its NUL
  void put_octets(std::uint16_t type, std::span<const std::uint8_t> octets) {
    put(type, octets.data(), octets.size());
  }
  void put_flag(std::uint16_t type) { put(type, nullptr, 0); }

  // nest starts a nest; close it with end_nest. Old families (nlctrl) do not set NLA_F_NESTED.
  nlattr* nest(std::uint16_t type, bool old_style = false);
  void end_nest(nlattr* nest);

  bool empty() const { return size_ == 0; }
  std::span<const std::uint8_t> octets() const { return {octets_->data(), size_}; }
  // take returns the datagram and leaves the writer empty.
  std::vector<std::uint8_t> take();

 private:
  struct alignas(8) Octets : std::array<std::uint8_t, kMaxDatagram> {};
  void put(std::uint16_t type, const void* data, std::size_t size);
  void clear();
  nlmsghdr* message() { return reinterpret_cast<nlmsghdr*>(octets_->data() + size_); }
  std::size_t room() const { return kMaxDatagram - size_; }

  std::unique_ptr<Octets> octets_;
  std::size_t size_ = 0;     // of complete messages
  std::size_t touched_ = 0;  // octets that may hold something
  bool fits_ = false;        // the message being written
};

// AlignedCopy holds octets so that netlink structures may be read in place. Wiped when dropped.
class AlignedCopy {
 public:
  explicit AlignedCopy(std::span<const std::uint8_t> octets);
  AlignedCopy(const AlignedCopy&) = delete;
  AlignedCopy& operator=(const AlignedCopy&) = delete;
  ~AlignedCopy() {
    if (!words_.empty()) explicit_bzero(words_.data(), words_.size() * sizeof words_[0]);
  }
  const std::uint8_t* data() const { return reinterpret_cast<const std::uint8_t*>(words_.data()); }
  std::size_t size() const { return size_; }

 private:
  std::vector<std::uint32_t> words_;
  std::size_t size_;
};

struct PolicySet;

// Policy is what an attribute must be like.
struct Policy {
  enum class Kind : std::uint8_t { kUnset, kU16, kU32, kS32, kBinary, kNested, kNulString };
  enum class Limit : std::uint8_t { kNone, kRange, kMask };
  Kind kind = Kind::kUnset;
  Limit limit = Limit::kNone;
  std::uint32_t min = 0;
  std::uint32_t max = UINT32_MAX;  // or the mask; for kNulString the longest length
  const PolicySet* nested = nullptr;
};

// kTypesMax is how many attribute types, 0 among them, a set may have that is looked up by type.
inline constexpr std::size_t kTypesMax = 16;

// PolicySet has one policy per attribute type, from 0 to max_type. It can be made of nothing longer
// than what Attributes can hold.
struct PolicySet {
  template <std::size_t N>
  constexpr PolicySet(const Policy (&all)[N]) : policies(all) {
    static_assert(N <= kTypesMax, "more attributes than Attributes has room for");
  }
  std::span<const Policy> policies;
  std::uint16_t max_type() const { return static_cast<std::uint16_t>(policies.size() - 1); }
};

// ExtAck is what an error says beside its errno.
struct ExtAck {
  const char* text = "";           // none if empty
  const nlattr* bad = nullptr;     // inside the request
  const Policy* policy = nullptr;  // that `bad` broke, where the kernel tells it
  std::uint16_t missing_type = 0;  // 0: none
  const nlattr* missing_nest = nullptr;
};

// Attributes finds attributes by type: the last of each.
using Attributes = std::array<const nlattr*, kTypesMax>;

// Strictness: the kernel checks families by what was usual when they were made.
enum class Strictness { kLiberal, kStrict };

// parse_attributes checks `size` octets of attributes against `set`, notes them in `found`
// (may be null) and returns 0 or a negative errno with *ack filled in.
int parse_attributes(const void* octets, std::size_t size, const PolicySet& set,
                     Strictness strictness, Attributes* found, ExtAck& ack);

// message_ok: a whole message stands at the start of `left` octets. (libmnl's mnl_nlmsg_ok takes
// lengths from 2^31 up for negative, and so for right.)
inline bool message_ok(const nlmsghdr* message, std::size_t left) {
  return left >= NLMSG_HDRLEN && message->nlmsg_len >= NLMSG_HDRLEN && message->nlmsg_len <= left;
}

// message_attributes are the octets behind the generic netlink header.
std::span<const std::uint8_t> message_attributes(const nlmsghdr* message);

// put_error writes a NLMSG_ERROR message (error 0: an ack) about `request` as the kernel does for a
// socket with these settings of NETLINK_EXT_ACK and NETLINK_CAP_ACK. A request that would not fit
// is capped.
void put_error(Writer& writer, const nlmsghdr* request, int error, const ExtAck& ack,
               bool ext_ack = true, bool cap_ack = false);

// put_policy writes what is asked of an attribute into a nest of type `type`; nothing if the
// attribute is not to be there. nested_index: the number of the nested policy in a list of them.
void put_policy(Writer& writer, std::uint16_t type, const Policy& policy,
                std::optional<std::uint32_t> nested_index = {});

// Reading messages, whose senders may be newer: a wrong length reads as zero. (For get_u16 only a
// shorter one is wrong: old families, which alone have these, do not mind longer ones.)
std::uint16_t get_u16(const nlattr* attribute);
std::uint32_t get_u32(const nlattr* attribute);
std::uint64_t get_uint(const nlattr* attribute);
std::string_view get_string(const nlattr* attribute);
std::span<const std::uint8_t> get_octets(const nlattr* attribute);

// for_each_attribute visits the well-formed attributes in `octets`.
template <typename Visit>
void for_each_attribute(std::span<const std::uint8_t> octets, Visit&& visit) {
  const auto* attribute = reinterpret_cast<const nlattr*>(octets.data());
  std::size_t left = octets.size();
  while (mnl_attr_ok(attribute, static_cast<int>(left))) {
    visit(attribute);
    const std::size_t step = MNL_ALIGN(attribute->nla_len);
    if (step >= left) break;
    left -= step;
    attribute = mnl_attr_next(attribute);
  }
}

}  // namespace psp::netlink
