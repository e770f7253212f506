// SPDX-License-Identifier: Apache-2.0
//
// The server of the `psp` family: netlink octets in, netlink octets out. It has no socket: whoever
// owns one (src/control) carries datagrams, descriptors and credentials in and out, and tests
// and fuzzers call it directly.
//
// Beside `psp` it serves `nlctrl` (to resolve names) and `softpsp`, a family of our own for what
// the kernel's has no words for: associations, facts about the daemon, membership in multicast
// groups (a unix socket has no setsockopt for that).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "device/core.hh"
#include "netlink/caller.hh"
#include "netlink/inspector.hh"
#include "netlink/messages/message.hh"

namespace psp::netlink {

// wipe overwrites octets that may hold a key: the transport calls it on every request and every
// answer once it is done with it (an error quotes the request).
void wipe(std::span<std::uint8_t> octets);

// overrun is the message that tells a listener that it has lost notifications.
std::span<const std::uint8_t> overrun();

// Server answers requests and turns the core's events into notifications.
// Thread: the control thread only.
class Server final : public device::Notifier {
 public:
  // `inspector` may be null: the softpsp family's dumps are then EOPNOTSUPP.
  Server(device::Core& core, Inspector* inspector);
  ~Server() override;

  // handle answers one datagram: one or more netlink messages. `fd` is the descriptor that came
  // with it, or -1; it is borrowed. Answers (replies, acks, errors, the first parts of a dump) are
  // appended to `out`, each a datagram of at most 16 KiB. Never fails: what cannot be parsed is
  // answered as the kernel does. A client has one dump at a time: another one is EBUSY until its
  // end.
  void handle(Caller& caller, std::span<const std::uint8_t> request, int fd,
              std::vector<Datagram>& out);

  // resume appends the next parts of the caller's dump to `out`, at most 32 KiB, or nothing if
  // there is nothing to tell yet: to be called when what was there before is sent. False: no dump
  // was in progress, nothing is appended. Dumps of devices that came or went meanwhile have
  // NLM_F_DUMP_INTR; one that takes too much memory for too long ends with ENOBUFS.
  bool resume(Caller& caller, std::vector<Datagram>& out);

  // set_multicast sets where notifications go: called with the group's bit, the namespace whose
  // members are meant and the message, once for each namespace that sees the device. An empty
  // message: there was no memory to make it, so all of these members lose it.
  using Multicast =
      std::function<void(std::uint32_t group_bit, std::uint64_t netns, const Datagram&)>;
  void set_multicast(Multicast send);

  void device_added(const device::Device&) override;
  void device_removed(const device::Device&) override;
  void device_changed(const device::Device&) override;
  void device_left(const device::Device&, std::uint64_t netns) override;
  void key_rotated(const device::Device&) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace psp::netlink
