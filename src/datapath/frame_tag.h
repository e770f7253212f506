/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * The tags of frames on the TAP: what the BPF programs and a worker tell each other of a packet.
 * They lie in six octets of the Ethernet header, since nothing of a packet but its octets comes
 * through a TAP, and these are written anew behind it anyway. A tag proves nothing by itself. From
 * pspd it counts because only pspd can write to the TAP (kernel/bpf/tap.h); to pspd it is a handle
 * that the Tx table checks. Compiled by clang for BPF and by g++.
 */
#ifndef PSP_DATAPATH_FRAME_TAG_H
#define PSP_DATAPATH_FRAME_TAG_H

#include "base/integers.h"

/*
 * Frames between the netdev's tc programs and pspd keep their Ethernet header; six
 * octets of it carry what only the two ends know. Multi-octet numbers are big-endian.
 *
 * kernel -> pspd, a TCP segment of a socket with a Tx key:
 *   source MAC = { kind, PSP_FRAME_F_*, tx handle (4) }     destination MAC is the next hop's
 * kernel -> pspd, a PSP packet from the wire: Ethernet header as received.
 *
 * pspd -> kernel, to the wire:
 *   source MAC = { PSP_FRAME_TO_WIRE_*, 0, 0, 0, 0, 0 }     destination MAC as it came
 * pspd -> kernel, opened:
 *   source MAC = { PSP_FRAME_TO_STACK | version, generation, SPI (4) }
 *   destination MAC = source MAC of the packet on the wire
 * The programs on the TAP put the netdev's own address back.
 */
#define PSP_FRAME_SEAL 0x02        /* seal all of it */
#define PSP_FRAME_SPAN 0x06        /* starts in clear; sealed from the clear boundary on */
#define PSP_FRAME_CLEAR 0x0a       /* all of it was queued before tx-assoc: stays in clear */
#define PSP_FRAME_F_MSS_RESERVED 1 /* the socket's MSS already leaves room for PSP */
#define PSP_FRAME_F_CUT 2          /* it does not, and this segment fills it: cut in two */
#define PSP_FRAME_F_AGAIN 4        /* of a SPAN: all of it has been sent before */
#define PSP_FRAME_TO_WIRE_SEALED 0x12
#define PSP_FRAME_TO_WIRE_CLEAR 0x16
#define PSP_FRAME_TO_STACK 0x80 /* | version (0..3) */

struct psp_frame_tag {
  psp_u8 kind;
  psp_u8 info;     /* generation (opened) or PSP_FRAME_F_* (to be sealed) */
  psp_u8 value[4]; /* tx handle or SPI, big-endian */
};

#endif
