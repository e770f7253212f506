// SPDX-License-Identifier: Apache-2.0
//
// Who is at the other end of a unix socket: what stands in for the kernel's capability checks,
// which for a netlink socket look at the process itself. The kernel says who connected
// (SO_PEERCRED) and not with which capabilities; those are read from /proc, where the answer may be
// of another process by then. In doubt it is a no. For pspd's clients (control/clients.cc).
#pragma once

namespace psp::netlink {

// peer_has_net_admin is true if the process that connected the unix socket `fd` has CAP_NET_ADMIN
// in our user namespace, as GENL_ADMIN_PERM would ask of it. In doubt it is false: the peer is
// gone, its user namespace is not ours, /proc hides it, its user id is no longer the one it
// connected with, or it gained capabilities by running a privileged program (/proc cannot tell
// whether it did so only after it connected). Where the kernel has no SO_PEERPIDFD (before 6.5) and
// /proc says nothing, user id 0 decides. Ask once, when the connection is accepted. Thread: any.
bool peer_has_net_admin(int fd);

}  // namespace psp::netlink
