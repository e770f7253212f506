// SPDX-License-Identifier: Apache-2.0
//
// PspOps by way of psp::Client, and what a user must do where there is no PSP: every reason names
// the netdev and the command that helps. Whether a connection can be received is asked before an
// OFFER promises it: which device has the netdev of its route, and which versions are enabled
// there. What is remembered saves that for the next connection; if it has become wrong, rx_assoc
// fails and the reason is looked up then.
#include "keyx/client_ops.hh"

#include <algorithm>
#include <cerrno>
#include <fmt/format.h>
#include <net/if.h>
#include <utility>

namespace psp::keyx {
namespace {

std::string netdev_name(unsigned ifindex) {
  char name[IF_NAMESIZE];
  return if_indextoname(ifindex, name) != nullptr ? name : fmt::format("netdev {}", ifindex);
}

Availability absent(Absence absence, std::string reason) {
  return {.absence = absence, .reason = std::move(reason)};
}

// serves tells whether a socket that sends by netdev `ifindex` of this namespace uses the device.
bool serves(const DeviceInfo& device, unsigned ifindex) {
  if (!device.by_association && device.ifindex == ifindex) return true;
  return std::any_of(
      device.associated.begin(), device.associated.end(),
      [&](const AssociatedNetdev& netdev) { return netdev.nsid < 0 && netdev.ifindex == ifindex; });
}

// ConnectedOps is ClientOps that owns its client.
class ConnectedOps final : public PspOps {
 public:
  ConnectedOps(Client client, std::chrono::milliseconds remember)
      : client_(std::move(client)), ops_(client_, remember) {}
  Availability available(int fd) override { return ops_.available(fd); }
  ClientResult<RxAssocInfo> rx_assoc(int fd, Version version) override {
    return ops_.rx_assoc(fd, version);
  }
  ClientResult<void> tx_assoc(int fd, Version version, const KeyInfo& tx) override {
    return ops_.tx_assoc(fd, version, tx);
  }

 private:
  Client client_;
  ClientOps ops_;
};

}  // namespace

Availability ClientOps::available(int fd) {
  if (asked_ && std::chrono::steady_clock::now() - *asked_ < remember_)
    if (Availability known = recall(fd); known.versions.bits != 0) return known;
  auto devices = client_.devices();
  if (!devices) {
    const int error = devices.error().sys_errno;
    const bool permission = error == EPERM || error == EACCES;
    return absent(permission ? Absence::kPermission : Absence::kFault, devices.error().message);
  }
  devices_ = std::move(*devices);
  Availability answer = look(fd, devices_);
  asked_.reset();
  if (answer.versions.bits != 0) asked_ = std::chrono::steady_clock::now();
  return answer;
}

// recall answers from what is remembered. With one device, and that of pspd, there is no need to
// look up the route, which takes as long as asking pspd: rx_assoc goes by the socket's route and
// fails if it is not the device's.
Availability ClientOps::recall(int fd) {
  if (devices_.size() != 1 || devices_.front().provider != Provider::kDaemon)
    return look(fd, devices_);
  const DeviceInfo& only = devices_.front();
  return {.versions = {only.versions_cap.bits & only.versions_ena.bits}};
}

Availability ClientOps::look(int fd, const std::vector<DeviceInfo>& devices) {
  const auto route = routes_.ifindex(fd);
  const DeviceInfo* device = nullptr;
  for (const auto& candidate : devices)  // pspd's come first, and Client asks pspd first
    if (device == nullptr && route && serves(candidate, *route)) device = &candidate;
  if (device == nullptr) {
    if (!route) return absent(Absence::kNoDevice, "the connection has no route");
    const std::string name = netdev_name(*route);
    if (name == "lo")
      return absent(Absence::kNoDevice,
                    "the connection stays within this host (lo), where there is no PSP device");
    return absent(
        Absence::kNoDevice,
        fmt::format("the connection goes by {0}, which has no PSP device: start pspd with "
                    "--dev {0}",
                    name));
  }
  const VersionSet both{device->versions_cap.bits & device->versions_ena.bits};
  if (both.bits == 0) {
    const std::string name = netdev_name(*route);
    return absent(Absence::kDisabled,
                  fmt::format("the PSP device of {0} has receive disabled: pspctl dev set {0} "
                              "psp-versions-ena all",
                              name));
  }
  return {.versions = both};
}

ClientResult<RxAssocInfo> ClientOps::rx_assoc(int fd, Version version) {
  auto info = client_.rx_assoc(fd, version);
  // What was remembered may not be so, or not for this connection: what would a look have said?
  if (!info && std::exchange(asked_, std::nullopt))
    if (const Availability now = available(fd); now.versions.bits == 0)
      info.error().message = now.reason;
  return info;
}

ClientResult<void> ClientOps::tx_assoc(int fd, Version version, const KeyInfo& tx) {
  return client_.tx_assoc(fd, version, tx);
}

ClientResult<std::unique_ptr<PspOps>> connect_ops(const std::optional<std::string>& socket,
                                                  std::chrono::milliseconds remember) {
  auto client = Client::connect(socket);
  if (!client) return std::unexpected(client.error());
  return std::make_unique<ConnectedOps>(std::move(*client), remember);
}

std::unique_ptr<PspOps> connect_or_absent(const std::optional<std::string>& socket) {
  auto ops = connect_ops(socket);
  if (ops) return std::move(*ops);
  const auto& error = ops.error();
  const bool permission = error.sys_errno == EPERM || error.sys_errno == EACCES;
  return std::make_unique<AbsentOps>(permission ? Absence::kPermission : Absence::kNoProvider,
                                     error.message);
}

Availability AbsentOps::available(int) { return absent(absence_, reason_); }

ClientResult<RxAssocInfo> AbsentOps::rx_assoc(int, Version) {
  return client_error(EOPNOTSUPP, reason_);
}

ClientResult<void> AbsentOps::tx_assoc(int, Version, const KeyInfo&) {
  return client_error(EOPNOTSUPP, reason_);
}

}  // namespace psp::keyx
