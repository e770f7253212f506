// SPDX-License-Identifier: Apache-2.0
//
// Asking: a client of a modelled pspd. It says what it wants as octets of the `psp` family, and
// reads the answer out of octets, as netlink::Client does over a socket; between the two stands the
// real netlink::Server. What the groups are told is counted, so that whoever rotates keys can see
// that the members have heard of it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "netlink/error.hh"
#include "netlink/messages/psp.hh"
#include "netlink/server.hh"

namespace psp::sim {

class Asking {
 public:
  // Both outlive this. The requests come from that namespace, of somebody who may do everything.
  Asking(netlink::Server& server, std::uint64_t netns);

  // OfDevice: the id of one, or that of the socket's route.
  using OfDevice = std::optional<std::uint32_t>;
  ClientResult<RxAssocInfo> rx_assoc(int fd, OfDevice device, Version version);
  ClientResult<void> tx_assoc(int fd, OfDevice device, Version version, Spi spi,
                              std::span<const std::uint8_t> key);
  // dev_assoc and dev_disassoc: that netdev of the namespace which the asker knows as `nsid`.
  ClientResult<void> dev_assoc(std::uint32_t device, std::uint32_t ifindex, std::int32_t nsid);
  ClientResult<void> dev_disassoc(std::uint32_t device, std::uint32_t ifindex, std::int32_t nsid);
  ClientResult<void> key_rotate(std::uint32_t device);
  ClientResult<void> set_versions(std::uint32_t device, VersionSet versions);

 private:
  ClientResult<void> ask(std::uint8_t command, const netlink::DeviceRequest& request);
  using Fill = std::function<void(netlink::Writer&)>;
  using OnAnswer = std::function<void(std::span<const std::uint8_t> attributes)>;
  ClientResult<void> ask(std::uint8_t command, int fd, const Fill& fill, const OnAnswer& on_answer);

  netlink::Server& server_;
  netlink::Caller caller_;
  std::uint32_t sequence_ = 0;
};

}  // namespace psp::sim
