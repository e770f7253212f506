// SPDX-License-Identifier: Apache-2.0
//
// What the application asks pspd. Requests travel as netlink, with and without a device, so that
// the real server and core say who is refused and why.
//
// A call is over before any other packet comes: what arrives within one is not of this model.
#include "drill/host.hh"
#include "drill/refusal.hh"

namespace psp::sim {
namespace {

constexpr std::array kStates = {"none", "rx", "tx", "full"};

Daemon::OfDevice device_of(const nlohmann::json& request) {
  const auto& device = request.at("device");
  return device.is_null() ? std::nullopt : std::optional(device.get<std::uint32_t>());
}

Version version_of(const nlohmann::json& request) {
  return static_cast<Version>(request.at("version").get<unsigned>());
}

template <typename T>
void expect(const T& result) {
  if (!result) throw Refused{result.error().sys_errno, result.error().text};
}

}  // namespace

DrillHost::Json DrillHost::rx_assoc(const Json& request) {
  const auto reply =
      serving().rx_assoc(file(request).socket, device_of(request), version_of(request));
  expect(reply);
  return {reply->rx.spi.value, to_hex(reply->rx.key.span())};
}

DrillHost::Json DrillHost::tx_assoc(const Json& request) {
  const Octets key = from_hex(request.at("key"));
  expect(serving().tx_assoc(file(request).socket, device_of(request), version_of(request),
                            Spi{request.at("spi").get<std::uint32_t>()}, key));
  return nullptr;
}

// state is that of a socket as a listing has it: of one that has a connection.
DrillHost::Json DrillHost::state(const Json& request) {
  const Tcp& of = socket(request);
  const psp_sock* known = of.is_over() ? nullptr : serving().state_of(of);
  return kStates.at(known == nullptr ? 0 : known->state);
}

DrillHost::Json DrillHost::counters(const Json& /*request*/) {
  Daemon& daemon = serving();
  const auto stats = daemon.core().stats(daemon.identity().device);
  expect(stats);
  const device::DriverStats& driver = stats->driver;
  Json all = {{"key-rotations", stats->key_rotations},
              {"stale-events", stats->stale_events},
              {"rx-packets", driver.rx_packets},
              {"rx-bytes", driver.rx_bytes},
              {"rx-auth-fail", driver.rx_auth_fail},
              {"rx-error", driver.rx_error},
              {"rx-bad", driver.rx_bad},
              {"tx-packets", driver.tx_packets},
              {"tx-bytes", driver.tx_bytes},
              {"tx-error", driver.tx_error}};
  for (const Drop reason : {Drop::POLICY_CLEAR, Drop::POLICY_MISMATCH, Drop::POLICY_NO_ASSOC,
                            Drop::POLICY_ROUTE, Drop::POLICY_EPOCH, Drop::POLICY_FORGED})
    all[std::string(name(reason))] = daemon.drops(reason);
  return all;
}

DrillHost::Json DrillHost::devices(const Json& /*request*/) {
  return Json::array({serving().identity().device});
}

DrillHost::Json DrillHost::rotate(const Json& /*request*/) {
  serving().rotate();
  return nullptr;
}

DrillHost::Json DrillHost::enable(const Json& request) {
  serving().enable(VersionSet{request.at("mask").get<std::uint8_t>()});
  return nullptr;
}

}  // namespace psp::sim
