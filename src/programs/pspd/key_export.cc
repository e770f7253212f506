// SPDX-License-Identifier: Apache-2.0
//
// The part of the daemon that gives away keys: to root of the home namespace (the Server sees to
// that), only if pspd was started with --allow-key-export, one key for one captured packet that it
// authenticates, and never without a line in the log.
//
// Threading: the control thread.
#include <cerrno>
#include <optional>
#include <spdlog/spdlog.h>

#include <psp/wire/header.hh>
#include <psp/wire/version_text.hh>

#include "daemon.hh"

namespace psp {

using device::Association;
using device::fail;
using device::Result;

Result<CapturedKey> Daemon::captured_key(const netlink::Caller& caller,
                                         std::span<const std::uint8_t> datagram) {
  if (!options_.allow_key_export) {
    spdlog::warn("keys were asked for by uid {}, pid {}: refused, there is no --allow-key-export",
                 caller.uid, caller.pid);
    return fail(EPERM, "pspd was not started with --allow-key-export");
  }
  if (datagram.empty()) {
    spdlog::warn("KEY EXPORT: uid {}, pid {} takes the keys of connections that it captures",
                 caller.uid, caller.pid);
    return {};
  }
  const auto header = wire::parse_header(datagram);
  if (!header || !header->version()) return fail(EINVAL, "not a PSP packet");
  CapturedKey found{.version = *header->version(), .spi = header->spi, .key = {}};
  const char* direction = "";
  core_->for_each_association([&](const Association& association) {
    const datapath::HostDevice* device = device_by_id(association.dev_id);
    if (!found.key.empty() || device == nullptr || association.version != found.version) return;
    const std::uint64_t netns = association.netdev.netns;
    std::optional<crypto::SaKey> key;
    if (association.rx_spi == found.spi) {
      key = device->driver().rx_key_of(netns, datagram);
      direction = "Rx";
    }
    if (!key && association.tx_spi == found.spi) {
      key = device->driver().tx_key_of(netns, association.tx_handle, datagram);
      direction = "Tx";
    }
    if (key) found.key = std::move(*key);
  });
  if (found.key.empty()) return fail(ENOENT, "a packet of no connection that is secured here");
  spdlog::warn("KEY EXPORT: uid {}, pid {} was given the {} key of SPI {:08x}, {}", caller.uid,
               caller.pid, direction, found.spi.value, name(found.version));
  return found;
}

}  // namespace psp
