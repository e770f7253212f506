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
#include <utility>
#include <vector>

#include "datapath/worker.hh"
#include "device/software_driver.hh"

#include "netdev.hh"
#include "netns.hh"
#include "programs.hh"
#include "tap.hh"
#include "upkeep.hh"

namespace psp::kernel {

struct HostDeviceOptions {
  device::SoftwareDriverOptions driver;
  datapath::TxOptions tx;
  datapath::Peers peers;
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

  // The programs stay where they are, and with them the block on secured sockets and the note for
  // the next pspd, unless detach was called.
  ~Attachment() = default;
  Attachment(const Attachment&) = delete;
  Attachment& operator=(const Attachment&) = delete;

  // start puts the programs in place, then brings the TAP up, then lets sockets send. What a killed
  // pspd left on the netdev is taken over: its sockets must be gone (see end_secured_sockets).
  // Errors: a sentence; detach then cleans up.
  [[nodiscard]] std::expected<void, std::string> start(const Secrets& secrets,
                                                       const SocketPrograms& shared,
                                                       std::uint16_t dev_id, VersionSet versions,
                                                       std::uint32_t rotation);

  // silence lets no socket send by the netdev any more; repair would undo that.
  void silence();
  // detach takes the programs off the netdev and puts its settings back. Errors: a sentence; no
  // socket sends by the netdev then, and what is left there stays noted.
  [[nodiscard]] std::expected<void, std::string> detach();
  // resume undoes a detach that failed. Errors: a sentence; repair goes on with it.
  [[nodiscard]] std::expected<void, std::string> resume();

  // refresh takes over a new name, MTU or address. False: the netdev has gone; true if the kernel
  // does not tell.
  bool refresh();
  // failed says why nothing can be sealed or opened any more: the netdev has become one that can
  // have no device, the TAP has gone, or somebody else
  // has attached to it, as whoever has CAP_NET_ADMIN there can, and is given packets to be sealed.
  // Nothing if the kernel does not tell: it is asked again.
  std::optional<std::string> failed() const;
  // repair puts back what somebody has changed: the TAP's state, the programs, their order, the
  // notes that let sockets send. Sentences for the log if things have changed, or could not be as
  // good as they might.
  std::vector<std::string> repair(std::chrono::steady_clock::time_point now);
  // condition is what repair has done so far, and what is wrong now.
  Condition condition() const;

  // set_versions says what of PSP is taken here. A port of a bridge or bond takes nothing: a packet
  // that was opened here would come to that netdev with a proof that nobody believes there, since
  // another port can forge one. It goes up as it is.
  [[nodiscard]] bool set_versions(VersionSet versions);
  [[nodiscard]] bool set_rotation(std::uint32_t rotation);

  // take_notices: sentences about what could not be as good as it might; repair has those that come
  // later.
  std::vector<std::string> take_notices() { return std::exchange(notices_, {}); }

  const Netdev& netdev() const { return netdev_; }
  const Tap& tap() const { return tap_; }
  DropCounts drops() const;  // of the programs
  // references is how many of the references to its network namespace are this attachment's.
  std::size_t references() const { return tap_.queues(); }

 private:
  Attachment(const Netns& netns, const Netdev& netdev, UniqueFd lock, Tap tap)
      : netns_(netns), netdev_(netdev), lock_(std::move(lock)), tap_(std::move(tap)) {}
  [[nodiscard]] std::expected<void, std::string> tune();
  [[nodiscard]] bool set_versions_of_programs();
  std::string whose_port() const;
  std::optional<std::string> port_news(std::chrono::steady_clock::time_point now);
  bool has_failed_worker() const;
  std::optional<std::string> read_errors(std::chrono::steady_clock::time_point now);
  Finding missing() const;
  [[nodiscard]] std::expected<void, std::string> put_back();
  [[nodiscard]] std::expected<void, std::string> let_send() const;
  std::unexpected<std::string> not_noted() const;  // by errno

  const Netns& netns_;
  Netdev netdev_;
  UniqueFd lock_;
  Tap tap_;
  std::vector<std::unique_ptr<datapath::Worker>> workers_;
  const SocketPrograms* shared_ = nullptr;
  std::optional<NetdevPrograms> programs_;
  bool placed_ = false;  // some may be at the netdev, in the place of an earlier pspd's
  bool tuned_ = false;   // the netdev has the settings that it is to have
  std::vector<std::string> notices_;  // not told yet
  std::uint16_t dev_id_ = 0;
  VersionSet versions_;
  bool port_changed_ = false;                          // and not told yet
  std::chrono::steady_clock::time_point tell_port_{};  // not before
  Upkeep of_tap_, of_programs_;
  std::uint64_t told_read_errors_ = 0;
  std::chrono::steady_clock::time_point tell_read_errors_{};  // not before
};

}  // namespace psp::kernel
