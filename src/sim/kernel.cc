// SPDX-License-Identifier: Apache-2.0
//
// Sockets as applications have them, and the two calls that the programs of the cgroup see:
// setsockopt and getsockopt, by which pspd reaches a socket. The programs run first, and may take
// the call for theirs, refuse it, or leave it to the kernel, with Linux's return values.
//
// pspd hears of a socket that has gone only if somebody has asked for its cookie before, as whoever
// secures it does. Socket storage goes with the socket, before anybody is told.
#include "kernel.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

namespace psp::sim {

Kernel::Kernel(Schedule& schedule, Random random, const KernelOptions& options,
               std::shared_ptr<Common> shared, Wire wire)
    : on_gone(shared->on_gone),
      common(std::move(shared)),
      cgroup(common->cgroup),
      schedule_(schedule),
      random_(random),
      options_(options),
      wire_(std::move(wire)) {
  control_ = std::make_shared<Tcp>(*this, 1);
  tap_socket_ = std::make_shared<Tcp>(*this, 2);
  if (random_.chance(700'000)) timestamp_base_ = static_cast<std::uint32_t>(random_.next()) | 1;
  recycles_ = random_.chance(500'000);
  packet_socket_ = std::make_shared<Tcp>(*this, 3);
  renew(options_.netns);
}

void Kernel::renew(std::uint64_t netns) {
  options_.netns = netns;
  mark = 0;
  by_tuple_.clear();
  for (const std::uint32_t ifindex : {kNetdev, kOther}) {
    netdevs_[ifindex] = Netdev{};
    netdevs_[ifindex].numbers = {ifindex, netns, {}, {}};
  }
  control_->netns = tap_socket_->netns = packet_socket_->netns = netns;
  for (auto& [port, listener] : listeners_) listener.socket->netns = netns;
}

Netdev& Kernel::netdev(std::uint32_t ifindex) { return netdevs_.at(ifindex); }

Netdev* Kernel::find_netdev(std::uint32_t ifindex) {
  const auto found = netdevs_.find(ifindex);
  return found == netdevs_.end() ? nullptr : &found->second;
}

Netdev& Kernel::add_tap() {
  const std::uint32_t ifindex = ++last_netdev_;
  Netdev& tap = netdevs_[ifindex];
  tap.numbers = {ifindex, options_.netns, {}, {}};
  tap.tap = true;
  tap_queue.clear();
  return tap;
}

void Kernel::remove_tap(std::uint32_t ifindex) {
  netdevs_.erase(ifindex);
  tap_queue.clear();
}

std::shared_ptr<Tcp> Kernel::open() {
  auto socket = std::make_shared<Tcp>(*this, ++common->last_socket);
  socket->netns = options_.netns;
  full_[socket->id] = socket;
  ++full_sockets;
  return socket;
}

// timestamp_base: Linux makes it of the addresses, and of late of the ports too.
std::uint32_t Kernel::timestamp_base() {
  const auto own = static_cast<std::uint32_t>(random_.next());
  return timestamp_base_ != 0 ? timestamp_base_ : own;
}

// is_free: may a socket connect with these ports? With tcp_tw_reuse it takes the place of one in
// TIME_WAIT a second after the peer's last timestamp.
bool Kernel::is_free(const Tuple& tuple) const {
  const auto found = by_tuple_.find(tuple);
  if (found == by_tuple_.end()) return true;
  const auto* past = dynamic_cast<const TimeWait*>(found->second.get());
  return recycles_ && past != nullptr && past->timestamps &&
         schedule_.now() / kSecond > past->recent_at / kSecond;
}

void Kernel::connect(Tcp& socket, Tuple to) {
  while (to.local_port == 0 || !is_free(to))
    to.local_port = last_port_ =
        static_cast<std::uint16_t>(last_port_ < 60000 ? last_port_ + 1 : 40000);
  by_tuple_[to] = socket.shared_from_this();
  socket.route = &netdev(route).numbers;
  socket.connect(to);
}

std::shared_ptr<Tcp> Kernel::listen(std::uint16_t port,
                                    std::function<void(std::shared_ptr<Tcp>)> accept) {
  auto socket = std::make_shared<Tcp>(*this, ++common->last_socket);
  socket->netns = options_.netns;
  socket->state = PSP_TCP_LISTEN;
  socket->tuple.local_port = port;
  listeners_[port] = {socket, std::move(accept)};
  return socket;
}

void Kernel::unlisten(std::uint16_t port) {
  listeners_.erase(port);
  std::erase_if(by_tuple_, [port](const auto& one) {
    return one.first.local_port == port && std::dynamic_pointer_cast<Request>(one.second);
  });
}

void Kernel::release(Tcp& socket) {
  for (const Program& program : cgroup.release) {
    const Running call(*this, *program.object);
    psp_released(&socket.refresh());
  }
  if (socket.state == PSP_TCP_LISTEN) unlisten(socket.tuple.local_port);
}

std::vector<std::shared_ptr<Tcp>> Kernel::listed() const {
  std::vector<std::shared_ptr<Tcp>> all;
  for (const auto& [tuple, sock] : by_tuple_)
    if (auto socket = std::dynamic_pointer_cast<Tcp>(sock)) all.push_back(std::move(socket));
  return all;
}

void Kernel::unhash(Tcp& socket) {
  const auto found = by_tuple_.find(socket.tuple);
  if (found != by_tuple_.end() && found->second.get() == &socket) by_tuple_.erase(found);
  if (on_ended) on_ended(socket.id);
}

void Kernel::has_ended(Tcp& socket) {
  if (full_.erase(socket.id) == 0) return;
  --full_sockets;
  for (const auto& weak : common->storages)
    if (const auto storage = weak.lock()) (void)storage->erase(&socket.id);
  if (on_gone && socket.asked) on_gone(socket.id);
}

int Kernel::setsockopt(Tcp& socket, int level, int name, const void* value, std::size_t size) {
  std::vector<std::uint8_t> copy(size);
  std::memcpy(copy.data(), value, size);
  shim_sockopt ctx{};
  ctx.sk = &socket.refresh();
  ctx.optval = copy.data();
  ctx.optval_end = copy.data() + size;
  ctx.level = level;
  ctx.optname = name;
  ctx.optlen = static_cast<std::int32_t>(size);
  int refused = 0;
  for (const Program& program : cgroup.setsockopt) {
    Running call(*this, *program.object);
    if (psp_setsockopt(&ctx) == 0 && refused == 0)
      refused = call.retval != 0 ? call.retval : -EPERM;
  }
  if (refused != 0) return refused;
  if (ctx.optlen == -1) return 0;
  if (level == IPPROTO_TCP && name == TCP_NODELAY) {
    socket.nagle = std::ranges::all_of(copy, [](std::uint8_t octet) { return octet == 0; });
    socket.write(0);  // what waited goes
    return 0;
  }
  if (level != IPPROTO_IP || name != IP_OPTIONS) return -ENOPROTOOPT;
  socket.ip_options = size;
  return 0;
}

int Kernel::getsockopt(Tcp& socket, int level, int name, void* value, std::uint32_t& size) {
  const auto put = [&](std::uint64_t number) {
    std::memcpy(value, &number, size);
    return 0;
  };
  if (level == SOL_SOCKET) {
    if (name == SO_DOMAIN) return put(socket.tuple.family == 4 ? AF_INET : AF_INET6);
    if (name == SO_TYPE) return put(static_cast<unsigned>(socket.type));
    if (name == SO_PROTOCOL) return put(static_cast<unsigned>(socket.protocol));
    socket.asked = true;
    return name == SO_COOKIE ? put(socket.id) : -ENOPROTOOPT;
  }
  if (level == IPPROTO_IP && name == IP_OPTIONS) {
    size = static_cast<std::uint32_t>(socket.ip_options);
    return 0;
  }
  shim_sockopt ctx{};
  ctx.sk = &socket.refresh();
  ctx.optval = value;
  ctx.optval_end = static_cast<char*>(value) + size;
  ctx.level = level;
  ctx.optname = name;
  ctx.optlen = static_cast<std::int32_t>(size);
  ctx.retval = -ENOPROTOOPT;
  if (level == IPPROTO_TCP && name == TCP_MAXSEG && size == sizeof(std::uint32_t)) {
    put(socket.maximum_segment());
    ctx.retval = 0;
  }
  for (const Program& program : cgroup.getsockopt) {
    const Running call(*this, *program.object);
    if (psp_getsockopt(&ctx) == 0) return -EPERM;
  }
  size = static_cast<std::uint32_t>(ctx.optlen);
  return ctx.retval;
}

}  // namespace psp::sim
