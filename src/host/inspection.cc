// SPDX-License-Identifier: Apache-2.0
//
// What is seen of a socket is the kernel's; whether its key is stale only the core knows. The
// socket programs serve all devices: what is of them is shown with the first.
//
// A list can be long, and most of it not for whoever asks: one call looks at no more than kAtOnce
// sockets and then says "later", so that others have their turns. A refusal for want of room is the
// socket owner's, who need not be the one that asked.
#include "inspection.hh"

#include <cerrno>
#include <chrono>
#include <functional>
#include <optional>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "device/state_table.h"
#include "wire/drop.hh"

#include "assoc_info.hh"

namespace psp::host {
namespace {

using netlink::Associations;

// ListAssociations tells of the sockets of a list, in the order in which the kernel has them.
class ListAssociations final : public Associations {
 public:
  using Describe = std::function<std::optional<AssocInfo>(const kernel::SecuredSocket&)>;

  // describe: nothing for a socket that is not to be told of.
  ListAssociations(std::shared_ptr<const SocketLists::List> list, Describe describe)
      : list_(std::move(list)), describe_(std::move(describe)) {}

  device::Result<Next> next(AssocInfo& one) override {
    using State = SocketLists::List::State;
    if (list_->state == State::kWanted) return Next::kLater;
    if (list_->state == State::kFailed) return device::fail(EIO, "TCP sockets cannot be listed");
    if (list_->state == State::kDropped)
      return device::fail(ENOBUFS, "Too many lists of sockets are being read");
    const auto& sockets = list_->found.sockets;
    for (std::size_t i = 0; i < kAtOnce && at_ < sockets.size(); i++)
      if (auto info = describe_(sockets[at_++])) {
        one = std::move(*info);
        return Next::kOne;
      }
    return at_ < sockets.size() ? Next::kLater : Next::kEnd;
  }

 private:
  static constexpr std::size_t kAtOnce = 4096;
  std::shared_ptr<const SocketLists::List> list_;
  Describe describe_;
  std::size_t at_ = 0;
};

}  // namespace

Inspection::Inspection(Self self, Devices& devices, const SecuredSockets& sockets,
                       SocketLists& lists, bool keys_allowed, const Loop& loop, const Log& log)
    : self_(std::move(self)),
      devices_(devices),
      sockets_(sockets),
      lists_(lists),
      key_release_(
          devices.core(),
          [&devices](std::uint16_t id) {
            const kernel::HostDevice* device = devices.find(id);
            return device != nullptr ? &device->driver() : nullptr;
          },
          keys_allowed, log),
      loop_(loop),
      log_(log) {}

std::unique_ptr<Associations> Inspection::associations(Visible visible) {
  return std::make_unique<ListAssociations>(
      lists_.ask(),
      [this, visible = std::move(visible)](
          const kernel::SecuredSocket& socket) -> std::optional<AssocInfo> {
        if (visible && !visible(socket.cookie())) return std::nullopt;
        return describe(socket);
      });
}

std::optional<AssocInfo> Inspection::describe(const kernel::SecuredSocket& socket) const {
  if (!sockets_.is_own(socket) || socket.assoc.state == PSP_STATE_NONE) return std::nullopt;
  AssocInfo info = assoc_info(socket);
  if (const auto* device = devices_.find(socket.assoc.rx.dev_id))
    info.ifname = device->netdev().name;
  if (const auto* association = devices_.core().associations().find(info.cookie))
    info.stale = association->stale;
  return info;
}

std::vector<KeptPacket> Inspection::kept_packets() {
  std::vector<KeptPacket> all;
  for (const auto& device : devices_.all())
    for (device::LoggedPacket& packet : device->driver().packets())
      all.push_back({.dev_id = device->id(),
                     .number = packet.number,
                     .nanoseconds = packet.nanoseconds,
                     .transmit = packet.path == device::PacketPath::kTransmit,
                     .reason = packet.reason,
                     .length = packet.length,
                     .octets = std::move(packet.octets)});
  return all;
}

void Inspection::no_room(const netlink::Caller& caller, int fd, const device::Error& error) {
  struct stat socket {};
  const uid_t owner = ::fstat(fd, &socket) == 0 ? socket.st_uid : caller.uid;
  const auto line =
      refusals_.refuse(error, {.uid = caller.uid, .pid = caller.pid, .owner = owner}, loop_.now());
  if (line) log_.warn("{}", *line);
  std::erase_if(refused_, [&](const auto& one) { return devices_.find(one.first) == nullptr; });
  if (const auto device = devices_.core().device_of(fd)) refused_[*device]++;
}

DaemonInfo Inspection::daemon_info() {
  DaemonInfo info;
  info.version = self_.version;
  info.crypto_backend = self_.crypto_backend;
  info.pid = static_cast<std::uint32_t>(::getpid());
  info.instance = self_.instance;
  for (const auto& device : devices_.all()) info.devices.push_back(device_info(*device));
  return info;
}

DaemonInfo::Device Inspection::device_info(const kernel::HostDevice& device) {
  DaemonInfo::Device info;
  info.id = device.id();
  info.ifname = device.netdev().name;
  info.tap = device.tap().name();
  info.mtu = device.netdev().mtu;
  info.spi_remaining = device.driver().spi_remaining();
  if (const auto found = devices_.core().devices().find(device.id()))
    info.generation = (*found)->generation;
  kernel::DropCounts drops = device.drops();
  kernel::Condition condition = device.condition();
  if (&device == devices_.all().front().get()) {
    const kernel::DropCounts shared = sockets_.drops();
    for (std::size_t i = 0; i < drops.size(); i++) drops[i] += shared[i];
    condition.add(sockets_.condition());
    info.refused = sockets_.refused();
  }
  if (const auto found = refused_.find(device.id()); found != refused_.end())
    info.refused += found->second;
  info.repairs = condition.repairs;
  info.trouble = condition.trouble;
  for (std::size_t i = 1; i < drops.size(); i++)
    if (drops[i] != 0) info.drops.emplace_back(name(static_cast<Drop>(i)), drops[i]);
  return info;
}

}  // namespace psp::host
