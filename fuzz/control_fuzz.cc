// SPDX-License-Identifier: Apache-2.0
//
// Control messages of a hostile client, as the server gets them from its socket. Answers must be
// well formed, at most 16 KiB each, and point only into the request; a caller without CAP_NET_ADMIN
// must not have changed a device.
//
// Input: 1 octet of choices (bit 0: the caller has CAP_NET_ADMIN; bits 1-3: the descriptor that
// came along), then datagrams to be handled one after the other, each behind its length in 2
// octets. The mutator knows messages and attributes, so that their lengths stay mostly right.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../src/netlink/names.hh"
#include "../src/netlink/test_support.hh"

// Only libFuzzer has this; the replay program never calls the mutator.
extern "C" __attribute__((weak)) std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size,
                                                              std::size_t max_size);

namespace psp::netlink {
namespace {

using Octets = std::vector<std::uint8_t>;

// check ends the run where an invariant does not hold; the fuzzer then keeps the input.
void check(bool held) {
  if (!held) std::abort();
}

constexpr int kDescriptors[8] = {-1, 40, 41, 42, 43, 44, 99, 40};

void make_sockets(testing::ModelSockets& model) {
  model.sockets[41] = {.cookie = 2, .tcp = false};
  model.sockets[42] = {.cookie = 3, .route_ifindex = 0};
  model.sockets[43] = {.cookie = 4, .established = false};
  model.sockets[44] = {.cookie = 5, .clear_queued = true};
}

// check_error: an error quotes the request it is about, and points into it.
void check_error(const nlmsghdr* answer) {
  const std::size_t size = answer->nlmsg_len - NLMSG_HDRLEN;
  const auto* payload = static_cast<const std::uint8_t*>(mnl_nlmsg_get_payload(answer));
  check(size >= sizeof(nlmsgerr));
  int error = 0;
  std::memcpy(&error, payload, sizeof error);
  check(error <= 0 && error > -4096);
  const auto* quoted = reinterpret_cast<const nlmsghdr*>(payload + sizeof error);
  const bool capped = (answer->nlmsg_flags & NLM_F_CAPPED) != 0;
  if (!capped) check(quoted->nlmsg_len <= size - sizeof error);
  const std::size_t used =
      sizeof error + (capped ? sizeof *quoted : NLMSG_ALIGN(quoted->nlmsg_len));
  check(((answer->nlmsg_flags & NLM_F_ACK_TLVS) != 0) == (size > used));
  if (capped || size <= used) return;
  for_each_attribute({payload + used, size - used}, [&](const nlattr* attribute) {
    const auto type = mnl_attr_get_type(attribute);
    if (type != NLMSGERR_ATTR_OFFS && type != NLMSGERR_ATTR_MISS_NEST) return;
    const std::uint32_t offset = get_u32(attribute);
    check(offset >= NLMSG_HDRLEN + GENL_HDRLEN && offset + sizeof(nlattr) <= quoted->nlmsg_len);
    check(!attribute_at(quoted, offset).empty());
  });
}

void check_answer(const Datagram& answer) {
  check(!answer.empty() && answer.size() <= kMaxDatagram);
  std::size_t at = 0;
  while (at < answer.size()) {
    const auto* message = reinterpret_cast<const nlmsghdr*>(answer.data() + at);
    check(message_ok(message, answer.size() - at) && message->nlmsg_len % 4 == 0);
    if (message->nlmsg_type == NLMSG_ERROR) check_error(message);
    at += message->nlmsg_len;
  }
}

Octets take_datagram(std::span<const std::uint8_t>& input) {
  const std::size_t size = std::min<std::size_t>(input[0] | input[1] << 8, input.size() - 2);
  Octets datagram(input.begin() + 2, input.begin() + 2 + static_cast<std::ptrdiff_t>(size));
  input = input.subspan(2 + size);
  return datagram;
}

// Mutation of one datagram: an attribute changed, repeated, dropped or added, lengths kept right.
class Mutator {
 public:
  Mutator(Octets datagram, unsigned seed) : octets_(std::move(datagram)), random_(seed) {}

  Octets run() {
    if (octets_.size() < 20) octets_.resize(20);
    switch (pick(8)) {
      case 0:
        put16(4, kTypes[pick(std::size(kTypes))]);
        break;
      case 1:
        put16(6, kFlags[pick(std::size(kFlags))]);
        break;
      case 2:
        octets_[16] = static_cast<std::uint8_t>(pick(14));
        break;
      case 3:
        add_attribute(octets_.size());
        break;
      default:
        change_attribute();
        break;
    }
    put32(0, static_cast<std::uint32_t>(octets_.size()));
    return octets_;
  }

 private:
  static constexpr std::uint16_t kTypes[] = {GENL_ID_CTRL, kPspFamilyId, kSoftpspFamilyId, 999, 3};
  static constexpr std::uint16_t kFlags[] = {0x001, 0x005, 0x301, 0x305,
                                             0x009, 0x101, 0x000, 0x004};

  std::size_t pick(std::size_t count) { return random_() % count; }
  void put16(std::size_t at, std::uint16_t value) {
    std::memcpy(octets_.data() + at, &value, sizeof value);
  }
  void put32(std::size_t at, std::uint32_t value) {
    std::memcpy(octets_.data() + at, &value, sizeof value);
  }
  std::size_t length_at(std::size_t at) const {
    std::uint16_t length = 0;
    std::memcpy(&length, octets_.data() + at, sizeof length);
    return std::clamp<std::size_t>(NLMSG_ALIGN(length), 4, octets_.size() - at);
  }

  // Where attributes start, those inside a nest too.
  std::vector<std::size_t> attributes() const {
    std::vector<std::size_t> all;
    for (std::size_t at = 20; at + 4 <= octets_.size();) {
      all.push_back(at);
      const bool nest = (octets_[at + 3] & 0x80) != 0;
      at += nest ? 4 : length_at(at);
    }
    return all;
  }

  void add_attribute(std::size_t at) {
    static constexpr std::size_t kSizes[] = {4, 4, 4, 0, 2, 8, 16, 32};
    const std::size_t size = kSizes[pick(std::size(kSizes))];
    Octets attribute(4 + NLMSG_ALIGN(size));
    attribute[0] = static_cast<std::uint8_t>(4 + size);
    attribute[2] = static_cast<std::uint8_t>(pick(8));
    attribute[3] = pick(6) == 0 ? 0x80 : 0;
    if (size >= 4) attribute[4] = static_cast<std::uint8_t>(pick(8));
    octets_.insert(octets_.begin() + static_cast<std::ptrdiff_t>(at), attribute.begin(),
                   attribute.end());
  }

  void change_attribute() {
    const auto all = attributes();
    if (all.empty()) return add_attribute(octets_.size());
    const std::size_t at = all[pick(all.size())];
    const auto start = octets_.begin() + static_cast<std::ptrdiff_t>(at);
    const auto end = start + static_cast<std::ptrdiff_t>(length_at(at));
    switch (pick(6)) {
      case 0:
        octets_[at + 2] = static_cast<std::uint8_t>(pick(9));
        break;
      case 1:
        octets_[at + 3] ^= static_cast<std::uint8_t>(pick(2) == 0 ? 0x80 : 0x40);
        break;
      case 2:
        octets_[at] = static_cast<std::uint8_t>(octets_[at] + pick(9) - 4);
        break;
      case 3:
        octets_.erase(start, end);
        break;
      case 4: {
        const Octets again(start, end);
        octets_.insert(octets_.end(), again.begin(), again.end());
        break;
      }
      default:
        if (at + 8 <= octets_.size()) put32(at + 4, static_cast<std::uint32_t>(interesting()));
    }
  }
  std::uint64_t interesting() {
    static constexpr std::uint32_t kValues[] = {
        0,    1,      2,       3,          4,          5,          0xf,
        0x10, 0xffff, 0x10001, 0x7fffffff, 0x80000000, 0x80000001, 0xffffffff};
    return pick(4) == 0 ? random_() : kValues[pick(std::size(kValues))];
  }

  Octets octets_;
  std::minstd_rand random_;
};

}  // namespace
}  // namespace psp::netlink

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned seed) {
  using namespace psp::netlink;
  if (seed % 4 == 0 || size < 3) return LLVMFuzzerMutate(data, size, max_size);
  std::span<const std::uint8_t> rest(data + 1, size - 1);
  std::vector<Octets> datagrams;
  while (rest.size() >= 2) datagrams.push_back(take_datagram(rest));
  if (datagrams.empty()) return LLVMFuzzerMutate(data, size, max_size);
  Octets& one = datagrams[seed / 4 % datagrams.size()];
  one = Mutator(one, seed).run();
  if (seed % 32 == 1) datagrams.push_back(one);

  Octets out = {data[0]};
  for (const Octets& datagram : datagrams) {
    out.push_back(static_cast<std::uint8_t>(datagram.size()));
    out.push_back(static_cast<std::uint8_t>(datagram.size() >> 8));
    out.insert(out.end(), datagram.begin(), datagram.end());
  }
  out.resize(std::min(out.size(), max_size));
  std::copy(out.begin(), out.end(), data);
  return out.size();
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace psp::netlink;
  if (size == 0) return 0;
  testing::World world;
  make_sockets(world.sockets);
  world.caller.net_admin = (data[0] & 1) != 0;
  world.inspector.all.resize(200);
  world.inspector.info.devices.resize(2);
  const int fd = kDescriptors[data[0] >> 1 & 7];

  std::span<const std::uint8_t> rest(data + 1, size - 1);
  while (rest.size() >= 2)
    for (const Datagram& answer : world.ask(take_datagram(rest), fd)) check_answer(answer);

  if (!world.caller.net_admin) {
    const auto device = world.core.find_device(1);
    check(device && (*device)->config.versions_ena.bits == 0 && (*device)->key_rotations == 0);
  }
  return 0;
}
