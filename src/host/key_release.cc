// SPDX-License-Identifier: Apache-2.0
//
// The key is looked for by the packet's SPI among all associations, in both directions, and given
// only if the packet is authentic under it: whoever asks has seen that packet.
//
// An SPI alone would not do: those of peers are their choice, so several associations may have the
// same one, and whoever guesses would be given a stranger's key. An empty packet asks whether there
// would be an answer at all, so that a capture need not find out with its first one.
#include "key_release.hh"

#include <cerrno>
#include <optional>

#include "wire/header.hh"
#include "wire/version_text.hh"

namespace psp::host {

using device::Association;
using device::fail;
using device::Result;

Result<CapturedKey> KeyRelease::key_of(const netlink::Caller& caller,
                                       std::span<const std::uint8_t> datagram) const {
  if (!allowed_) {
    log_.warn("keys were asked for by uid {}, pid {}: refused, there is no --allow-key-export",
              caller.uid, caller.pid);
    return fail(EPERM, "pspd was not started with --allow-key-export");
  }
  if (datagram.empty()) {
    log_.warn("KEY EXPORT: uid {}, pid {} takes the keys of connections that it captures",
              caller.uid, caller.pid);
    return {};
  }
  const auto header = wire::parse_header(datagram);
  if (!header || !header->version()) return fail(EINVAL, "not a PSP packet");
  CapturedKey found{.version = *header->version(), .spi = header->spi, .key = {}};
  const char* direction = "";
  core_.associations().for_each([&](const Association& association) {
    const device::SoftwareDevice* driver = driver_(association.rx.dev_id);
    if (!found.key.empty() || driver == nullptr || association.version() != found.version) return;
    const std::uint64_t netns = association.netdev.netns;
    std::optional<crypto::SaKey> key;
    if (association.rx_spi() == found.spi) {
      key = driver->rx_key_of(netns, datagram);
      direction = "Rx";
    }
    if (!key && association.tx_spi == found.spi) {
      key = driver->tx_key_of(netns, association.tx_handle, datagram);
      direction = "Tx";
    }
    if (key) found.key = std::move(*key);
  });
  if (found.key.empty()) return fail(ENOENT, "a packet of no connection that is secured here");
  log_.warn("KEY EXPORT: uid {}, pid {} was given the {} key of SPI {:08x}, {}", caller.uid,
            caller.pid, direction, found.spi.value, name(found.version));
  return found;
}

}  // namespace psp::host
