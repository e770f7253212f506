// SPDX-License-Identifier: Apache-2.0
//
// The BPF programs of one pspd: loading, attaching, checking, removing. What is attached here
// outlives the process on purpose (see bpf/netdev.bpf.c); what the next pspd does about it is in
// leftover.hh.
//
// Threading: the control thread only.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <linux/bpf.h>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/unique_fd.hh"
#include "bpf/structs.h"
#include "wire/types.hh"

#include "netdev.hh"
#include "upkeep.hh"

namespace psp::kernel {

// FirstPrograms are the ids of those that must be the first to see a netdev's packets.
struct FirstPrograms {
  std::uint32_t egress = 0, ingress = 0;
};

// quiet_libbpf is for the whole process: libbpf's own words on stderr would stand beside ours, and
// its errors come as return values.
void quiet_libbpf();

// Secrets tell the programs of one pspd from the rest of the world; random, never printed.
struct Secrets {
  std::uint64_t epoch = 0;
  std::array<std::uint64_t, 2> token{};
  std::uint32_t view_optname = 0;
  std::uint32_t mark = 0;
  std::uint16_t verified = 0;

  static Secrets random();
};

using DropCounts = std::array<std::uint64_t, 32>;  // by enum psp_drop_reason

// SharedMaps are what the programs of one pspd know of sockets and their connections. They outlive
// it with its programs, and the next pspd takes them on: sockets that an earlier one secured stay
// blocked, by its epoch, for as long as they are there.
struct SharedMaps {
  UniqueFd assoc, departed, noted;
  UniqueFd by_tx_spi;  // goes with the last netdev: then a new one does

  bool complete() const { return assoc && departed && noted; }
};

// SocketMaps are the same of the pspd that serves: descriptors of its SocketPrograms.
struct SocketMaps {
  int assoc = -1, guard = -1, departed = -1, by_tx_spi = -1, noted = -1;
};

// SocketPrograms are the cgroup programs and the maps that all devices of a pspd share.
class SocketPrograms {
 public:
  // load takes an earlier pspd's maps on, if there are `inherited` and this version understands
  // them; else it makes some for `max_secured` sockets with a Tx key. Errors: a sentence.
  static std::expected<SocketPrograms, std::string> load(const Secrets& secrets,
                                                         std::uint32_t max_secured,
                                                         const SharedMaps* inherited);
  SocketPrograms(SocketPrograms&&) noexcept;
  SocketPrograms& operator=(SocketPrograms&&) noexcept;
  ~SocketPrograms();  // does not detach

  // attach notes first, for the next pspd, in which namespaces there may be secured sockets, then
  // attaches them to the cgroup root; those of an earlier pspd stay. Errors: a sentence; detach
  // then cleans up.
  [[nodiscard]] std::expected<void, std::string> attach(std::span<const std::uint64_t> namespaces);
  // missing says which of them is not at the cgroup root any more, or that they lost the note of
  // whose they are. put_back undoes that. Errors: a sentence.
  Finding missing() const;
  [[nodiscard]] std::expected<void, std::string> put_back() const;
  // detach takes them off the cgroup root. Errors: a sentence.
  [[nodiscard]] std::expected<void, std::string> detach();
  // inherited: the maps are an earlier pspd's.
  bool inherited() const;

  const SocketMaps& maps() const;
  // living_socket goes with this process. One for all netdevs, since a socket keeps the namespace
  // that it was made in from ending.
  int living_socket() const;
  // guard says which programs of that PSP device are on a netdev; else no secured socket sends or
  // is sent anything by it. False: there is no room for more.
  [[nodiscard]] bool guard(device::NetdevKey netdev, std::uint16_t dev_id,
                           const FirstPrograms& programs) const;
  // guards: does the kernel still have it so? Errors: a sentence.
  [[nodiscard]] std::expected<bool, std::string> guards(device::NetdevKey netdev,
                                                        std::uint16_t dev_id,
                                                        const FirstPrograms& programs) const;
  // note says, for the next pspd, that there may be programs on a netdev; nothing secured is sent
  // by it. unguard: there are none any more.
  [[nodiscard]] bool note(device::NetdevKey netdev) const { return guard(netdev, 0, {}); }
  void unguard(device::NetdevKey netdev) const;
  // remember notes, for the next pspd, that sockets of a namespace may be secured.
  [[nodiscard]] bool remember(std::uint64_t netns) const { return guard({netns, 0}, 0, {}); }
  void forget(std::uint64_t netns) const { unguard({netns, 0}); }
  DropCounts drops() const;
  // program is the file descriptor of a program, by name; for tests.
  int program(const std::string& name) const;

 private:
  struct Impl;
  explicit SocketPrograms(std::unique_ptr<Impl> impl);
  void guard_changed() const;
  std::unique_ptr<Impl> impl_;
};

// NetdevPrograms are the packet programs of one netdev of a device.
class NetdevPrograms {
 public:
  static std::expected<NetdevPrograms, std::string> load(const Secrets& secrets,
                                                         const SocketPrograms& shared,
                                                         const Netdev& netdev,
                                                         std::uint32_t tap_ifindex,
                                                         std::uint16_t dev_id);
  NetdevPrograms(NetdevPrograms&&) noexcept;
  NetdevPrograms& operator=(NetdevPrograms&&) noexcept;
  ~NetdevPrograms();  // does not detach

  // attach puts the programs at the doors of the TAP, then at those of the netdev, first in line;
  // those of an earlier pspd are replaced without a gap. What is there already stays. Errors: a
  // sentence; restore_netdev then cleans up.
  [[nodiscard]] std::expected<void, std::string> attach();
  // missing says which program does not stand where it belongs, and first in line.
  Finding missing() const;
  FirstPrograms first_programs() const;
  // notice is a sentence for the log about a second line of defence that is missing, or empty.
  const std::string& notice() const;

  [[nodiscard]] bool set_mac(const std::array<std::uint8_t, 6>& mac);
  [[nodiscard]] bool set_versions(VersionSet ena);
  // set_rotation says how often the device has rotated its keys: what is two behind cannot match.
  [[nodiscard]] bool set_rotation(std::uint32_t rotation);
  [[nodiscard]] bool set_restore(std::uint32_t bits);
  std::uint32_t restore() const;
  DropCounts drops() const;
  int program(const std::string& name) const;

 private:
  struct Impl;
  explicit NetdevPrograms(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// kCgroupPrograms are the programs at the root of the cgroup tree, with what they are attached as,
// in the order in which they come; they go the other way. psp_sock_out is there whenever another
// is: it blocks, and by it the next pspd finds them all.
inline constexpr std::array<std::pair<const char*, bpf_attach_type>, 5> kCgroupPrograms = {{
    {"psp_sock_out", BPF_CGROUP_INET_EGRESS},
    {"psp_sock_in", BPF_CGROUP_INET_INGRESS},
    {"psp_setsockopt", BPF_CGROUP_SETSOCKOPT},
    {"psp_getsockopt", BPF_CGROUP_GETSOCKOPT},
    {"psp_released", BPF_CGROUP_INET_SOCK_RELEASE},
}};

}  // namespace psp::kernel
