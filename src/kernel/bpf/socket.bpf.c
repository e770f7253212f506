// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
//
// The socket side of a PSP device: cgroup programs at the root of the cgroup tree, a header each
// (psp_released: over.h, which the others need too).
//
//   psp_setsockopt  attaches Rx and Tx associations, under the socket lock
//   psp_getsockopt  shows pspd the socket as the kernel sees it, under the same lock
//   psp_sock_in     applies the state table to every segment of every full socket, whatever
//                   interface it came by
//   psp_sock_out    keeps a secured socket from leaving by a netdev that is not its device's, or
//                   that has lost its psp_egress
//   psp_released    notes that the application has closed a secured socket
//
// They run for all sockets of the host; a socket without association costs one storage lookup.
#define PSP_SOCKET_OBJECT
#include "setsockopt.h"
#include "getsockopt.h"
#include "sock_in.h"
#include "sock_out.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
