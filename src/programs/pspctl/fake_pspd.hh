// SPDX-License-Identifier: Apache-2.0
//
// For tests: the real server of the psp family over a core with fake drivers, listening at an
// abstract unix socket of its own.
//
// Threading: one thread owns core, server and connections from start() on. Everything a test may
// change is set before start(); wait_for_member() is the only meeting point.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <poll.h>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/unique_fd.hh"
#include "base/unix_address.hh"
#include "device/core_fakes.hh"
#include "netlink/server.hh"

namespace psp::ctl {

class FakePspd final : public netlink::Inspector {
 public:
  // kPassedFd is the descriptor by which the core knows one that came with a request.
  static constexpr int kPassedFd = 1000;

  FakePspd() : core(sockets, &netdevs) {
    static std::atomic<int> serial{0};
    address = "@pspctl-test-" + std::to_string(getpid()) + "-" + std::to_string(serial++);
  }
  ~FakePspd() override {
    stop_ = UniqueFd();  // wakes the thread: end of file on the pipe
    if (thread_.joinable()) thread_.join();
  }

  void start() {
    server_ = std::make_unique<netlink::Server>(core, with_inspector ? this : nullptr);
    core.set_notifier(server_.get());
    server_->set_multicast(
        [this](std::uint32_t bit, std::uint64_t where, const netlink::Datagram& message) {
          for (const auto& one : connections_)
            if ((one->caller.groups & bit) != 0 && one->caller.netns == where)
              send(one->fd.get(), message.data(), message.size(), MSG_NOSIGNAL);
        });
    const auto name = UnixAddress::parse(address);
    listener_ = UniqueFd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    bind(listener_.get(), name->get(), name->length());
    listen(listener_.get(), 8);
    std::array<int, 2> ends{};
    if (pipe(ends.data()) != 0) std::abort();
    wake_ = UniqueFd(ends[0]);
    stop_ = UniqueFd(ends[1]);
    thread_ = std::thread([this] { serve(); });
  }

  // wait_for_member returns once a client has joined a multicast group.
  void wait_for_member() {
    std::unique_lock lock(mutex_);
    joined_.wait(lock, [this] { return members_ != 0; });
  }

  // lose_notifications tells all members that they have lost some. To be called while they wait.
  void lose_notifications() {
    const auto sign = netlink::overrun();
    for (const auto& one : connections_)
      if (one->caller.groups != 0) send(one->fd.get(), sign.data(), sign.size(), MSG_NOSIGNAL);
  }

  std::string address;
  bool net_admin = true;
  std::uint64_t netns = 0;  // that the server takes callers to be in
  bool with_inspector = true;
  std::vector<AssocInfo> assocs;
  DaemonInfo info;
  device::FakeDriver driver, second_driver;
  device::ModelSockets sockets;
  device::FakeNetdevs netdevs;
  device::Core core;

 private:
  struct Connection {
    UniqueFd fd;
    netlink::Caller caller;
  };

  std::unique_ptr<netlink::Associations> associations(Visible) override {
    return std::make_unique<netlink::ListedAssociations>(assocs);
  }
  DaemonInfo daemon_info() override { return info; }

  void serve() {
    while (true) {
      std::vector<pollfd> waits = {{wake_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
      for (const auto& one : connections_) waits.push_back({one->fd.get(), POLLIN, 0});
      poll(waits.data(), waits.size(), -1);
      if (waits[0].revents != 0) return;
      for (std::size_t i = waits.size(); i-- > 2;)
        if (waits[i].revents != 0 && !answer(*connections_[i - 2]))
          connections_.erase(connections_.begin() + static_cast<std::ptrdiff_t>(i - 2));
      if (waits[1].revents != 0) {
        connections_.push_back(std::make_unique<Connection>());
        connections_.back()->fd = UniqueFd(accept(listener_.get(), nullptr, nullptr));
        connections_.back()->caller.net_admin = net_admin;
        connections_.back()->caller.netns = netns;
      }
    }
  }

  bool answer(Connection& one) {
    std::array<std::uint8_t, 16384> octets;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    iovec place = {octets.data(), octets.size()};
    msghdr message{};
    message.msg_iov = &place;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t size = recvmsg(one.fd.get(), &message, MSG_CMSG_CLOEXEC);
    if (size <= 0) return false;
    UniqueFd passed;
    if (const cmsghdr* header = CMSG_FIRSTHDR(&message)) {
      int fd = -1;
      std::copy_n(CMSG_DATA(header), sizeof fd, reinterpret_cast<unsigned char*>(&fd));
      passed = UniqueFd(fd);
    }
    std::vector<netlink::Datagram> answers;
    server_->handle(one.caller, {octets.data(), static_cast<std::size_t>(size)},
                    passed ? kPassedFd : -1, answers);
    for (const auto& part : answers) send(one.fd.get(), part.data(), part.size(), MSG_NOSIGNAL);
    const std::lock_guard lock(mutex_);
    if (one.caller.groups != 0) ++members_;
    joined_.notify_all();
    return true;
  }

  std::unique_ptr<netlink::Server> server_;
  std::vector<std::unique_ptr<Connection>> connections_;
  UniqueFd listener_, wake_, stop_;
  std::mutex mutex_;
  std::condition_variable joined_;
  int members_ = 0;
  std::thread thread_;
};

}  // namespace psp::ctl
