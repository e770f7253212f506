// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
//
// The packet side of one PSP device: tc programs at the netdev, a header each, and at its TAP (both
// in tap.h).
//
//   psp_egress       netdev, out: segments of sockets with a Tx key go to pspd, nothing else does
//   psp_ingress      netdev, in:  PSP packets go to pspd; opened segments that pspd sends back are
//                                 matched with their socket's association
//   psp_tap_ingress  TAP, from pspd: out to the wire, or up through the netdev
//   psp_tap_egress   TAP, to pspd: only what psp_egress and psp_ingress sent there
//
// They outlive pspd. Without it the TAP is gone, redirects to it fail, and secured sockets are
// silent instead of in clear.
#define PSP_NETDEV_OBJECT
#include "egress.h"
#include "ingress.h"
#include "tap.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
