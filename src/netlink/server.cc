// SPDX-License-Identifier: Apache-2.0
//
// The server: the path of a request through the kernel's af_netlink.c, genetlink.c and psp_nl.c, in
// their order of checks.
//
//   message header -> family -> length -> reserved bits -> command -> capability -> attributes
//   -> the operation -> reply -> ack or error
#include <algorithm>
#include <cerrno>
#include <cstring>

#include <psp/netlink/server.hh>
#include <psp/netlink/uapi.h>

#include "codec.hh"
#include "family.hh"

namespace psp::netlink {
namespace {

// Request is one message that passed all checks, and where its answers go.
struct Request {
  Caller& caller;
  const nlmsghdr* header;
  const Family& family;
  int fd;
  std::vector<Datagram>& out;
  Attributes attributes{};
  ExtAck ack{};

  std::uint8_t cmd() const {
    return static_cast<const genlmsghdr*>(mnl_nlmsg_get_payload(header))->cmd;
  }
  const nlattr* find(std::uint16_t type) const { return attributes[type]; }

  // require is GENL_REQ_ATTR_CHECK.
  bool require(std::uint16_t type) {
    if (find(type) != nullptr) return true;
    ack = {.missing_type = type};
    return false;
  }

  // begin starts a reply as the kernel's genlmsg_iput does. Parts of a dump look the same:
  // NLM_F_MULTI stands only on the NLMSG_DONE behind them.
  void begin(Writer& writer, std::uint16_t flags = 0) const {
    writer.begin(family.id, flags, header->nlmsg_seq, header->nlmsg_pid, cmd(), family.version);
  }
};

// Dump collects the parts of a dump.
class Dump {
 public:
  explicit Dump(Request& request) : request_(request), first_(request.out.size()) {}

  template <typename Fill>
  void add(Fill&& fill) {
    if (try_add(fill)) return;
    flush();
    try_add(fill);  // one that fits nowhere is left out: no row of ours comes near 16 KiB
  }

  // done ends the dump, with a negative errno if it could not be completed.
  void done(int error) {
    const nlmsghdr* header = request_.header;
    const char* text = request_.ack.text;
    std::array<std::uint8_t, sizeof error> payload;
    std::memcpy(payload.data(), &error, sizeof error);
    const auto put_done = [&] {
      const std::uint16_t flags = NLM_F_MULTI | (text[0] != '\0' ? NLM_F_ACK_TLVS : 0);
      writer_.begin_plain(NLMSG_DONE, flags, header->nlmsg_seq, header->nlmsg_pid, payload);
      if (text[0] != '\0') writer_.put_string(NLMSGERR_ATTR_MSG, text);
      return writer_.end();
    };
    if (!put_done()) {
      flush();
      put_done();
    }
    flush();
  }

  bool several_datagrams() const { return request_.out.size() > first_ + 1; }

 private:
  template <typename Fill>
  bool try_add(Fill& fill) {
    fill(writer_);
    return writer_.end();
  }
  void flush() {
    if (!writer_.empty()) request_.out.push_back(writer_.take());
  }

  Request& request_;
  std::size_t first_;
  Writer writer_;
};

// put_device shows the device as the namespace `netns` may see it: an associated one sees its own
// netdevs only.
void put_device(Writer& writer, const device::Core& core, const device::Device& device,
                std::uint64_t netns) {
  const bool main = device.netdev.netns == netns;
  writer.put_u32(PSPNL_DEV_ID, device.id);
  if (main) writer.put_u32(PSPNL_DEV_IFINDEX, device.netdev.ifindex);
  writer.put_u32(PSPNL_DEV_PSP_VERSIONS_CAP, device.versions_cap.bits);
  writer.put_u32(PSPNL_DEV_PSP_VERSIONS_ENA, device.config.versions_ena.bits);
  if (!main) writer.put_flag(PSPNL_DEV_BY_ASSOCIATION);
  for (const device::NetdevKey netdev : device.associated) {
    if (!main && netdev.netns != netns) continue;
    const std::int32_t nsid = main ? core.nsid_of(netns, netdev.netns) : -1;
    nlattr* nest = writer.nest(PSPNL_DEV_ASSOC_LIST);
    writer.put_u32(PSPNL_ASSOC_DEV_INFO_IFINDEX, netdev.ifindex);
    writer.put_u32(PSPNL_ASSOC_DEV_INFO_NSID, static_cast<std::uint32_t>(nsid));
    writer.end_nest(nest);
  }
}

// for_each_namespace visits every namespace that sees the device once, the main one last, as the
// kernel does.
template <typename Visit>
void for_each_namespace(const device::Device& device, Visit&& visit) {
  const auto& all = device.associated;
  for (auto it = all.begin(); it != all.end(); ++it) {
    const auto same = [&](const device::NetdevKey& other) { return other.netns == it->netns; };
    if (it->netns != device.netdev.netns && std::none_of(all.begin(), it, same)) visit(it->netns);
  }
  visit(device.netdev.netns);
}

void put_stats(Writer& writer, std::uint32_t id, const device::DeviceStats& stats) {
  writer.put_u32(PSPNL_STATS_DEV_ID, id);
  writer.put_uint(PSPNL_STATS_KEY_ROTATIONS, stats.key_rotations);
  writer.put_uint(PSPNL_STATS_STALE_EVENTS, stats.stale_events);
  writer.put_uint(PSPNL_STATS_RX_PACKETS, stats.driver.rx_packets);
  writer.put_uint(PSPNL_STATS_RX_BYTES, stats.driver.rx_bytes);
  writer.put_uint(PSPNL_STATS_RX_AUTH_FAIL, stats.driver.rx_auth_fail);
  writer.put_uint(PSPNL_STATS_RX_ERROR, stats.driver.rx_error);
  writer.put_uint(PSPNL_STATS_RX_BAD, stats.driver.rx_bad);
  writer.put_uint(PSPNL_STATS_TX_PACKETS, stats.driver.tx_packets);
  writer.put_uint(PSPNL_STATS_TX_BYTES, stats.driver.tx_bytes);
  writer.put_uint(PSPNL_STATS_TX_ERROR, stats.driver.tx_error);
}

void put_family(Writer& writer, const Family& family) {
  writer.put_string(CTRL_ATTR_FAMILY_NAME, family.name);
  writer.put_u16(CTRL_ATTR_FAMILY_ID, family.id);
  writer.put_u32(CTRL_ATTR_VERSION, family.version);
  writer.put_u32(CTRL_ATTR_HDRSIZE, 0);
  writer.put_u32(CTRL_ATTR_MAXATTR, 0);
  std::uint16_t index = 0;
  nlattr* operations = writer.nest(CTRL_ATTR_OPS, true);
  for (const Operation& operation : family.operations) {
    nlattr* nest = writer.nest(++index, true);
    writer.put_u32(CTRL_ATTR_OP_ID, operation.cmd);
    writer.put_u32(CTRL_ATTR_OP_FLAGS,
                   (operation.net_admin ? GENL_ADMIN_PERM : 0u) |
                       (operation.has_do ? GENL_CMD_CAP_DO : 0u) |
                       (operation.has_dump ? GENL_CMD_CAP_DUMP : 0u) |
                       (operation.do_policy != nullptr ? GENL_CMD_CAP_HASPOL : 0u));
    writer.end_nest(nest);
  }
  writer.end_nest(operations);
  if (family.groups.empty()) return;
  nlattr* groups = writer.nest(CTRL_ATTR_MCAST_GROUPS, true);
  index = 0;
  for (const Group& group : family.groups) {
    nlattr* nest = writer.nest(++index, true);
    writer.put_u32(CTRL_ATTR_MCAST_GRP_ID, group.id);
    writer.put_string(CTRL_ATTR_MCAST_GRP_NAME, group.name);
    writer.end_nest(nest);
  }
  writer.end_nest(groups);
}

void put_association(Writer& writer, const AssocInfo& info) {
  writer.put_uint(SOFTPSP_ASSOC_COOKIE, info.cookie);
  writer.put_u32(SOFTPSP_ASSOC_DEV_ID, info.dev_id);
  writer.put_string(SOFTPSP_ASSOC_IFNAME, info.ifname);
  writer.put_u32(SOFTPSP_ASSOC_FAMILY, info.family);
  writer.put_string(SOFTPSP_ASSOC_LOCAL_ADDRESS, info.local_address);
  writer.put_string(SOFTPSP_ASSOC_PEER_ADDRESS, info.peer_address);
  writer.put_u32(SOFTPSP_ASSOC_LOCAL_PORT, info.local_port);
  writer.put_u32(SOFTPSP_ASSOC_PEER_PORT, info.peer_port);
  writer.put_u32(SOFTPSP_ASSOC_STATE, info.state);
  writer.put_string(SOFTPSP_ASSOC_TCP_STATE, info.tcp_state);
  writer.put_u32(SOFTPSP_ASSOC_VERSION, static_cast<std::uint32_t>(info.version));
  writer.put_u32(SOFTPSP_ASSOC_GENERATION, info.generation);
  if (info.stale) writer.put_flag(SOFTPSP_ASSOC_STALE);
  writer.put_u32(SOFTPSP_ASSOC_RX_SPI, info.rx_spi.value);
  if (info.tx_spi) writer.put_u32(SOFTPSP_ASSOC_TX_SPI, info.tx_spi->value);
  writer.put_uint(SOFTPSP_ASSOC_RX_PACKETS, info.rx_packets);
  writer.put_uint(SOFTPSP_ASSOC_RX_BYTES, info.rx_bytes);
  writer.put_uint(SOFTPSP_ASSOC_TX_PACKETS, info.tx_packets);
  writer.put_uint(SOFTPSP_ASSOC_TX_BYTES, info.tx_bytes);
  writer.put_uint(SOFTPSP_ASSOC_RX_DROPS, info.rx_drops);
}

void put_info_device(Writer& writer, const DaemonInfo::Device& device) {
  writer.put_u32(SOFTPSP_INFO_DEV_ID, device.id);
  writer.put_string(SOFTPSP_INFO_IFNAME, device.ifname);
  writer.put_string(SOFTPSP_INFO_TAP, device.tap);
  writer.put_u32(SOFTPSP_INFO_MTU, device.mtu);
  writer.put_u32(SOFTPSP_INFO_GENERATION, device.generation);
  writer.put_uint(SOFTPSP_INFO_SPI_REMAINING, device.spi_remaining);
  for (const auto& [name, count] : device.drops) {
    nlattr* nest = writer.nest(SOFTPSP_INFO_DROP);
    writer.put_string(SOFTPSP_DROP_NAME, name);
    writer.put_uint(SOFTPSP_DROP_COUNT, count);
    writer.end_nest(nest);
  }
}

// nested finds an attribute in a nest that has passed its policy.
const nlattr* nested(const nlattr* nest, std::uint16_t type) {
  const nlattr* found = nullptr;
  for_each_attribute(get_octets(nest), [&](const nlattr* attribute) {
    if (mnl_attr_get_type(attribute) == type) found = attribute;
  });
  return found;
}

// refuse turns the core's error into the kernel's. Which attribute number a field has depends on
// the operation, but dev.id and stats.dev-id share theirs.
int refuse(Request& request, const device::Error& error) {
  using device::Field;
  std::uint16_t type = 0;
  bool in_key = false;
  switch (error.field) {
    case Field::kNone:
      break;
    case Field::kId:
      type = PSPNL_DEV_ID;
      break;
    case Field::kIfindex:
      type = PSPNL_DEV_IFINDEX;
      break;
    case Field::kNsid:
      type = PSPNL_DEV_NSID;
      break;
    case Field::kVersionsEna:
      type = PSPNL_DEV_PSP_VERSIONS_ENA;
      break;
    case Field::kDevId:
      type = PSPNL_ASSOC_DEV_ID;
      break;
    case Field::kVersion:
      type = PSPNL_ASSOC_VERSION;
      break;
    case Field::kSockFd:
      type = PSPNL_ASSOC_SOCK_FD;
      break;
    case Field::kTxKey:
      type = PSPNL_ASSOC_TX_KEY;
      break;
    case Field::kKey:
      type = PSPNL_KEYS_KEY;
      in_key = true;
      break;
    case Field::kSpi:
      type = PSPNL_KEYS_SPI;
      in_key = true;
      break;
  }
  const nlattr* nest = in_key ? request.find(PSPNL_ASSOC_TX_KEY) : nullptr;
  request.ack = {.text = error.text != nullptr ? error.text : ""};
  if (error.missing) {
    request.ack.missing_type = type;
    request.ack.missing_nest = nest;
  } else if (in_key) {
    request.ack.bad = nest != nullptr ? nested(nest, type) : nullptr;
  } else if (type != 0) {
    request.ack.bad = request.find(type);
  }
  return -error.sys_errno;
}

}  // namespace

struct Server::Impl {
  device::Core& core;
  Inspector* inspector;
  Multicast multicast{};
  bool dump_running = false;  // in this datagram, as the kernel allows one dump at a time

  // allowed is what GENL_ADMIN_PERM asks. The first release did not ask it of these two.
  bool allowed(const Request& request, const Operation& operation) const {
    const bool was_open =
        operation.cmd == PSPNL_CMD_DEV_SET || operation.cmd == PSPNL_CMD_KEY_ROTATE;
    return !operation.net_admin || request.caller.net_admin ||
           (was_open && core.compat() == device::Compat::kLinux618);
  }
  int handle_message(Request&);
  int handle_do(Request&);
  int handle_dump(Request&);
  int fill_dump(Request&, Dump&);

  int get_family(Request&);
  int dev_get(Request&);
  int dev_set(Request&);
  int key_rotate(Request&);
  int rx_assoc(Request&);
  int tx_assoc(Request&);
  int get_stats(Request&);
  int dev_assoc(Request&);
  int info_get(Request&);
  int subscribe(Request&);

  template <typename Fill>
  int reply(Request& request, Fill&& fill) {
    Writer writer;
    request.begin(writer);
    fill(writer);
    if (!writer.end()) return -EMSGSIZE;
    request.out.push_back(writer.take());
    return 0;
  }
  template <typename Fill>
  void notify(std::uint32_t group, std::uint64_t netns, std::uint8_t cmd, Fill&& fill) {
    if (!multicast) return;
    Writer writer;
    writer.begin(kPspFamilyId, 0, 0, 0, cmd, PSPNL_FAMILY_VERSION);
    fill(writer);
    if (writer.end()) multicast(group, netns, writer.take());
  }
  void notify_device(std::uint8_t cmd, const device::Device& device, std::uint64_t netns) {
    notify(SOFTPSP_GROUP_MGMT, netns, cmd,
           [&](Writer& writer) { put_device(writer, core, device, netns); });
  }
  void notify_device(std::uint8_t cmd, const device::Device& device) {
    for_each_namespace(device, [&](std::uint64_t netns) { notify_device(cmd, device, netns); });
  }
};

namespace {

const Family* find_family(std::uint16_t id) {
  for (const Family& family : families())
    if (family.id == id) return &family;
  return nullptr;
}

const Operation* find_operation(const Family& family, std::uint8_t cmd, bool dump) {
  for (const Operation& operation : family.operations)
    if (operation.cmd == cmd && (dump ? operation.has_dump : operation.has_do)) return &operation;
  return nullptr;
}

bool wants_dump(const nlmsghdr* header) { return (header->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP; }

// check_header is genl_header_check: families as old as nlctrl are excused.
int check_header(Request& request) {
  if (request.family.strictness == Strictness::kLiberal) return 0;
  const auto* header = static_cast<const genlmsghdr*>(mnl_nlmsg_get_payload(request.header));
  if (header->reserved != 0) {
    request.ack = {.text = "genlmsghdr.reserved field is not 0"};
    return -EINVAL;
  }
  std::uint16_t flags = request.header->nlmsg_flags;
  if (wants_dump(request.header)) flags &= static_cast<std::uint16_t>(~NLM_F_DUMP);
  if ((flags & ~(NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO)) != 0) {
    request.ack = {.text = "ambiguous or reserved bits set in nlmsg_flags"};
    return -EINVAL;
  }
  return 0;
}

}  // namespace

int Server::Impl::handle_message(Request& request) {
  if (request.header->nlmsg_len < NLMSG_HDRLEN + GENL_HDRLEN) return -EINVAL;
  if (const int error = check_header(request); error != 0) return error;
  const bool dump = wants_dump(request.header);
  const Operation* operation = find_operation(request.family, request.cmd(), dump);
  if (operation == nullptr) return -EOPNOTSUPP;
  if (!allowed(request, *operation)) return -EPERM;
  if (const PolicySet* policy = dump ? operation->dump_policy : operation->do_policy) {
    // Dumps are checked strictly even where requests are not.
    const auto attributes = message_attributes(request.header);
    const int error = parse_attributes(attributes.data(), attributes.size(), *policy,
                                       dump ? Strictness::kStrict : request.family.strictness,
                                       &request.attributes, request.ack);
    if (error != 0) return error;
  }
  return dump ? handle_dump(request) : handle_do(request);
}

int Server::Impl::handle_do(Request& request) {
  switch (request.family.which) {
    case FamilyName::kNlctrl:
      return get_family(request);
    case FamilyName::kSoftpsp:
      return request.cmd() == SOFTPSP_CMD_SUBSCRIBE ? subscribe(request) : info_get(request);
    case FamilyName::kPsp:
      switch (request.cmd()) {
        case PSPNL_CMD_DEV_GET:
          return dev_get(request);
        case PSPNL_CMD_DEV_SET:
          return dev_set(request);
        case PSPNL_CMD_KEY_ROTATE:
          return key_rotate(request);
        case PSPNL_CMD_RX_ASSOC:
          return rx_assoc(request);
        case PSPNL_CMD_TX_ASSOC:
          return tx_assoc(request);
        case PSPNL_CMD_GET_STATS:
          return get_stats(request);
        case PSPNL_CMD_DEV_ASSOC:
        case PSPNL_CMD_DEV_DISASSOC:
          return dev_assoc(request);
        default:
          break;
      }
  }
  return -EOPNOTSUPP;
}

// handle_dump answers -EINTR where the kernel does: the dump has begun and there is no ack.
int Server::Impl::handle_dump(Request& request) {
  if (dump_running) return -EBUSY;
  Dump dump(request);
  dump.done(fill_dump(request, dump));
  dump_running = dump.several_datagrams();
  return -EINTR;
}

int Server::Impl::fill_dump(Request& request, Dump& dump) {
  const auto row = [&](auto&& fill, std::uint16_t flags = 0) {
    dump.add([&](Writer& writer) {
      request.begin(writer, flags);
      fill(writer);
    });
  };
  if (request.family.which == FamilyName::kNlctrl) {
    for (const Family& family : families())
      dump.add([&](Writer& writer) {
        writer.begin(GENL_ID_CTRL, NLM_F_MULTI, request.header->nlmsg_seq,
                     request.header->nlmsg_pid, CTRL_CMD_NEWFAMILY, request.family.version);
        put_family(writer, family);
      });
  } else if (request.family.which == FamilyName::kSoftpsp) {
    if (inspector == nullptr) return -EOPNOTSUPP;
    if (request.cmd() == SOFTPSP_CMD_ASSOC_GET) {
      for (const AssocInfo& info : inspector->associations())
        row([&](Writer& writer) { put_association(writer, info); });
    } else {
      for (const DaemonInfo::Device& device : inspector->daemon_info().devices)
        row([&](Writer& writer) { put_info_device(writer, device); });
    }
  } else {
    for (const device::Device* device : core.devices(request.caller.netns)) {
      if (request.cmd() == PSPNL_CMD_DEV_GET) {
        row([&](Writer& writer) { put_device(writer, core, *device, request.caller.netns); });
      } else if (const auto stats = core.stats(device->id)) {
        row([&](Writer& writer) { put_stats(writer, device->id, *stats); });
      } else {
        return refuse(request, stats.error());
      }
    }
  }
  return 0;
}

int Server::Impl::get_family(Request& request) {
  const nlattr* id = request.find(CTRL_ATTR_FAMILY_ID);
  const nlattr* name = request.find(CTRL_ATTR_FAMILY_NAME);
  if (id == nullptr && name == nullptr) return -EINVAL;
  const Family* found = id != nullptr ? find_family(mnl_attr_get_u16(id)) : nullptr;
  if (name != nullptr) {  // has the last word
    found = nullptr;
    for (const Family& family : families())
      if (get_string(name) == family.name) found = &family;
  }
  if (found == nullptr) return -ENOENT;
  Writer writer;
  writer.begin(GENL_ID_CTRL, 0, request.header->nlmsg_seq, request.header->nlmsg_pid,
               CTRL_CMD_NEWFAMILY, request.family.version);
  put_family(writer, *found);
  if (!writer.end()) return -EMSGSIZE;
  request.out.push_back(writer.take());
  return 0;
}

int Server::Impl::dev_get(Request& request) {
  if (!request.require(PSPNL_DEV_ID)) return -EINVAL;
  const auto device = core.find_device(get_u32(request.find(PSPNL_DEV_ID)), request.caller.netns);
  if (!device) return refuse(request, device.error());
  return reply(request,
               [&](Writer& writer) { put_device(writer, core, **device, request.caller.netns); });
}

int Server::Impl::dev_set(Request& request) {
  if (!request.require(PSPNL_DEV_ID)) return -EINVAL;
  std::optional<VersionSet> ena;
  if (const nlattr* bits = request.find(PSPNL_DEV_PSP_VERSIONS_ENA))
    ena = VersionSet{get_u32(bits)};
  const auto done =
      core.set_versions(get_u32(request.find(PSPNL_DEV_ID)), ena, request.caller.netns);
  if (!done) return refuse(request, done.error());
  return reply(request, [](Writer&) {});
}

int Server::Impl::key_rotate(Request& request) {
  if (!request.require(PSPNL_DEV_ID)) return -EINVAL;
  const auto device = core.key_rotate(get_u32(request.find(PSPNL_DEV_ID)), request.caller.netns);
  if (!device) return refuse(request, device.error());
  return reply(request, [&](Writer& writer) { writer.put_u32(PSPNL_DEV_ID, (*device)->id); });
}

namespace {

device::AssocRequest assoc_request(const Request& request) {
  device::AssocRequest assoc;
  // The number is the client's own; what counts is the descriptor that came beside the message.
  if (request.find(PSPNL_ASSOC_SOCK_FD) != nullptr) assoc.fd = request.fd;
  if (const nlattr* id = request.find(PSPNL_ASSOC_DEV_ID)) assoc.dev_id = get_u32(id);
  if (const nlattr* version = request.find(PSPNL_ASSOC_VERSION))
    assoc.version = to_version(get_u32(version));
  return assoc;
}

}  // namespace

int Server::Impl::rx_assoc(Request& request) {
  const auto done = core.rx_assoc(assoc_request(request), request.caller.netns);
  if (!done) return refuse(request, done.error());
  return reply(request, [&](Writer& writer) {
    writer.put_u32(PSPNL_ASSOC_DEV_ID, done->dev_id);
    nlattr* key = writer.nest(PSPNL_ASSOC_RX_KEY);
    writer.put_u32(PSPNL_KEYS_SPI, done->rx_key.spi.value);
    writer.put_octets(PSPNL_KEYS_KEY, done->rx_key.key.span());
    writer.end_nest(key);
  });
}

int Server::Impl::tx_assoc(Request& request) {
  device::AssocRequest assoc = assoc_request(request);
  if (const nlattr* nest = request.find(PSPNL_ASSOC_TX_KEY)) {
    assoc.tx_key.emplace();
    if (const nlattr* spi = nested(nest, PSPNL_KEYS_SPI)) assoc.tx_key->spi = get_u32(spi);
    if (const nlattr* key = nested(nest, PSPNL_KEYS_KEY)) assoc.tx_key->key = get_octets(key);
  }
  const auto done = core.tx_assoc(assoc, request.caller.netns);
  if (!done) return refuse(request, done.error());
  return reply(request, [](Writer&) {});
}

int Server::Impl::get_stats(Request& request) {
  if (!request.require(PSPNL_STATS_DEV_ID)) return -EINVAL;
  const std::uint32_t id = get_u32(request.find(PSPNL_STATS_DEV_ID));
  const auto stats = core.stats(id, request.caller.netns);
  if (!stats) return refuse(request, stats.error());
  return reply(request, [&](Writer& writer) { put_stats(writer, id, *stats); });
}

int Server::Impl::dev_assoc(Request& request) {
  if (!request.require(PSPNL_DEV_ID)) return -EINVAL;
  std::optional<std::uint32_t> ifindex;
  std::optional<std::int32_t> nsid;
  if (const nlattr* attribute = request.find(PSPNL_DEV_IFINDEX)) ifindex = get_u32(attribute);
  if (const nlattr* attribute = request.find(PSPNL_DEV_NSID))
    nsid = static_cast<std::int32_t>(get_u32(attribute));
  const std::uint32_t id = get_u32(request.find(PSPNL_DEV_ID));
  const std::uint64_t netns = request.caller.netns;
  const auto done = request.cmd() == PSPNL_CMD_DEV_ASSOC
                        ? core.dev_assoc(netns, id, ifindex, nsid)
                        : core.dev_disassoc(netns, id, ifindex, nsid);
  if (!done) return refuse(request, done.error());
  return reply(request, [](Writer&) {});
}

int Server::Impl::info_get(Request& request) {
  if (inspector == nullptr) return -EOPNOTSUPP;
  const DaemonInfo info = inspector->daemon_info();
  return reply(request, [&](Writer& writer) {
    writer.put_string(SOFTPSP_INFO_VERSION, info.version);
    writer.put_string(SOFTPSP_INFO_CRYPTO_BACKEND, info.crypto_backend);
    writer.put_u32(SOFTPSP_INFO_PID, info.pid);
  });
}

int Server::Impl::subscribe(Request& request) {
  if (!request.require(SOFTPSP_SUBSCRIBE_GROUPS)) return -EINVAL;
  request.caller.groups = get_u32(request.find(SOFTPSP_SUBSCRIBE_GROUPS));
  return reply(request, [](Writer&) {});
}

Server::Server(device::Core& core, Inspector* inspector)
    : impl_(std::make_unique<Impl>(Impl{.core = core, .inspector = inspector})) {}

Server::~Server() = default;

void Server::handle(Caller& caller, std::span<const std::uint8_t> request, int fd,
                    std::vector<Datagram>& out) {
  const AlignedCopy copy(request);
  impl_->dump_running = false;
  std::size_t at = 0;
  while (copy.size() - at >= NLMSG_HDRLEN) {
    const auto* header = reinterpret_cast<const nlmsghdr*>(copy.data() + at);
    if (!message_ok(header, copy.size() - at)) return;
    int error = 0;
    ExtAck ack;
    if ((header->nlmsg_flags & NLM_F_REQUEST) != 0 && header->nlmsg_type >= NLMSG_MIN_TYPE) {
      if (const Family* family = find_family(header->nlmsg_type)) {
        Request parsed{.caller = caller, .header = header, .family = *family, .fd = fd, .out = out};
        error = impl_->handle_message(parsed);
        ack = parsed.ack;
      } else {
        error = -ENOENT;
      }
    }
    if (error != -EINTR && (error != 0 || (header->nlmsg_flags & NLM_F_ACK) != 0)) {
      Writer writer;
      put_error(writer, header, error, ack, caller.ext_ack, caller.cap_ack);
      out.push_back(writer.take());
    }
    at += std::min<std::size_t>(NLMSG_ALIGN(header->nlmsg_len), copy.size() - at);
  }
}

void Server::set_multicast(Multicast send) { impl_->multicast = std::move(send); }

void Server::device_added(const device::Device& device) {
  impl_->notify_device(PSPNL_CMD_DEV_ADD_NTF, device);
}

void Server::device_removed(const device::Device& device) {
  impl_->notify_device(PSPNL_CMD_DEV_DEL_NTF, device);
}

void Server::device_changed(const device::Device& device) {
  impl_->notify_device(PSPNL_CMD_DEV_CHANGE_NTF, device);
}

void Server::device_left(const device::Device& device, std::uint64_t netns) {
  impl_->notify_device(PSPNL_CMD_DEV_DEL_NTF, device, netns);
}

void Server::key_rotated(const device::Device& device) {
  for_each_namespace(device, [&](std::uint64_t netns) {
    impl_->notify(SOFTPSP_GROUP_USE, netns, PSPNL_CMD_KEY_ROTATE_NTF,
                  [&](Writer& writer) { writer.put_u32(PSPNL_DEV_ID, device.id); });
  });
}

void wipe(std::span<std::uint8_t> octets) { explicit_bzero(octets.data(), octets.size()); }

}  // namespace psp::netlink
