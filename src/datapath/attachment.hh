// SPDX-License-Identifier: Apache-2.0
//
// Attachment: a netdev whose sockets use a PSP device. It has a TAP, tc programs and workers of its
// own, all in the netdev's network namespace, whose keys its workers have. A device has one on its
// main netdev and one on each that is associated with it.
//
// Threading: the control thread, outside of all InNetns; the workers have threads of their own.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <psp/device/software_driver.hh>

#include "netdev.hh"
#include "netns.hh"
#include "programs.hh"
#include "tap.hh"
#include "upkeep.hh"
#include "worker.hh"

namespace psp::datapath {

struct HostDeviceOptions {
  device::SoftwareDriverOptions driver;
  TxOptions tx;
  Peers peers;
  unsigned workers = 1;  // TAP queues, each with a thread
  std::uint32_t busy_poll_us = 0;
  std::vector<unsigned> cpus;  // of the workers, in turn; empty: any
};

class Attachment {
 public:
  // open makes the TAP and the workers. `driver` is the namespace's, `lock` that of the netdev (see
  // lock_netdev). What is passed by reference outlives the attachment. Errors: a sentence.
  static std::expected<std::unique_ptr<Attachment>, std::string> open(
      const Netns& netns, const Netdev& netdev, UniqueFd lock, device::SoftwareDriver& driver,
      const HostDeviceOptions& options);

  // The programs stay where they are, and with them the block on secured sockets, unless detach was
  // called; no socket may send by the netdev any more.
  ~Attachment();
  Attachment(const Attachment&) = delete;
  Attachment& operator=(const Attachment&) = delete;

  // start puts the programs in place, then brings the TAP up, then lets sockets send. What a killed
  // pspd left on the netdev is taken over: its sockets must be gone (see end_secured_sockets).
  // Errors: a sentence; detach then cleans up.
  [[nodiscard]] std::expected<void, std::string> start(const Secrets& secrets,
                                                       const SocketPrograms& shared,
                                                       std::uint16_t dev_id, VersionSet versions,
                                                       std::uint32_t rotation);

  // detach takes the programs off the netdev and puts its settings back. Errors: a sentence.
  [[nodiscard]] std::expected<void, std::string> detach();

  // leave_in_place is for a pspd that ends with its programs in place, to be found by the next.
  void leave_in_place() { shared_ = nullptr; }

  // refresh takes over a new name, MTU or address. False: the netdev has gone; true if the kernel
  // does not tell.
  bool refresh();
  // failed says why nothing can be sealed or opened any more: the TAP has gone, or somebody else
  // has attached to it, as whoever has CAP_NET_ADMIN there can, and is given packets to be sealed.
  // Nothing if the kernel does not tell: it is asked again.
  std::optional<std::string> failed() const;
  // heal puts back what somebody has changed: the TAP's state, the programs, their order, the notes
  // that let sockets send. Sentences for the log if things have changed.
  std::vector<std::string> heal(std::chrono::steady_clock::time_point now);
  // condition is what heal has done so far, and what is wrong now.
  Condition condition() const;

  [[nodiscard]] bool set_versions(VersionSet versions);
  [[nodiscard]] bool set_rotation(std::uint32_t rotation);

  const Netdev& netdev() const { return netdev_; }
  const Tap& tap() const { return tap_; }
  const std::vector<std::string>& notices() const { return notices_; }
  DropCounts drops() const;  // of the programs
  // references is how many of the references to its network namespace are this attachment's.
  std::size_t references() const { return tap_.queues(); }

 private:
  Attachment(const Netns& netns, const Netdev& netdev, UniqueFd lock, Tap tap)
      : netns_(netns), netdev_(netdev), lock_(std::move(lock)), tap_(std::move(tap)) {}
  [[nodiscard]] std::expected<void, std::string> tune();
  bool has_failed_worker() const;
  Finding missing() const;
  [[nodiscard]] std::expected<void, std::string> put_back();
  [[nodiscard]] std::expected<void, std::string> let_send() const;

  const Netns& netns_;
  Netdev netdev_;
  UniqueFd lock_;
  Tap tap_;
  std::vector<std::unique_ptr<Worker>> workers_;
  const SocketPrograms* shared_ = nullptr;
  std::optional<NetdevPrograms> programs_;
  bool placed_ = false;  // some may be at the netdev, in the place of an earlier pspd's
  std::vector<std::string> notices_;
  std::uint16_t dev_id_ = 0;
  Upkeep of_tap_, of_programs_;
};

}  // namespace psp::datapath
