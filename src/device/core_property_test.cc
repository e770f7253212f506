// SPDX-License-Identifier: Apache-2.0
//
// The core against a model small enough to be read at a glance: random operations on one device and
// a handful of sockets, everything visible compared after each step. It finds what nobody thought
// of in the order of rx-assoc, tx-assoc, close and rotation: a key that is left behind, a stale
// connection counted twice. Drivers that fail, other namespaces and the words of refusals are in
// the other tests of the core.
#include <gtest/gtest.h>  // before rapidcheck's, which does not include it
#include <map>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>
#include <rapidcheck/state.h>
#include <set>

#include "core_fakes.hh"

namespace psp::device {
namespace {

constexpr int kSockets = 4;

// What one must know of a socket: how many rotations its Rx key has seen, whether it has a Tx key.
struct ModelAssociation {
  unsigned age = 0;
  bool tx = false;
};

struct Model {
  std::map<int, ModelAssociation> associations;  // by descriptor
  unsigned rotations = 0;
  std::uint64_t stale_events = 0;
};

struct System {
  System() {
    core.add_device({0, 1}, "eth0", VersionSet::all(), driver);
    for (int fd = 0; fd < kSockets; ++fd) fresh_socket(fd);
  }
  // A new socket behind the descriptor, with a new cookie as every socket has.
  void fresh_socket(int fd) {
    sockets.sockets[fd] = {
        .info = {.cookie = ++last_cookie, .route_ifindex = 1, .established = true}};
  }
  std::uint64_t cookie(int fd) const { return sockets.sockets.at(fd).info.cookie; }

  FakeDriver driver;
  ModelSockets sockets;
  Core core{sockets};
  std::uint64_t last_cookie = 0;
};

void compare(const Model& model, const System& system) {
  RC_ASSERT(system.core.associations().size() == model.associations.size());
  std::size_t tx_keys = 0;
  for (int fd = 0; fd < kSockets; ++fd) {
    const Association* association = system.core.associations().find(system.cookie(fd));
    const auto it = model.associations.find(fd);
    RC_ASSERT((association != nullptr) == (it != model.associations.end()));
    if (association == nullptr) continue;
    RC_ASSERT(association->stale == (it->second.age >= 2));
    RC_ASSERT(association->tx_spi.has_value() == it->second.tx);
    RC_ASSERT(association->rx.generation == ((model.rotations - it->second.age) & 0x7f));
    tx_keys += it->second.tx;
  }
  RC_ASSERT(system.driver.tx_keys.size() == tx_keys);
  RC_ASSERT(system.driver.bad_deletes == 0);
  const Device& device = *system.core.devices().all().at(0);
  RC_ASSERT(device.key_rotations == model.rotations);
  RC_ASSERT(device.stale_events == model.stale_events);
}

using Command = rc::state::Command<Model, System>;

struct SocketCommand : Command {
  int fd = *rc::gen::inRange(0, kSockets);
};

struct RxAssoc : SocketCommand {
  void apply(Model& model) const override { model.associations.try_emplace(fd); }
  void run(const Model& before, System& system) const override {
    AssocRequest request;
    request.fd = fd;
    request.version = Version::kAesGcm256;
    RC_ASSERT(system.core.rx_assoc(request).has_value() != before.associations.contains(fd));
    compare(nextState(before), system);
  }
  void show(std::ostream& os) const override { os << "rx_assoc " << fd; }
};

struct TxAssoc : SocketCommand {
  bool queued = *rc::gen::arbitrary<bool>();
  void apply(Model& model) const override {
    const auto it = model.associations.find(fd);
    if (it != model.associations.end() && !queued) it->second.tx = true;
  }
  void run(const Model& before, System& system) const override {
    const std::array<std::uint8_t, 32> key{};
    AssocRequest request;
    request.fd = fd;
    request.version = Version::kAesGcm256;
    request.tx_key = AssocRequest::Keys{.spi = 1, .key = key};
    system.sockets.sockets[fd].queued_clear = queued;
    const auto it = before.associations.find(fd);
    const bool possible = it != before.associations.end() && !it->second.tx && !queued;
    RC_ASSERT(system.core.tx_assoc(request).has_value() == possible);
    compare(nextState(before), system);
  }
  void show(std::ostream& os) const override { os << "tx_assoc " << fd << (queued ? " !" : ""); }
};

struct Close : SocketCommand {
  void apply(Model& model) const override { model.associations.erase(fd); }
  void run(const Model& before, System& system) const override {
    system.core.release(system.cookie(fd));
    system.fresh_socket(fd);
    compare(nextState(before), system);
  }
  void show(std::ostream& os) const override { os << "close " << fd; }
};

struct Rotate : Command {
  void apply(Model& model) const override {
    ++model.rotations;
    for (auto& [fd, association] : model.associations)
      if (++association.age == 2) ++model.stale_events;
  }
  void run(const Model& before, System& system) const override {
    RC_ASSERT(system.core.key_rotate(1).has_value());
    compare(nextState(before), system);
  }
  void show(std::ostream& os) const override { os << "rotate"; }
};

RC_GTEST_PROP(CoreProperty, BehavesAsTheModel, ()) {
  System system;
  rc::state::check(Model{}, system,
                   rc::state::gen::execOneOfWithArgs<RxAssoc, TxAssoc, Close, Rotate>());
}

}  // namespace
}  // namespace psp::device
