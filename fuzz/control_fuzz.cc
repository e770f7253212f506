// SPDX-License-Identifier: Apache-2.0
//
// Control messages of hostile clients, as the server gets them from its sockets, while devices and
// sockets come and go. Answers must be well formed, at most 16 KiB each, and point only into the
// request; a dump is made no more than 32 KiB at a time; callers without CAP_NET_ADMIN must not
// have changed a device.
//
// Input: steps of a kind (1 octet), an argument (1 octet) and a body behind its length (2 octets):
// see Step. The mutator knows steps, messages and attributes, so that lengths stay mostly right,
// and builds requests of its own from the family's specification.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "../src/netlink/names.hh"
#include "../src/netlink/test_support.hh"
#include "netlink/spec.hh"

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

// Step is one thing that happens.
struct Step {
  enum Kind : std::uint8_t {
    kRequest,  // bits 0-1 of the argument: caller; 2-4: descriptor; 5: it is asked as 6.18 would
    kResume,   // bits 0-1: caller
    kAdd,      // a device: bits 0-2: namespace; the rest: ifindex
    kRemove,   // the device of that id
    kGone,     // a netdev: bits 0-2: namespace; the rest: ifindex
    kEnd,      // the socket with that cookie
    kCaller,   // bits 0-1: caller; 2: ext_ack; 3: cap_ack; 4-6: namespace; 7: paced
    kKinds
  };
  std::uint8_t kind = 0, argument = 0;
  Octets body{};
};

std::vector<Step> read_steps(std::span<const std::uint8_t> input) {
  std::vector<Step> steps;
  while (input.size() >= 4) {
    const std::size_t size = std::min<std::size_t>(input[2] | input[3] << 8, input.size() - 4);
    const auto body = input.subspan(4, size);
    steps.push_back(
        {static_cast<std::uint8_t>(input[0] % Step::kKinds), input[1], {body.begin(), body.end()}});
    input = input.subspan(4 + size);
  }
  return steps;
}

Octets write_steps(const std::vector<Step>& steps) {
  Octets out;
  for (const Step& step : steps) {
    const auto size = static_cast<unsigned>(std::min<std::size_t>(step.body.size(), 0xffff));
    for (const unsigned octet : {step.kind + 0u, step.argument + 0u, size & 0xffu, size >> 8u})
      out.push_back(static_cast<std::uint8_t>(octet));
    out.insert(out.end(), step.body.begin(), step.body.begin() + size);
  }
  return out;
}

// A netdev of a step: its namespace, 0 to 7, and its ifindex.
device::NetdevKey netdev_of(std::uint8_t argument) { return {argument & 7u, 7u + (argument >> 3)}; }

// Play is a server with four callers: 0 and 2 have CAP_NET_ADMIN, 2 and 3 are in another namespace.
class Play {
 public:
  Play() {
    make_sockets(world_.sockets);
    world_.inspector.all.resize(300);
    world_.inspector.info.devices.resize(2);
    world_.inspector.kept.resize(100);
    for (KeptPacket& packet : world_.inspector.kept) packet.octets.resize(900);
    world_.inspector.gives_keys = true;
    for (std::size_t i = 0; i < std::size(callers_); ++i)
      callers_[i] = {.net_admin = i % 2 == 0,
                     .uid = i == 0 ? 0u : 1000u,
                     .netns = i < 2 ? 0u : 3u,
                     .paced = true};
  }

  void step(const Step& step) {
    Caller& caller = callers_[step.argument & 3];
    out_.clear();
    switch (step.kind) {
      case Step::kRequest: {
        const bool first_release = (step.argument & 0x20) != 0;
        world_.core.set_compat(first_release ? device::Compat::kLinux618
                                             : device::Compat::kNetNext);
        admin_ = admin_ || caller.net_admin || first_release;
        world_.server.handle(caller, step.body, kDescriptors[step.argument >> 2 & 7], out_);
        break;
      }
      case Step::kResume:
        check(world_.server.resume(caller, out_) == !out_.empty());
        check(out_.size() <= 2 || !caller.paced);
        break;
      case Step::kAdd:
        (void)world_.core.add_device(netdev_of(step.argument), "fuzz", VersionSet{0x3},
                                     world_.driver);
        break;
      case Step::kRemove:
        world_.core.remove_device(step.argument);
        break;
      case Step::kGone:
        world_.core.netdev_gone(netdev_of(step.argument));
        break;
      case Step::kEnd:
        world_.core.release(step.argument);
        break;
      default:
        caller.ext_ack = (step.argument & 4) != 0;
        caller.cap_ack = (step.argument & 8) != 0;
        caller.netns = step.argument >> 4 & 7u;
        caller.paced = (step.argument & 0x80) != 0;
        break;
    }
    for (const Datagram& answer : out_) check_answer(answer);
    for (const auto& notified : std::exchange(world_.notifications, {}))
      check_answer(notified.datagram);
  }

  // finish reads all dumps to their end and looks at what is left.
  void finish() {
    for (Caller& caller : callers_)
      for (int parts = 0; caller.dump; ++parts) {
        check(parts < 10'000);
        out_.clear();
        check(world_.server.resume(caller, out_));
        for (const Datagram& answer : out_) check_answer(answer);
      }
    std::size_t attached = 0;
    for (const device::Device* device : world_.core.devices().all()) {
      attached += device->associated.size();
      if (!admin_)
        check(device->config.versions_ena.bits == 0 && device->key_rotations == 0 &&
              device->associated.empty());
    }
    check(attached == world_.netdevs.attached.size());
  }

 private:
  testing::World world_;
  Caller callers_[4];
  std::vector<Datagram> out_;
  bool admin_ = false;  // somebody was allowed to change devices
};

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

// Builder makes requests that are right, but for their values.
class Builder {
 public:
  explicit Builder(unsigned seed) : random_(seed) {}

  Octets run() {
    switch (pick(8)) {
      case 0:
        return control();
      case 1:
        return softpsp();
      default:
        return psp();
    }
  }

 private:
  std::size_t pick(std::size_t count) { return random_() % count; }
  std::uint32_t value() {
    static constexpr std::uint32_t kValues[] = {1, 1, 1, 2, 3, 0, 7, 8, 50, 0xffffffff, 0x80000001};
    return kValues[pick(std::size(kValues))];
  }
  std::uint16_t flags(bool dump) {
    const int more = dump ? NLM_F_DUMP : pick(2) == 0 ? NLM_F_ACK : 0;
    return static_cast<std::uint16_t>(NLM_F_REQUEST | more);
  }

  Octets control() {
    const bool policy = pick(2) == 0;
    return testing::message(
        GENL_ID_CTRL, policy ? CTRL_CMD_GETPOLICY : CTRL_CMD_GETFAMILY,
        [&](Writer& writer) {
          static constexpr std::uint16_t kIds[] = {GENL_ID_CTRL, kPspFamilyId, kSoftpspFamilyId, 9};
          static constexpr const char* kNames[] = {"psp", "nlctrl", "softpsp", "", "zz"};
          if (pick(2) == 0) writer.put_u16(CTRL_ATTR_FAMILY_ID, kIds[pick(std::size(kIds))]);
          if (pick(2) == 0)
            writer.put_string(CTRL_ATTR_FAMILY_NAME, kNames[pick(std::size(kNames))]);
          if (policy && pick(2) == 0)
            writer.put_u32(CTRL_ATTR_OP, static_cast<std::uint32_t>(pick(13)));
        },
        flags(policy || pick(3) == 0));
  }
  Octets softpsp() {
    // Not forward: that is the transport's.
    static constexpr std::uint8_t kCommands[] = {SOFTPSP_CMD_ASSOC_GET,  SOFTPSP_CMD_INFO_GET,
                                                 SOFTPSP_CMD_SUBSCRIBE,  SOFTPSP_CMD_KEY_GET,
                                                 SOFTPSP_CMD_PACKET_GET, SOFTPSP_CMD_SERVE_GET};
    const std::uint8_t cmd = kCommands[pick(std::size(kCommands))];
    const bool asks = cmd == SOFTPSP_CMD_SUBSCRIBE || cmd == SOFTPSP_CMD_KEY_GET;
    return testing::message(
        kSoftpspFamilyId, cmd,
        [&](Writer& writer) {
          static constexpr std::uint8_t kDatagram[48] = {6, 2};
          if (cmd == SOFTPSP_CMD_SUBSCRIBE) writer.put_u32(SOFTPSP_SUBSCRIBE_GROUPS, value());
          if (cmd == SOFTPSP_CMD_KEY_GET)
            writer.put_octets(SOFTPSP_KEY_DATAGRAM,
                              std::span(kDatagram).first(pick(std::size(kDatagram))));
        },
        flags(!asks));
  }
  Octets psp() {
    const auto operations = spec::operations();
    const spec::Operation& operation = operations[pick(operations.size())];
    const bool dump = operation.dump_request.exists && pick(2) == 0;
    return testing::message(
        kPspFamilyId, operation.cmd,
        [&](Writer& writer) {
          if (!dump) fill(writer, *operation.attributes, operation.do_request.attributes);
        },
        flags(dump));
  }
  void fill(Writer& writer, const spec::AttributeSet& set, std::span<const std::uint16_t> numbers) {
    for (const std::uint16_t number : numbers)
      if (pick(8) != 0) put(writer, *set.find(number));
  }
  void put(Writer& writer, const spec::Attribute& attribute) {
    static constexpr std::uint8_t kKey[32] = {1};
    switch (attribute.type) {
      case spec::Type::kBinary:
        writer.put_octets(attribute.number, std::span(kKey).first(pick(4) == 0 ? 32 : 16));
        break;
      case spec::Type::kNest: {
        nlattr* nest = writer.nest(attribute.number);
        for (const spec::Attribute& inner : attribute.nested->attributes)
          if (pick(8) != 0) put(writer, inner);
        writer.end_nest(nest);
        break;
      }
      case spec::Type::kFlag:
        writer.put_flag(attribute.number);
        break;
      default:
        // Versions and masks have their own small world.
        writer.put_u32(attribute.number, attribute.enumeration != nullptr
                                             ? static_cast<std::uint32_t>(pick(5))
                                             : value());
    }
  }
  std::minstd_rand random_;
};

// mutate changes one step, or what steps there are.
void mutate(std::vector<Step>& steps, unsigned seed) {
  std::minstd_rand random(seed);
  const auto pick = [&](std::size_t count) { return random() % count; };
  const auto octet = [&] { return static_cast<std::uint8_t>(pick(256)); };
  const std::size_t at = pick(steps.size() + 1);
  const auto place = steps.begin() + static_cast<std::ptrdiff_t>(at);
  switch (at == steps.size() ? pick(2) : pick(8)) {
    case 0:
      steps.insert(place,
                   Step{Step::kRequest, octet(), Builder(static_cast<unsigned>(random())).run()});
      break;
    case 1:
      steps.insert(place, Step{static_cast<std::uint8_t>(1 + pick(Step::kKinds - 1)), octet()});
      break;
    case 2:
      steps.erase(place);
      break;
    case 3:
      steps.insert(place, Step(*place));
      break;
    case 4:
      std::swap(*place, steps[pick(steps.size())]);
      break;
    case 5:
      place->argument = octet();
      break;
    case 6: {  // another message in the same datagram
      const Octets more = Builder(static_cast<unsigned>(random())).run();
      place->body.insert(place->body.end(), more.begin(), more.end());
      break;
    }
    default:
      place->body = Mutator(place->body, static_cast<unsigned>(random())).run();
  }
}

}  // namespace
}  // namespace psp::netlink

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned seed) {
  using namespace psp::netlink;
  if (seed % 8 == 0) return LLVMFuzzerMutate(data, size, max_size);
  std::vector<Step> steps = read_steps({data, size});
  for (unsigned i = 0; i <= seed / 8 % 3; ++i) mutate(steps, seed + i);
  const Octets out = write_steps(steps);
  if (out.size() > max_size || out.empty()) return LLVMFuzzerMutate(data, size, max_size);
  std::copy(out.begin(), out.end(), data);
  return out.size();
}

// Two inputs become one by taking the first steps of one and the last of the other.
extern "C" std::size_t LLVMFuzzerCustomCrossOver(const std::uint8_t* first, std::size_t first_size,
                                                 const std::uint8_t* second,
                                                 std::size_t second_size, std::uint8_t* out,
                                                 std::size_t max_size, unsigned seed) {
  using namespace psp::netlink;
  std::vector<Step> steps = read_steps({first, first_size});
  const std::vector<Step> more = read_steps({second, second_size});
  if (!steps.empty()) steps.resize(seed % steps.size() + 1);
  if (!more.empty())
    steps.insert(steps.end(), more.begin() + static_cast<std::ptrdiff_t>(seed / 7 % more.size()),
                 more.end());
  const Octets all = write_steps(steps);
  const std::size_t size = std::min(all.size(), max_size);
  std::copy_n(all.begin(), size, out);
  return size;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace psp::netlink;
  const std::vector<Step> steps = read_steps({data, size});
  if (steps.size() > 500) return 0;
  Play play;
  for (const Step& step : steps) play.step(step);
  play.finish();
  return 0;
}
