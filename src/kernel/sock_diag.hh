// SPDX-License-Identifier: Apache-2.0
//
// What the kernel tells of TCP sockets without their descriptors: which of them carry an
// association, which have gone; and how to end one.
//
// Threading: the control thread only, but for secured_sockets: any.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <functional>
#include <linux/inet_diag.h>
#include <string>
#include <vector>

#include "base/unique_fd.hh"
#include "bpf/structs.h"

namespace psp::kernel {

// SecuredSocket is a TCP socket with an association.
struct SecuredSocket {
  unsigned family = 4;  // 4 or 6; an IPv4 connection of an IPv6 socket is 6 with mapped addresses
  unsigned tcp_state = 0;  // as in the kernel: 1 ESTABLISHED ...
  inet_diag_sockid id{};
  psp_sock assoc{};

  std::uint64_t cookie() const {
    return id.idiag_cookie[0] | static_cast<std::uint64_t>(id.idiag_cookie[1]) << 32;
  }
};

// secured_sockets lists the sockets of this network namespace that have an entry in the socket
// storage map `assoc_map`. TIME_WAIT is not among them: it has no storage. Errors: a sentence.
std::expected<std::vector<SecuredSocket>, std::string> secured_sockets(int assoc_map);

// destroy_socket aborts a connection (needs CONFIG_INET_DIAG_DESTROY), and its application is told.
// Returns 0 or an errno: ENOENT if it has ended or disconnected itself in the meantime.
int destroy_socket(const SecuredSocket& socket);

// DestroyEvents says which TCP sockets have gone, in the current namespace and in all that have a
// number there (nsid). A socket goes when it is closed for good or enters TIME_WAIT.
class DestroyEvents {
 public:
  static std::expected<DestroyEvents, std::string> open();
  int fd() const { return fd_.get(); }

  // read calls `gone` for the events that wait, up to some hundred; all but the association is
  // filled in. kMore: there may be more. kLost: the kernel had to drop some; ask secured_sockets
  // who is still there.
  enum class Heard { kAll, kMore, kLost };
  Heard read(const std::function<void(const SecuredSocket&)>& gone);

 private:
  explicit DestroyEvents(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace psp::kernel
