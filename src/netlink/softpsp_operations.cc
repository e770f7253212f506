// SPDX-License-Identifier: Apache-2.0
//
// The operations of the `softpsp` family: the inspector answers, and the caller is told what its
// network namespace may see. The home namespace sees all. Others see the devices and connections
// that are theirs. Keys and packets are for the home namespace only, a key for its root alone: a
// container's root has CAP_NET_ADMIN too.
//
// Threading: the control thread.
#include <cerrno>
#include <utility>

#include "netlink/operations.hh"
#include <psp/netlink/uapi.h>

namespace psp::netlink {
namespace {

// ListSource lists what was collected when the dump began.
template <typename Message>
class ListSource final : public DumpSource {
 public:
  explicit ListSource(std::vector<Message> all) : all_(std::move(all)) {}
  int put(Writer& writer, const char**) override {
    if (at_ == all_.size()) return 0;
    netlink::put(writer, all_[at_]);
    return 1;
  }
  void next() override { ++at_; }
  std::size_t held() const override { return all_.size(); }

 private:
  std::vector<Message> all_;
  std::size_t at_ = 0;
};

// AssocSource lists associations as they become known.
class AssocSource final : public DumpSource {
 public:
  explicit AssocSource(std::unique_ptr<Associations> all) : all_(std::move(all)) {}
  int put(Writer& writer, const char** text) override {
    if (!at_hand_) {
      const auto next = all_->next(one_);
      if (!next) {
        *text = next.error().text;
        return -next.error().sys_errno;
      }
      if (*next == Associations::Next::kLater) return kLater;
      if (*next == Associations::Next::kEnd) return 0;
      at_hand_ = true;
    }
    netlink::put(writer, one_);
    return 1;
  }
  void next() override { at_hand_ = false; }
  std::size_t held() const override { return all_->held(); }

 private:
  std::unique_ptr<Associations> all_;
  AssocInfo one_;
  bool at_hand_ = false;
};

template <typename Message>
std::unique_ptr<DumpSource> list(std::vector<Message> all) {
  return std::make_unique<ListSource<Message>>(std::move(all));
}

int info_get(Inspector* inspector, Request& request) {
  if (inspector == nullptr) return -EOPNOTSUPP;
  return request.reply(inspector->daemon_info());
}

int subscribe(Request& request) {
  if (!request.require(SOFTPSP_SUBSCRIBE_GROUPS)) return -EINVAL;
  request.caller.groups = request.as<SubscribeRequest>().groups;
  return request.reply();
}

int serve_get(device::Core& core, Request& request) {
  if (request.fd < 0) return -EBADF;
  const auto dev_id = core.device_of(request.fd);
  if (!dev_id) return request.refuse(dev_id.error());
  return request.reply(ServeInfo{.dev_id = *dev_id});
}

// key_get hands out a key, so capability alone is not enough: the caller must be root, in the
// namespace that sees all of pspd.
int key_get(Inspector* inspector, Request& request) {
  if (inspector == nullptr) return -EOPNOTSUPP;
  const Caller& caller = request.caller;
  if (caller.uid != 0 || caller.netns != inspector->home_netns()) return -EPERM;
  const auto asked = request.as<KeyRequest>();
  const auto found =
      inspector->captured_key(caller, asked.datagram.value_or(std::span<const std::uint8_t>()));
  if (!found) return request.refuse(found.error());
  return found->key.empty() ? request.reply() : request.reply(*found);
}

}  // namespace

int do_softpsp(Services& services, Request& request) {
  switch (request.cmd()) {
    case SOFTPSP_CMD_INFO_GET:
      return info_get(services.inspector, request);
    case SOFTPSP_CMD_SUBSCRIBE:
      return subscribe(request);
    case SOFTPSP_CMD_KEY_GET:
      return key_get(services.inspector, request);
    case SOFTPSP_CMD_SERVE_GET:
      return serve_get(services.core, request);
    default:
      return -EOPNOTSUPP;
  }
}

int dump_softpsp(Services& services, Request& request, std::unique_ptr<DumpSource>& source) {
  Inspector* const inspector = services.inspector;
  if (inspector == nullptr) return -EOPNOTSUPP;
  const std::uint64_t netns = request.caller.netns;
  const bool home = netns == inspector->home_netns();
  if (request.cmd() == SOFTPSP_CMD_PACKET_GET) {
    if (!home) return -EPERM;
    source = list(inspector->kept_packets());
    return 0;
  }
  if (request.cmd() == SOFTPSP_CMD_INFO_GET) {
    auto devices = inspector->daemon_info().devices;
    std::erase_if(devices, [&](const DaemonInfo::Device& one) {
      return !home && !services.core.devices().find(one.id, netns);
    });
    source = list(std::move(devices));
    return 0;
  }
  Inspector::Visible visible;
  if (!home)
    visible = [&core = services.core, netns](std::uint64_t cookie) {
      const device::Association* association = core.associations().find(cookie);
      return association != nullptr && association->netdev.netns == netns;
    };
  source = std::make_unique<AssocSource>(inspector->associations(std::move(visible)));
  return 0;
}

}  // namespace psp::netlink
