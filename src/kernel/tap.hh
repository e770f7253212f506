// SPDX-License-Identifier: Apache-2.0
//
// The TAP device: how big packets come from the kernel and go back to it. One file descriptor per
// worker queue. The device vanishes with the last descriptor.
//
// Any local user may open /dev/net/tun and ask for a queue of a TAP that has no owner. So the TAP
// is given one, whom nobody is, before anybody can see it, and is not up before all queues are
// known to be ours.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.hh"

#include "netdev.hh"
#include "upkeep.hh"

namespace psp::kernel {

// TapError is why there is no TAP: a sentence for the administrator and the errno behind it.
struct TapError {
  int sys_errno = 0;
  std::string text;
};

class Tap {
 public:
  // open creates a TAP in the network namespace of the calling thread. It is down. `pattern` is a
  // name or one with "%d" for the first free number. Errors: no /dev/net/tun, no CAP_NET_ADMIN, a
  // kernel without multi-queue or TSO on TAPs.
  static std::expected<Tap, TapError> open(std::string_view pattern, unsigned queues);

  // bring_up lets packets in. In the TAP's namespace.
  std::expected<void, TapError> bring_up() const;
  // has_strangers: has somebody else attached a queue? In the TAP's namespace; whoever has
  // CAP_NET_ADMIN there can. Yes if the kernel does not say.
  bool has_strangers() const;

  // changed says what somebody else has made of the TAP since it was up: down, renamed, moved to
  // another network namespace, another MTU or queue length. put_back undoes that; it leaves the
  // programs at a TAP that was moved to be put back. Both in the TAP's own namespace.
  Finding changed() const;
  [[nodiscard]] std::expected<void, std::string> put_back() const;

  const std::string& name() const { return name_; }
  unsigned ifindex() const { return ifindex_; }
  unsigned queues() const { return static_cast<unsigned>(queues_.size()); }
  int fd(unsigned queue) const { return queues_[queue].get(); }
  // has_uso is false where the kernel takes no UDP superframes (before Linux 6.2): sealed packets
  // are then written one by one, at a fraction of the speed.
  bool has_uso() const { return has_uso_; }
  // notice is a sentence for the log about what is missing, or empty.
  const std::string& notice() const { return notice_; }

 private:
  Tap() = default;
  std::expected<void, TapError> make();
  std::expected<void, TapError> add_queue();
  std::expected<void, TapError> own() const;
  std::expected<void, TapError> rename(std::string_view pattern);
  std::expected<void, TapError> set_offloads();
  std::expected<void, TapError> configure();
  std::expected<UniqueFd, std::string> elsewhere() const;
  [[nodiscard]] std::expected<void, std::string> bring_home(int from) const;
  LinkSettings link() const;

  std::string name_;
  unsigned ifindex_ = 0;
  bool has_uso_ = false;
  std::string notice_;
  std::vector<UniqueFd> queues_;
};

}  // namespace psp::kernel
