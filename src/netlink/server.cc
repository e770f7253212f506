// SPDX-License-Identifier: Apache-2.0
//
// The server: the path of a request through the kernel's af_netlink.c and genetlink.c, in their
// order of checks.
//
//   message header -> family -> length -> reserved bits -> command -> capability -> attributes
//   -> the operation (operations.hh) -> reply -> ack or error
#include "netlink/server.hh"

#include <algorithm>
#include <cerrno>
#include <list>
#include <new>
#include <string.h>

#include "netlink/families.hh"
#include "netlink/operations.hh"
#include <psp/netlink/uapi.h>

namespace psp::netlink {
namespace {

const Operation* find_operation(const Family& family, std::uint8_t cmd, bool dump) {
  for (const Operation& operation : family.operations)
    if (operation.cmd == cmd && (dump ? operation.has_dump : operation.has_do)) return &operation;
  return nullptr;
}

// check_header is genl_header_check: families as old as nlctrl are excused.
int check_header(Request& request) {
  if (request.family.strictness == Strictness::kLiberal) return 0;
  const auto* header = static_cast<const genlmsghdr*>(mnl_nlmsg_get_payload(request.header));
  if (header->reserved != 0) {
    request.ack = {.text = "genlmsghdr.reserved field is not 0"};
    return -EINVAL;
  }
  std::uint16_t flags = request.header->nlmsg_flags;
  if (request.wants_dump()) flags &= static_cast<std::uint16_t>(~NLM_F_DUMP);
  if ((flags & ~(NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO)) != 0) {
    request.ack = {.text = "ambiguous or reserved bits set in nlmsg_flags"};
    return -EINVAL;
  }
  return 0;
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

}  // namespace

struct Server::Impl {
  Services services;
  Multicast multicast{};

  // Dumps that hold their entries, least recently used first, and how many entries they may hold.
  static constexpr std::size_t kEntriesMax = 256 * 1024;
  std::list<std::weak_ptr<Dump>> holders{};

  int handle_message(Request&);
  int handle_do(Request&);
  int handle_dump(Request&);
  int start_dump(Request&, MessageHead&, std::unique_ptr<DumpSource>&);
  void continue_dump(Caller&, std::vector<Datagram>&);
  void make_room();

  template <typename Fill>
  void notify(std::uint32_t group, std::uint64_t netns, Notification::Kind kind, Fill&& fill) {
    if (!multicast) return;
    Datagram message;
    try {
      Writer writer;
      writer.begin(kPspFamilyId, 0, 0, 0, command_of(kind), PSPNL_FAMILY_VERSION);
      fill(writer);
      if (writer.end()) message = writer.take();
    } catch (const std::bad_alloc&) {
      message.clear();  // lost: what it is about has happened
    }
    try {
      multicast(group, netns, message);
    } catch (const std::bad_alloc&) {  // what it is about has happened: members are told of a loss
      tell_of_loss(group, netns);
    }
  }
  void tell_of_loss(std::uint32_t group, std::uint64_t netns) noexcept {
    try {
      multicast(group, netns, {});
    } catch (const std::bad_alloc&) {
      return;  // not even that
    }
  }
  void notify_device(Notification::Kind kind, const device::Device& device, std::uint64_t netns) {
    notify(SOFTPSP_GROUP_MGMT, netns, kind,
           [&](Writer& writer) { put(writer, seen_from(netns, services.core, device)); });
  }
  void notify_device(Notification::Kind kind, const device::Device& device) {
    for_each_namespace(device, [&](std::uint64_t netns) { notify_device(kind, device, netns); });
  }
};

int Server::Impl::handle_message(Request& request) {
  if (request.header->nlmsg_len < NLMSG_HDRLEN + GENL_HDRLEN) return -EINVAL;
  if (const int error = check_header(request); error != 0) return error;
  const bool dump = request.wants_dump();
  const bool first_release = services.first_release();
  const Operation* operation = find_operation(request.family, request.cmd(), dump);
  if (operation == nullptr) return -EOPNOTSUPP;
  if (!request.caller.net_admin && needs_net_admin(request.family, *operation, first_release))
    return -EPERM;
  if (dump && request.caller.dump) return -EBUSY;
  // The first release names a policy for dumps that it does not heed.
  const bool heeded = !dump || request.family.which != FamilyName::kPsp || !first_release;
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
      return do_nlctrl(services, request);
    case FamilyName::kSoftpsp:
      return do_softpsp(services, request);
    case FamilyName::kPsp:
      return do_psp(services, request);
  }
  return -EOPNOTSUPP;
}

int Server::Impl::start_dump(Request& request, MessageHead& head,
                             std::unique_ptr<DumpSource>& source) {
  switch (request.family.which) {
    case FamilyName::kNlctrl:
      return dump_nlctrl(services, request, head, source);
    case FamilyName::kSoftpsp:
      return dump_softpsp(services, request, source);
    case FamilyName::kPsp:
      return dump_psp(services, request, source);
  }
  return -EOPNOTSUPP;
}

// handle_dump answers -EINTR where the kernel does: the dump has begun and there is no ack.
int Server::Impl::handle_dump(Request& request) {
  MessageHead head = request.head();
  std::unique_ptr<DumpSource> source;
  if (const int error = start_dump(request, head, source); error != 0) return error;
  request.caller.dump = std::make_shared<Dump>(head, std::move(source), request.caller.ext_ack);
  continue_dump(request.caller, request.out);
  if (request.caller.dump && request.caller.dump->held() != 0) {
    holders.push_back(request.caller.dump);
    make_room();
  }
  return -EINTR;
}

// continue_dump makes two datagrams at a time: one is being read, one waits. Where nothing is to be
// told yet a transport that cannot resume hears so.
void Server::Impl::continue_dump(Caller& caller, std::vector<Datagram>& out) {
  for (int part = 0; caller.dump && (part < 2 || !caller.paced); ++part) {
    const std::size_t before = out.size();
    if (!caller.dump->fill(out)) {
      caller.dump.reset();
    } else if (out.size() == before) {
      if (caller.paced) return;
      caller.dump->cancel(-EAGAIN);
    }
  }
}

// make_room ends the dumps that have rested longest if all of them hold too much.
void Server::Impl::make_room() {
  std::erase_if(holders, [](const auto& holder) { return holder.expired(); });
  std::size_t held = 0;
  for (const auto& holder : holders) held += holder.lock()->held();
  // The youngest may be as large as it is: it is the only one to tell of so many.
  while (held > kEntriesMax && holders.size() > 1) {
    const std::shared_ptr<Dump> oldest = holders.front().lock();
    held -= oldest->held();
    oldest->cancel(-ENOBUFS);
    holders.pop_front();
  }
}

Server::Server(device::Core& core, Inspector* inspector)
    : impl_(std::make_unique<Impl>(
          Impl{.services = Services{.core = core, .inspector = inspector}})) {}

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
  impl_->notify_device(Notification::Kind::kDevAdd, device);
}

void Server::device_removed(const device::Device& device) {
  impl_->notify_device(Notification::Kind::kDevDel, device);
}

void Server::device_changed(const device::Device& device) {
  impl_->notify_device(Notification::Kind::kDevChange, device);
}

void Server::device_left(const device::Device& device, std::uint64_t netns) {
  impl_->notify_device(Notification::Kind::kDevDel, device, netns);
}

void Server::key_rotated(const device::Device& device) {
  for_each_namespace(device, [&](std::uint64_t netns) {
    impl_->notify(SOFTPSP_GROUP_USE, netns, Notification::Kind::kKeyRotate,
                  [&](Writer& writer) { put(writer, DeviceRequest{.id = device.id}); });
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
