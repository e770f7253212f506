// SPDX-License-Identifier: Apache-2.0
//
// The BPF programs of one pspd: loading, attaching, checking, removing. What is attached here
// outlives the process on purpose (see bpf/netdev.bpf.c), so there is also what the next pspd needs
// to find and replace it.
//
// Threading: the control thread only.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <psp/base/unique_fd.hh>
#include <psp/wire/types.hh>

#include "bpf/abi.h"
#include "netdev.hh"

struct bpf_object;
struct bpf_program;

namespace psp::datapath {

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

// SocketPrograms are the cgroup programs and the maps that all devices of a pspd share.
class SocketPrograms {
 public:
  static std::expected<SocketPrograms, std::string> load(const Secrets& secrets);
  SocketPrograms(SocketPrograms&&) noexcept;
  SocketPrograms& operator=(SocketPrograms&&) noexcept;
  ~SocketPrograms();  // does not detach

  std::expected<void, std::string> attach();
  void detach();

  int assoc_map() const;
  int departed_map() const;
  int tx_spi_map() const;
  // guard says that the tc programs of that PSP device are in place on a netdev; else psp_sock_out
  // lets no secured socket send by it.
  void guard(device::NetdevKey netdev, std::uint16_t dev_id) const;
  void unguard(device::NetdevKey netdev) const;
  // remember notes, for the next pspd, that sockets of a namespace may be secured.
  void remember(std::uint64_t netns) const { guard({netns, 0}, 0); }
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

// NetdevPrograms are the tc programs of one device.
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

  // attach puts the programs on the TAP, then on the netdev; an earlier pspd's are replaced there
  // without a gap. The clsact qdisc is made where there is none.
  std::expected<void, std::string> attach();
  // remove_filters takes the filters off the netdev, and nothing else.
  void remove_filters();
  // detach takes the filters away, and the clsact if it is ours and nobody else uses it.
  void detach();
  // attached checks that the filters on the netdev are still these programs, and first in line.
  bool attached() const;

  void set_mac(const std::array<std::uint8_t, 6>& mac);
  void set_versions(VersionSet ena);
  // set_rotation says how often the device has rotated its keys: what is two behind cannot match.
  void set_rotation(std::uint32_t rotation);
  void set_restore(std::uint32_t bits);
  std::uint32_t restore() const;
  DropCounts drops() const;
  int program(const std::string& name) const;

 private:
  struct Impl;
  explicit NetdevPrograms(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Leftover is what a killed pspd left.
struct Leftover {
  UniqueFd assoc_map;  // the associations of its sockets
  std::uint32_t assoc_map_id = 0;
  std::uint32_t restore = 0;  // host settings that it meant to put back on the netdev asked for
  std::vector<device::NetdevKey> netdevs;  // all that have its programs; ifindex 0: a namespace
                                           // where sockets may be secured
};

// find_leftover looks for programs of an earlier pspd on a netdev of the current namespace.
std::optional<Leftover> find_leftover(const Netdev& netdev);

// remove_filters takes an earlier pspd's programs off a netdev, with the clsact it made, and puts
// the netdev's settings back.
void remove_filters(const Netdev& netdev, const Leftover& leftover);

// remove_leftover takes an earlier pspd's programs off the cgroup root and, if `filters`, off the
// netdev as remove_filters does. Its secured sockets must be gone: they would go on in clear.
void remove_leftover(const Netdev& netdev, const Leftover& leftover, bool filters);

// find_orphans finds the programs at the cgroup root whose pspd is dead.
std::vector<Leftover> find_orphans();

// remove_orphan takes them off. What they still block in a network namespace that nobody can find
// goes on in clear by other netdevs than its own: only for an administrator who says so.
void remove_orphan(const Leftover& orphan);

}  // namespace psp::datapath
