// SPDX-License-Identifier: Apache-2.0
//
// A pspd without packets, in a thread of the test: the real control socket, server and core over
// models. Descriptors are real: a TCP socket can be secured once, whatever number it has here.
//
// It is for tests of what talks to a pspd: clients, libpsp-genl.so, psp-proxy. No root is needed,
// and no packet is sealed; keys are the fake driver's. The mark of a socket (SO_MARK) stands for
// the number of the netdev that its route leads to: 7 is the first device's.
#pragma once

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <memory>
#include <netinet/in.h>
#include <set>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <vector>

#include "base/event_loop.hh"
#include "base/socket_options.hh"
#include "base/unique_fd.hh"
#include "device/core.hh"
#include "device/core_fakes.hh"
#include "netlink/server.hh"

#include "control_socket.hh"

namespace psp::control {

// AnySockets takes every TCP socket, once. Its mark is the netdev of its route.
class AnySockets final : public device::SocketOps {
 public:
  device::Result<device::SocketInfo> examine(int fd) override {
    const auto protocol = get_option<int>(fd, SOL_SOCKET, SO_PROTOCOL);
    if (!protocol) return device::fail(errno);
    if (*protocol != IPPROTO_TCP)
      return device::fail(EOPNOTSUPP, "Unsupported socket family and type", device::Field::kSockFd);
    device::SocketInfo info;
    info.cookie = get_option<std::uint64_t>(fd, SOL_SOCKET, SO_COOKIE).value_or(0);
    info.netns = netns_cookie(fd);
    info.route_ifindex = get_option<std::uint32_t>(fd, SOL_SOCKET, SO_MARK).value_or(0);
    info.established = true;
    return info;
  }
  device::Result<void> rx_attach(int, const device::Association& association) override {
    if (!secured_.insert(association.cookie).second)
      return device::fail(EBUSY, "Socket already has PSP state", device::Field::kSockFd);
    return {};
  }
  device::Result<device::TxSwitch> tx_attach(int, const device::Association&) override {
    return {};
  }

 private:
  std::set<std::uint64_t> secured_;
};

// ModelDaemon runs from construction to destruction, in the namespace of the thread that makes it.
class ModelDaemon {
 public:
  explicit ModelDaemon(const std::string& address, std::uint32_t devices = 1,
                       netlink::Inspector* inspector = nullptr, std::uint16_t first_id = 1)
      : core_(sockets_, nullptr, {.first_id = first_id}), server_(core_, inspector) {
    const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM, 0));
    const std::uint64_t netns = netns_cookie(probe.get());
    core_.set_notifier(&server_);
    for (std::uint32_t i = 0; i < devices; i++)
      (void)core_.add_device({netns, 7 + i}, "eth0", VersionSet::all(), driver_);
    auto control = ControlSocket::listen(clients_, address);
    if (!control) {
      error_ = control.error();
      return;
    }
    control_ = std::move(*control);
    beat_ = loop_.every(std::chrono::milliseconds(5), [this] {
      if (stop_) loop_.stop(0);
      while (pause_) {
        paused_ = true;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      paused_ = false;
    });
    thread_ = std::thread([this] { loop_.run(); });
  }
  ~ModelDaemon() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  ModelDaemon(const ModelDaemon&) = delete;
  ModelDaemon& operator=(const ModelDaemon&) = delete;

  // pause keeps the daemon from doing anything, from the return of this call on.
  void pause(bool on) {
    pause_ = on;
    while (on && !paused_) std::this_thread::yield();
  }
  const std::string& error() const { return error_; }

 private:
  device::FakeDriver driver_;
  AnySockets sockets_;
  device::Core core_;
  netlink::Server server_;
  EventLoop loop_;
  Clients clients_{loop_, server_};
  std::unique_ptr<ControlSocket> control_;
  EventLoop::Source beat_;
  std::atomic<bool> stop_ = false, pause_ = false, paused_ = false;
  std::string error_;
  std::thread thread_;
};

}  // namespace psp::control
