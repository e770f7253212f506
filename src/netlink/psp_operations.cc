// SPDX-License-Identifier: Apache-2.0
//
// The operations of the `psp` family. The core has the rules; here its answers become messages, as
// the kernel's psp_nl.c fills them. What a caller sees of a device depends on its namespace and,
// where releases differ, on the rule set (seen_from). The descriptor that counts is the one that
// came beside the message: the number inside is the client's own. It is borrowed; the transport
// closes it.
//
// Threading: the control thread.
#include <cerrno>
#include <utility>

#include "netlink/operations.hh"
#include <psp/netlink/uapi.h>

namespace psp::netlink {
namespace {

StatsInfo stats_info(std::uint32_t id, const device::DeviceStats& stats) {
  return {.dev_id = id,
          .key_rotations = stats.key_rotations,
          .stale_events = stats.stale_events,
          .rx_packets = stats.driver.rx_packets,
          .rx_bytes = stats.driver.rx_bytes,
          .rx_auth_fail = stats.driver.rx_auth_fail,
          .rx_error = stats.driver.rx_error,
          .rx_bad = stats.driver.rx_bad,
          .tx_packets = stats.driver.tx_packets,
          .tx_bytes = stats.driver.tx_bytes,
          .tx_error = stats.driver.tx_error};
}

// DeviceSource lists the devices that a namespace sees, or their statistics.
class DeviceSource final : public DumpSource {
 public:
  DeviceSource(device::Core& core, std::uint64_t netns, bool stats)
      : core_(core), netns_(netns), stats_(stats) {}
  int put(Writer& writer, const char** text) override {
    const device::Device* device = core_.devices().next(last_, netns_);
    if (device == nullptr) return 0;
    at_ = device->id;
    if (!stats_) {
      netlink::put(writer, seen_from(netns_, core_, *device));
      return 1;
    }
    const auto stats = core_.stats(device->id, netns_);
    if (!stats) {
      *text = stats.error().text;
      return -stats.error().sys_errno;
    }
    netlink::put(writer, stats_info(device->id, *stats));
    return 1;
  }
  void next() override { last_ = at_; }
  std::uint64_t epoch() const override { return core_.devices().epoch(); }

 private:
  device::Core& core_;
  std::uint64_t netns_;
  bool stats_;
  std::uint16_t last_ = 0, at_ = 0;
};

int dev_get(device::Core& core, Request& request) {
  if (!request.require(PSPNL_DEV_ID)) return -EINVAL;
  const std::uint64_t netns = request.caller.netns;
  const auto device = core.devices().find(*request.as<DeviceRequest>().id, netns);
  if (!device) return request.refuse(device.error());
  return request.reply(seen_from(netns, core, **device));
}

int dev_set(device::Core& core, Request& request) {
  if (!request.require(PSPNL_DEV_ID)) return -EINVAL;
  const auto asked = request.as<DeviceRequest>();
  const auto done = core.set_versions(*asked.id, asked.versions_ena, request.caller.netns);
  return done ? request.reply() : request.refuse(done.error());
}

int key_rotate(device::Core& core, Request& request) {
  if (!request.require(PSPNL_DEV_ID)) return -EINVAL;
  const auto device = core.key_rotate(*request.as<DeviceRequest>().id, request.caller.netns);
  if (!device) return request.refuse(device.error());
  return request.reply(DeviceRequest{.id = (*device)->id});
}

device::AssocRequest assoc_request(const Request& request) {
  auto assoc = request.as<device::AssocRequest>();
  // The number is the client's own; what counts is the descriptor that came beside the message.
  if (assoc.fd) assoc.fd = request.fd;
  return assoc;
}

int rx_assoc(Services& services, Request& request) {
  auto done = services.core.rx_assoc(assoc_request(request), request.caller.netns);
  if (!done) {
    const device::Error& error = done.error();
    if (services.inspector != nullptr && (error.sys_errno == ENOSPC || error.sys_errno == EDQUOT))
      services.inspector->no_room(request.caller, request.fd, error);
    return request.refuse(error);
  }
  return request.reply(RxAssocInfo{
      .dev_id = done->dev_id, .rx = {.spi = done->rx_key.spi, .key = std::move(done->rx_key.key)}});
}

int tx_assoc(device::Core& core, Request& request) {
  const auto done = core.tx_assoc(assoc_request(request), request.caller.netns);
  return done ? request.reply() : request.refuse(done.error());
}

int get_stats(device::Core& core, Request& request) {
  if (!request.require(PSPNL_STATS_DEV_ID)) return -EINVAL;
  const std::uint32_t id = *request.as<StatsRequest>().dev_id;
  const auto stats = core.stats(id, request.caller.netns);
  if (!stats) return request.refuse(stats.error());
  return request.reply(stats_info(id, *stats));
}

int dev_assoc(device::Core& core, Request& request) {
  if (!request.require(PSPNL_DEV_ID)) return -EINVAL;
  const auto asked = request.as<DeviceRequest>();
  const std::uint64_t netns = request.caller.netns;
  const auto done = request.cmd() == PSPNL_CMD_DEV_ASSOC
                        ? core.dev_assoc(netns, *asked.id, asked.ifindex, asked.nsid)
                        : core.dev_disassoc(netns, *asked.id, asked.ifindex, asked.nsid);
  return done ? request.reply() : request.refuse(done.error());
}

}  // namespace

DeviceInfo seen_from(std::uint64_t netns, const device::Core& core, const device::Device& device) {
  const bool main = device.netdev.netns == netns;
  const bool frank = main || core.compat() < device::Compat::kNetNext;
  DeviceInfo info;
  info.id = device.id;
  if (frank) info.ifindex = device.netdev.ifindex;
  info.versions_cap = device.versions_cap;
  info.versions_ena = device.config.versions_ena;
  info.by_association = !main;
  if (!frank) return info;
  for (const device::NetdevKey netdev : device.associated) {
    if (!main && netdev.netns != netns) continue;
    info.associated.push_back(
        {.ifindex = netdev.ifindex, .nsid = main ? core.nsid_of(netns, netdev.netns) : -1});
  }
  return info;
}

int do_psp(Services& services, Request& request) {
  switch (request.cmd()) {
    case PSPNL_CMD_DEV_GET:
      return dev_get(services.core, request);
    case PSPNL_CMD_DEV_SET:
      return dev_set(services.core, request);
    case PSPNL_CMD_KEY_ROTATE:
      return key_rotate(services.core, request);
    case PSPNL_CMD_RX_ASSOC:
      return rx_assoc(services, request);
    case PSPNL_CMD_TX_ASSOC:
      return tx_assoc(services.core, request);
    case PSPNL_CMD_GET_STATS:
      return get_stats(services.core, request);
    case PSPNL_CMD_DEV_ASSOC:
    case PSPNL_CMD_DEV_DISASSOC:
      return dev_assoc(services.core, request);
    default:
      return -EOPNOTSUPP;
  }
}

int dump_psp(Services& services, Request& request, std::unique_ptr<DumpSource>& source) {
  source = std::make_unique<DeviceSource>(services.core, request.caller.netns,
                                          request.cmd() == PSPNL_CMD_GET_STATS);
  return 0;
}

}  // namespace psp::netlink
