// SPDX-License-Identifier: Apache-2.0
//
// What all kinds of sockets show to programs: the members of struct bpf_sock, in the byte orders
// that Linux has them in, and behind them what the programs read out of the kernel's own.
//
// The view is made anew at each call: a program must not see what was true at an earlier one. The
// cookie is 0 until somebody has asked for it, as sk_cookie is.
#include "sock.hh"

#include <arpa/inet.h>
#include <cstring>

namespace psp::sim {

shim_sock& Sock::refresh() {
  view_ = {};
  view_.family = tuple.family == 4 ? AF_INET : AF_INET6;
  view_.type = static_cast<std::uint32_t>(type);
  view_.protocol = static_cast<std::uint32_t>(protocol);
  view_.state = state;
  std::memcpy(&view_.src_ip4, tuple.local.octets.data(), 4);
  std::memcpy(&view_.dst_ip4, tuple.remote.octets.data(), 4);
  std::memcpy(view_.src_ip6, tuple.local.octets.data(), 16);
  std::memcpy(view_.dst_ip6, tuple.remote.octets.data(), 16);
  view_.src_port = tuple.local_port;
  view_.dst_port = htons(tuple.remote_port);
  view_.kernel.full = full;
  view_.kernel.cookie = asked ? id : 0;
  view_.kernel.netns = netns;
  view_.kernel.model = this;
  fill(view_);
  return view_;
}

}  // namespace psp::sim
