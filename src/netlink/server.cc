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
#include <list>
#include <new>

#include <psp/netlink/server.hh>
#include <psp/netlink/uapi.h>

#include "codec.hh"
#include "dump.hh"
#include "family.hh"
#include "nlctrl.hh"
#include "render.hh"

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

  // head is that of a reply, as the kernel's genlmsg_iput makes it. Parts of a dump look the same:
  // NLM_F_MULTI stands only on the NLMSG_DONE behind them.
  MessageHead head() const {
    return {.type = family.id,
            .seq = header->nlmsg_seq,
            .pid = header->nlmsg_pid,
            .cmd = cmd(),
            .version = family.version};
  }
};

// DeviceRows lists the devices that a namespace sees, or their statistics.
class DeviceRows final : public Rows {
 public:
  DeviceRows(device::Core& core, std::uint64_t netns, bool stats)
      : core_(core), netns_(netns), stats_(stats) {}
  int put(Writer& writer, const char** text) override {
    const device::Device* device = core_.next_device(last_, netns_);
    if (device == nullptr) return 0;
    at_ = device->id;
    if (!stats_) {
      put_device(writer, core_, *device, netns_);
      return 1;
    }
    const auto stats = core_.stats(device->id, netns_);
    if (!stats) {
      *text = stats.error().text;
      return -stats.error().sys_errno;
    }
    put_stats(writer, device->id, *stats);
    return 1;
  }
  void next() override { last_ = at_; }
  std::uint64_t epoch() const override { return core_.devices_epoch(); }

 private:
  device::Core& core_;
  std::uint64_t netns_;
  bool stats_;
  std::uint16_t last_ = 0, at_ = 0;
};

// ListRows lists what was collected when the dump began.
template <typename Row, void (*Put)(Writer&, const Row&)>
class ListRows final : public Rows {
 public:
  explicit ListRows(std::vector<Row> rows) : rows_(std::move(rows)) {}
  int put(Writer& writer, const char**) override {
    if (at_ == rows_.size()) return 0;
    Put(writer, rows_[at_]);
    return 1;
  }
  void next() override { ++at_; }
  std::size_t held() const override { return rows_.size(); }

 private:
  std::vector<Row> rows_;
  std::size_t at_ = 0;
};

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

  // Dumps that hold their rows, least recently used first, and how many rows they may hold.
  static constexpr std::size_t kRowsMax = 256 * 1024;
  std::list<std::weak_ptr<Dump>> holders{};

  bool first_release() const { return core.compat() == device::Compat::kLinux618; }
  int handle_message(Request&);
  int handle_do(Request&);
  int handle_dump(Request&);
  int start_dump(Request&, MessageHead&, std::unique_ptr<Rows>&);
  int start_policies(Request&, std::unique_ptr<Rows>&);
  int start_list(Request&, std::unique_ptr<Rows>&);
  void continue_dump(Caller&, std::vector<Datagram>&);
  void make_room();

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
  int key_get(Request&);

  template <typename Fill>
  int reply(Request& request, Fill&& fill) {
    Writer writer;
    request.head().begin(writer);
    fill(writer);
    if (!writer.end()) return -EMSGSIZE;
    request.out.push_back(writer.take());
    return 0;
  }
  template <typename Fill>
  void notify(std::uint32_t group, std::uint64_t netns, std::uint8_t cmd, Fill&& fill) {
    if (!multicast) return;
    Datagram message;
    try {
      Writer writer;
      writer.begin(kPspFamilyId, 0, 0, 0, cmd, PSPNL_FAMILY_VERSION);
      fill(writer);
      if (writer.end()) message = writer.take();
    } catch (const std::bad_alloc&) {
      message.clear();  // lost: what it is about has happened
    }
    multicast(group, netns, message);
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
  if (!request.caller.net_admin && needs_net_admin(request.family, *operation, first_release()))
    return -EPERM;
  if (dump && request.caller.dump) return -EBUSY;
  // The first release names a policy for dumps that it does not heed.
  const bool heeded = !dump || request.family.which != FamilyName::kPsp || !first_release();
  if (const PolicySet* policy = dump ? operation->dump_policy : operation->do_policy;
      policy != nullptr && heeded) {
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
      if (request.cmd() == SOFTPSP_CMD_KEY_GET) return key_get(request);
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
  MessageHead head = request.head();
  std::unique_ptr<Rows> rows;
  if (const int error = start_dump(request, head, rows); error != 0) return error;
  request.caller.dump = std::make_shared<Dump>(head, std::move(rows), request.caller.ext_ack);
  continue_dump(request.caller, request.out);
  if (request.caller.dump && request.caller.dump->held() != 0) {
    holders.push_back(request.caller.dump);
    make_room();
  }
  return -EINTR;
}

// continue_dump makes two datagrams at a time: one is being read, one waits.
void Server::Impl::continue_dump(Caller& caller, std::vector<Datagram>& out) {
  for (int part = 0; caller.dump && (part < 2 || !caller.paced); ++part)
    if (!caller.dump->fill(out)) caller.dump.reset();
}

// make_room ends the dumps that have rested longest if all of them hold too much.
void Server::Impl::make_room() {
  std::erase_if(holders, [](const auto& holder) { return holder.expired(); });
  std::size_t held = 0;
  for (const auto& holder : holders) held += holder.lock()->held();
  // The youngest may be as large as it is: it is the only one to tell of so many.
  while (held > kRowsMax && holders.size() > 1) {
    const std::shared_ptr<Dump> oldest = holders.front().lock();
    held -= oldest->held();
    oldest->cancel(-ENOBUFS);
    holders.pop_front();
  }
}

int Server::Impl::start_dump(Request& request, MessageHead& head, std::unique_ptr<Rows>& rows) {
  switch (request.family.which) {
    case FamilyName::kNlctrl:
      head.flags = NLM_F_MULTI;
      if (request.cmd() == CTRL_CMD_GETPOLICY) return start_policies(request, rows);
      head.cmd = CTRL_CMD_NEWFAMILY;
      rows = family_rows(first_release());
      return 0;
    case FamilyName::kSoftpsp:
      return start_list(request, rows);
    case FamilyName::kPsp:
      break;
  }
  rows = std::make_unique<DeviceRows>(core, request.caller.netns,
                                      request.cmd() == PSPNL_CMD_GET_STATS);
  return 0;
}

// start_policies is ctrl_dumppolicy_start.
int Server::Impl::start_policies(Request& request, std::unique_ptr<Rows>& rows) {
  const nlattr* id = request.find(CTRL_ATTR_FAMILY_ID);
  const nlattr* name = request.find(CTRL_ATTR_FAMILY_NAME);
  if (id == nullptr && name == nullptr) return -EINVAL;
  const Family* family =
      id != nullptr ? find_family(mnl_attr_get_u16(id)) : find_family(get_string(name));
  if (family == nullptr) return -ENOENT;
  const Operation* only = nullptr;
  if (const nlattr* cmd = request.find(CTRL_ATTR_OP)) {
    const auto it = std::ranges::find(family->operations, get_u32(cmd), &Operation::cmd);
    if (it == family->operations.end()) {
      request.ack = {.bad = cmd};
      return -ENOENT;
    }
    only = &*it;
  }
  rows = policy_rows(*family, only);
  return rows ? 0 : -ENODATA;
}

// start_list collects what the softpsp family tells, of devices that the caller may see.
int Server::Impl::start_list(Request& request, std::unique_ptr<Rows>& rows) {
  if (inspector == nullptr) return -EOPNOTSUPP;
  const std::uint64_t netns = request.caller.netns;
  const bool home = netns == inspector->home_netns();
  if (request.cmd() == SOFTPSP_CMD_PACKET_GET) {
    if (!home) return -EPERM;
    rows = std::make_unique<ListRows<KeptPacket, put_packet>>(inspector->kept_packets());
    return 0;
  }
  if (request.cmd() == SOFTPSP_CMD_INFO_GET) {
    auto devices = inspector->daemon_info().devices;
    std::erase_if(devices,
                  [&](const auto& one) { return !home && !core.find_device(one.id, netns); });
    rows = std::make_unique<ListRows<DaemonInfo::Device, put_info_device>>(std::move(devices));
    return 0;
  }
  auto all = inspector->associations();
  std::erase_if(all, [&](const AssocInfo& one) {
    if (home) return false;
    const device::Association* association = core.find_association(one.cookie);
    return association == nullptr || association->netdev.netns != netns;
  });
  rows = std::make_unique<ListRows<AssocInfo, put_association>>(std::move(all));
  return 0;
}

int Server::Impl::get_family(Request& request) {
  const nlattr* id = request.find(CTRL_ATTR_FAMILY_ID);
  const nlattr* name = request.find(CTRL_ATTR_FAMILY_NAME);
  if (id == nullptr && name == nullptr) return -EINVAL;
  const Family* found = id != nullptr ? find_family(mnl_attr_get_u16(id)) : nullptr;
  if (name != nullptr) found = find_family(get_string(name));  // has the last word
  if (found == nullptr) return -ENOENT;
  MessageHead head = request.head();
  head.cmd = CTRL_CMD_NEWFAMILY;
  Writer writer;
  head.begin(writer);
  put_family(writer, *found, first_release());
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
  return reply(request, [&](Writer& writer) { put_info(writer, info); });
}

int Server::Impl::subscribe(Request& request) {
  if (!request.require(SOFTPSP_SUBSCRIBE_GROUPS)) return -EINVAL;
  request.caller.groups = get_u32(request.find(SOFTPSP_SUBSCRIBE_GROUPS));
  return reply(request, [](Writer&) {});
}

// key_get hands out a key, so capability alone is not enough: the caller must be root, in the
// namespace that sees all of pspd.
int Server::Impl::key_get(Request& request) {
  if (inspector == nullptr) return -EOPNOTSUPP;
  const Caller& caller = request.caller;
  if (caller.uid != 0 || caller.netns != inspector->home_netns()) return -EPERM;
  const nlattr* datagram = request.find(SOFTPSP_KEY_DATAGRAM);
  const auto found = inspector->captured_key(
      caller, datagram != nullptr ? get_octets(datagram) : std::span<const std::uint8_t>());
  if (!found) return refuse(request, found.error());
  return reply(request, [&](Writer& writer) {
    if (found->key.empty()) return;
    writer.put_u32(SOFTPSP_KEY_VERSION, static_cast<std::uint32_t>(found->version));
    writer.put_u32(SOFTPSP_KEY_SPI, found->spi.value);
    writer.put_octets(SOFTPSP_KEY_KEY, found->key.span());
  });
}

Server::Server(device::Core& core, Inspector* inspector)
    : impl_(std::make_unique<Impl>(Impl{.core = core, .inspector = inspector})) {}

Server::~Server() = default;

void Server::handle(Caller& caller, std::span<const std::uint8_t> request, int fd,
                    std::vector<Datagram>& out) {
  const AlignedCopy copy(request);
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

bool Server::resume(Caller& caller, std::vector<Datagram>& out) {
  if (!caller.dump) return false;
  auto& holders = impl_->holders;
  const auto it = std::ranges::find_if(
      holders, [&](const auto& holder) { return holder.lock() == caller.dump; });
  if (it != holders.end()) holders.splice(holders.end(), holders, it);
  impl_->continue_dump(caller, out);
  return true;
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

void wipe(std::span<std::uint8_t> octets) {
  if (!octets.empty()) explicit_bzero(octets.data(), octets.size());
}

std::span<const std::uint8_t> overrun() {
  static constexpr nlmsghdr kSign{.nlmsg_len = sizeof(nlmsghdr),
                                  .nlmsg_type = NLMSG_OVERRUN,
                                  .nlmsg_flags = 0,
                                  .nlmsg_seq = SOFTPSP_OVERRUN_SEQ,
                                  .nlmsg_pid = 0};
  return {reinterpret_cast<const std::uint8_t*>(&kSign), sizeof kSign};
}

}  // namespace psp::netlink
