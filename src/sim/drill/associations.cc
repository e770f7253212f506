// SPDX-License-Identifier: Apache-2.0
//
// What the application asks pspd. Requests are as clients make them, with and without a device, so
// that the real core says who is refused and why.
//
// A call is over before any other packet comes: what arrives within one is not of this model.
#include "drill/host.hh"
#include "drill/refusal.hh"

namespace psp::sim {
namespace {

constexpr std::array kStates = {"none", "rx", "tx", "full"};

// Asking is a request about a socket, whose descriptor pspd has for as long.
class Asking {
 public:
  Asking(Daemon& daemon, const std::shared_ptr<Tcp>& socket, const nlohmann::json& request)
      : process_(daemon.process()), inside_(process_) {
    assoc.fd = process_.borrow(socket);
    assoc.version = static_cast<Version>(request.at("version").get<unsigned>());
    if (const auto& device = request.at("device"); !device.is_null())
      assoc.dev_id = device.get<std::uint32_t>();
  }
  ~Asking() { process_.give_back(*assoc.fd); }
  Asking(const Asking&) = delete;
  Asking& operator=(const Asking&) = delete;

  device::AssocRequest assoc;

 private:
  Process& process_;
  Process::Inside inside_;
};

template <typename T>
void expect(const device::Result<T>& result) {
  if (!result) throw Refused{result.error().sys_errno, result.error().text};
}

}  // namespace

DrillHost::Json DrillHost::rx_assoc(const Json& request) {
  Daemon& daemon = serving();
  const Asking asking(daemon, file(request).socket, request);
  const auto reply = daemon.core().rx_assoc(asking.assoc, machine_->kernel.options().netns);
  expect(reply);
  return {reply->rx_key.spi.value, to_hex(reply->rx_key.key.span())};
}

DrillHost::Json DrillHost::tx_assoc(const Json& request) {
  Daemon& daemon = serving();
  Asking asking(daemon, file(request).socket, request);
  const Octets key = from_hex(request.at("key"));
  asking.assoc.tx_key = {.spi = request.at("spi").get<std::uint32_t>(), .key = key};
  expect(daemon.core().tx_assoc(asking.assoc, machine_->kernel.options().netns));
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
