// SPDX-License-Identifier: Apache-2.0
//
// For tests of the core and of what runs it (control, host, pspctl's fake pspd): a driver that
// fails on demand and keeps a log, sockets that are a few fields, netdevs in namespaces by number,
// a listener that writes down what it hears. Each counts what a real one could not forgive, such as
// a key deleted twice or a netdev attached twice. None has a key that is secret, or a thread.
#pragma once

#include <cerrno>
#include <map>
#include <new>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "device/core.hh"

namespace psp::device {

// FakeDriver fails an operation when its fail_ member holds an error. Its keys are 00 01 02 ...
class FakeDriver final : public Driver {
 public:
  Result<void> set_config(const DeviceConfig& current, const DeviceConfig& next) override {
    configs.emplace_back(current, next);
    if (fail_config) return std::unexpected(*fail_config);
    return {};
  }
  Result<std::uint8_t> key_rotate(std::uint8_t proposed) override {
    proposals.push_back(proposed);
    if (fail_rotate) return std::unexpected(*fail_rotate);
    return answer_generation.value_or(proposed);
  }
  Result<RxKey> rx_spi_alloc(std::uint64_t netns, Version version) override {
    if (fail_alloc) return std::unexpected(*fail_alloc);
    asked_in.push_back(netns);
    RxKey rx{Spi{next_spi++}, {}};
    rx.key.resize(key_size(version));
    for (std::size_t i = 0; i < rx.key.size(); ++i) rx.key.data()[i] = static_cast<std::uint8_t>(i);
    return rx;
  }
  Result<std::uint32_t> tx_key_add(std::uint64_t netns, Version version, Spi spi,
                                   std::span<const std::uint8_t> key) override {
    if (fail_tx) return std::unexpected(*fail_tx);
    added.push_back({version, spi, {key.begin(), key.end()}});
    tx_keys.insert(next_handle);
    key_netns[next_handle] = netns;
    return next_handle++;
  }
  void tx_key_del(std::uint64_t netns, std::uint32_t handle) override {
    if (tx_keys.erase(handle) == 0 || key_netns[handle] != netns) ++bad_deletes;
  }
  void netns_unused(std::uint64_t netns) override { unused.push_back(netns); }
  Result<DriverStats> get_stats() override {
    if (fail_stats) return std::unexpected(*fail_stats);
    return counters;
  }

  // refuse lets all that can fail do so, until it is given nothing.
  void refuse(const std::optional<Error>& error) {
    fail_config = fail_rotate = fail_alloc = fail_tx = fail_stats = error;
  }

  struct Added {
    Version version;
    Spi spi;
    std::vector<std::uint8_t> key;
  };
  std::optional<Error> fail_config, fail_rotate, fail_alloc, fail_tx, fail_stats;
  std::optional<std::uint8_t> answer_generation;
  DriverStats counters;
  std::vector<std::pair<DeviceConfig, DeviceConfig>> configs;
  std::vector<std::uint8_t> proposals;
  std::vector<Added> added;
  std::set<std::uint32_t> tx_keys;
  std::map<std::uint32_t, std::uint64_t> key_netns;  // by handle
  std::vector<std::uint64_t> asked_in, unused;       // namespaces: of SPIs; without keys any more
  int bad_deletes = 0;
  std::uint32_t next_spi = 1, next_handle = 1;
};

// ModelSockets is a table of sockets by descriptor.
class ModelSockets final : public SocketOps {
 public:
  struct Socket {
    SocketInfo info{};
    bool tcp = true;
    bool queued_clear = false;    // something in clear waits to be read
    bool becomes_closed = false;  // between examine and attach
    std::optional<Association> attached{};
  };

  Result<SocketInfo> examine(int fd) override {
    const auto it = sockets.find(fd);
    if (it == sockets.end()) return fail(EBADF);
    if (!it->second.tcp)
      return fail(EOPNOTSUPP, "Unsupported socket family and type", Field::kSockFd);
    return it->second.info;
  }
  Result<void> rx_attach(int fd, const Association& association) override {
    Socket& socket = sockets.at(fd);
    if (socket.becomes_closed) return fail(ENOTCONN, "Socket must be in established state");
    if (socket.attached) return fail(EBUSY, "Socket already has PSP state");
    if (refuse_rx) return std::unexpected(*refuse_rx);
    if (out_of_memory) throw std::bad_alloc();
    socket.attached = association;
    return {};
  }
  Result<TxSwitch> tx_attach(int fd, const Association& association) override {
    Socket& socket = sockets.at(fd);
    if (socket.becomes_closed) return fail(ENOTCONN, "Socket must be in established state");
    if (socket.queued_clear)
      return fail(EBUSY, "Socket has incompatible segments already in the recv queue");
    if (out_of_memory) throw std::bad_alloc();
    socket.attached = association;
    return switched_in_vain ? TxSwitch::kInVain : TxSwitch::kDone;
  }

  std::map<int, Socket> sockets;
  std::optional<Error> refuse_rx;
  bool out_of_memory = false;
  bool switched_in_vain = false;  // tx_attach: see SocketOps
};

// FakeNetdevs is a host with some namespaces: nsid n means the cookie 100 + n, wherever asked.
class FakeNetdevs final : public NetdevOps {
 public:
  Result<std::uint64_t> netns_of(std::uint64_t caller, std::int32_t nsid) override {
    asked_in.push_back(caller);
    if (nsid < 0 || nsid > 9) return fail(EINVAL);
    return 100 + static_cast<std::uint64_t>(nsid);
  }
  std::int32_t nsid_of(std::uint64_t caller, std::uint64_t netns) override {
    return caller == netns ? 77 : static_cast<std::int32_t>(netns) - 100;
  }
  Result<void> attach(const Device& device, NetdevKey netdev) override {
    if (absent.contains(netdev)) return fail(ENODEV, "", Field::kIfindex);
    if (refuse_attach) return std::unexpected(*refuse_attach);
    if (out_of_memory) throw std::bad_alloc();
    if (!attached.emplace(netdev, device.id).second) ++mistakes;
    return {};
  }
  Result<void> detach(const Device& device, NetdevKey netdev) override {
    if (refuse_detach) return std::unexpected(*refuse_detach);
    abandon(device, netdev);
    return {};
  }
  void abandon(const Device& device, NetdevKey netdev) override {
    const auto it = attached.find(netdev);
    if (it == attached.end() || it->second != device.id) ++mistakes;
    attached.erase(netdev);
  }

  std::map<NetdevKey, std::uint16_t> attached;
  std::set<NetdevKey> absent;
  std::optional<Error> refuse_attach, refuse_detach;
  bool out_of_memory = false;
  std::vector<std::uint64_t> asked_in;
  int mistakes = 0;  // attached twice, or detached without having been attached
};

// LogNotifier writes one line for each notification.
class LogNotifier final : public Notifier {
 public:
  void device_added(const Device& d) override { note("add", d); }
  void device_removed(const Device& d) override { note("del", d); }
  void device_changed(const Device& d) override {
    lines.push_back("change " + std::to_string(d.id) + " ena " +
                    std::to_string(d.config.versions_ena.bits) +
                    (d.associated.empty() ? "" : " with " + std::to_string(d.associated.size())));
  }
  void device_left(const Device& d, std::uint64_t netns) override {
    lines.push_back("left " + std::to_string(d.id) + " in " + std::to_string(netns));
  }
  void key_rotated(const Device& d) override { note("rotate", d); }
  std::vector<std::string> take() { return std::exchange(lines, {}); }

  std::vector<std::string> lines;

 private:
  void note(const char* what, const Device& d) {
    lines.push_back(std::string(what) + " " + std::to_string(d.id));
  }
};

}  // namespace psp::device
