// SPDX-License-Identifier: Apache-2.0
//
// What the server asks of whoever runs it, and the core does not know: the host's view of secured
// connections, of pspd itself, of captured keys and packets (the `softpsp` family). In pspd this is
// host/inspection.cc; tests have models. What of it a namespace may see is the server's to decide;
// whether keys are given at all is pspd's. A list may take long to get (the kernel walks through
// all its sockets), so it comes entry by entry and may say: later.
#pragma once

#include <cerrno>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "device/error.hh"
#include "netlink/caller.hh"
#include "netlink/messages/softpsp.hh"

namespace psp::netlink {

// Associations are those of a host, one after the other, as they become known.
class Associations {
 public:
  virtual ~Associations() = default;
  enum class Next { kOne, kLater, kEnd };
  // next fills in the next one. kLater: none is known yet, ask again in a while. After an error
  // there are no more.
  virtual device::Result<Next> next(AssocInfo& one) = 0;
  // held is how many of them are kept in memory for this asker alone.
  virtual std::size_t held() const { return 0; }
};

// ListedAssociations are those of a list that is there already.
class ListedAssociations final : public Associations {
 public:
  explicit ListedAssociations(std::vector<AssocInfo> all) : all_(std::move(all)) {}
  device::Result<Next> next(AssocInfo& one) override {
    if (at_ == all_.size()) return Next::kEnd;
    one = all_[at_++];
    return Next::kOne;
  }
  std::size_t held() const override { return all_.size(); }

 private:
  std::vector<AssocInfo> all_;
  std::size_t at_ = 0;
};

// Inspector answers for the softpsp family. Thread: the control thread only.
class Inspector {
 public:
  virtual ~Inspector() = default;
  // Visible: may the asker see the association of this socket? An empty one: all.
  using Visible = std::function<bool(std::uint64_t cookie)>;
  // associations are those that there are from now on; not null.
  virtual std::unique_ptr<Associations> associations(Visible visible) = 0;
  virtual DaemonInfo daemon_info() = 0;
  virtual std::vector<KeptPacket> kept_packets() { return {}; }
  // captured_key is the key under which a captured PSP datagram is authentic. An empty one: would
  // the caller be given any? It is root of the home namespace. Errors: EPERM: not with the options
  // that pspd was started with; EINVAL: no PSP datagram; ENOENT: of no connection here.
  virtual device::Result<CapturedKey> captured_key(const Caller&, std::span<const std::uint8_t>) {
    return device::fail(EOPNOTSUPP);
  }
  // no_room hears that this caller's rx-assoc of a borrowed socket was refused for want of room.
  virtual void no_room(const Caller&, int /*fd*/, const device::Error&) {}
  // home_netns is the namespace that sees all of this; others see what is theirs.
  virtual std::uint64_t home_netns() { return 0; }
};

}  // namespace psp::netlink
