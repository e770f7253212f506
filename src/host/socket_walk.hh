// SPDX-License-Identifier: Apache-2.0
//
// SocketWalk asks the kernel for the secured sockets of this host, in all namespaces, on a thread
// of its own. To ask in small steps would not do: one call of the kernel's walks through its whole
// table of TCP sockets, of which other namespaces may have any number, and nobody can interrupt it.
//
// Threading: the control thread; a thread for each walk, which has ended before there is a result.
#pragma once

#include <chrono>
#include <memory>
#include <optional>

#include "secured_sockets.hh"
#include "socket_lists.hh"

namespace psp::host {

class SocketWalk final : public SocketLists::Walk {
 public:
  // `sockets` outlives this, attached.
  explicit SocketWalk(const SecuredSockets& sockets);
  ~SocketWalk() override;  // waits for the end of a walk
  void begin() override;
  std::optional<Result> result() override;

 private:
  struct Job;
  const SecuredSockets& sockets_;
  std::unique_ptr<Job> job_;
};

}  // namespace psp::host
