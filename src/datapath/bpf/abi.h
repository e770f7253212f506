/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * What BPF programs and pspd agree on: frame tags on the TAP, the association that a socket
 * carries, requests to the socket programs. Compiled by clang for BPF and by g++.
 *
 * Programs of a killed daemon stay attached and are found by the next one, which may be of another
 * version: it reads only struct psp_sock of its own size.
 */
#ifndef PSP_DATAPATH_ABI_H
#define PSP_DATAPATH_ABI_H

#ifdef __bpf__
typedef unsigned char psp_u8;
typedef unsigned short psp_u16;
typedef unsigned int psp_u32;
typedef unsigned long long psp_u64;
#else
#include <linux/types.h>
typedef __u8 psp_u8;
typedef __u16 psp_u16;
typedef __u32 psp_u32;
typedef __u64 psp_u64;
#endif

/*
 * Frame tags. Frames between the netdev's tc programs and pspd keep their Ethernet header; six
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
#define PSP_FRAME_TO_WIRE_SEALED 0x12
#define PSP_FRAME_TO_WIRE_CLEAR 0x16
#define PSP_FRAME_TO_STACK 0x80 /* | version (0..3) */

struct psp_frame_tag {
  psp_u8 kind;
  psp_u8 info;     /* generation (opened) or PSP_FRAME_F_* (to be sealed) */
  psp_u8 value[4]; /* tx handle or SPI, big-endian */
};

/*
 * psp_sock is the association that a socket carries (BPF_MAP_TYPE_SK_STORAGE). It appears at
 * rx-assoc and goes with the full socket. Sequence numbers are TCP's, in host order.
 */
struct psp_sock {
  psp_u64 epoch;      /* of the pspd that made it; another's means that the keys are gone */
  psp_u32 state;      /* enum psp_state */
  psp_u32 peer_tx;    /* a matching PSP packet came: tx-assoc leads to FULL */
  psp_u32 pending_tx; /* tx-assoc is looking at the queues: clear data is already refused */
  psp_u32 rx_spi;
  psp_u32 tx_spi;
  psp_u32 tx_handle;
  psp_u32 rotation; /* of the device when it handed out rx_spi: two later the SPI is dead */
  psp_u16 dev_id;
  psp_u8 generation;
  psp_u8 version;
  psp_u64 clear_end;       /* clear data was let through up to here: PSP_CLEAR_END | sequence */
  psp_u32 upgrade_rcv_nxt; /* rcv_nxt at tx-assoc: where a clear FIN may stand */
  psp_u32 clear_boundary;  /* write_seq at tx-assoc: first sealed octet */
  psp_u32 clear_done;      /* all clear octets are acknowledged: nothing is sent in clear again */
  psp_u32 tuple_noted;     /* the connection is in psp_noted and psp_departed */
  psp_u32 full_noted;      /* ... and that it is PSP Full */
  psp_u32 psp_start_valid; /* PSP data was let through ... */
  psp_u32 psp_start;       /* ... and none before here */
  psp_u32 mss_reserved;    /* the socket's own MSS leaves room for PSP */
  psp_u32 over;            /* as in struct psp_noted_entry */
  psp_u32 fence;           /* means nothing: see psp_barrier */
  psp_u32 repaired;        /* PSP_REPAIRED or PSP_RESTORED; 0: never in the hands of TCP_REPAIR */
  psp_u32 guard_program;   /* id of the program that must stand first on the way out ... */
  psp_u64 guarded;         /* ... as psp_guard has it: psp_guard_version << 32 | ifindex */
  psp_u64 netns;           /* of the socket: the keys are those of that namespace */
  psp_u64 rx_packets, rx_bytes; /* PSP segments accepted; octets of TCP payload */
  psp_u64 tx_packets, tx_bytes; /* segments handed over for sealing */
  psp_u64 rx_drops;             /* refused by the state table */
};
#define PSP_CLEAR_END (1ull << 32)
#define PSP_REPAIRED 1 /* TCP_REPAIR was used on the socket */
#define PSP_RESTORED                                                          \
  2 /* and gave it the 4-tuple of a secured connection: it is silent for good \
     */

/*
 * Requests to the socket programs: setsockopt(fd, PSP_SOL, PSP_SO_*, struct psp_sockopt) and
 * getsockopt(fd, PSP_SOL, <secret number>, struct psp_sock_view), by pspd on a borrowed descriptor.
 * The kernel runs the program under the socket lock. The token keeps the socket's owner out.
 */
#define PSP_SOL 0x50535000
#define PSP_SO_RX_ATTACH 1
#define PSP_SO_TX_ATTACH 2
#define PSP_SO_MSS_RESERVED 3

#define PSP_SOCKOPT_ANY_STATE 1   /* as Linux up to 7.3: not only in ESTABLISHED */
#define PSP_SOCKOPT_TUPLE_NOTED 2 /* the connection is in psp_noted and psp_departed */

struct psp_sockopt {
  psp_u64 token[2];
  psp_u32 rx_spi;
  psp_u32 tx_spi;
  psp_u32 tx_handle;
  psp_u32 rotation;
  psp_u32 flags; /* PSP_SOCKOPT_* */
  psp_u16 dev_id;
  psp_u8 generation;
  psp_u8 version;
};

/* psp_tuple is the key of the map psp_departed: a connection whose full socket may be gone. */
struct psp_tuple {
  psp_u8 local[16], remote[16];    /* IPv4 in the first four octets */
  psp_u16 local_port, remote_port; /* network order */
  psp_u32 family;                  /* 4 or 6 */
  psp_u64 netns;                   /* whose addresses these are */
};

/*
 * psp_sock_view is a socket as the kernel sees it, taken under its lock. Of a socket that is not
 * TCP's it has only the first five.
 */
struct psp_sock_view {
  psp_u32 valid;            /* 1: the program ran */
  psp_u32 netns_references; /* of its network namespace, this socket's among them; 0: not known */
  psp_u32 family, type, protocol;
  psp_u32 tcp_state;     /* 1 is ESTABLISHED */
  psp_u64 cookie;        /* SO_COOKIE; 0: nobody has asked for it yet */
  psp_u32 route_ifindex; /* netdev of the cached route; 0: none */
  psp_u32 connected;     /* it has a peer: `tuple` has more than a namespace */
  struct psp_tuple tuple;
  psp_u32 rcv_nxt, copied_seq, write_seq, snd_nxt, snd_una;
  psp_u32 ofo_end; /* end of the out-of-order queue; valid if ofo_valid */
  psp_u32 ofo_valid;
  psp_u32 assoc_state; /* enum psp_state of this epoch's association */
  psp_u32 clear_boundary;
  psp_u32 mss;      /* the socket's mss_cache */
  psp_u32 rotation; /* the association's */
  psp_u32 uid;      /* whose socket it is, as the initial user namespace has it */
};

/* psp_device_config is what the programs of one device read: element 0 of the map psp_config. */
struct psp_device_config {
  psp_u8 mac[6]; /* of the netdev */
  psp_u8 reserved[2];
  psp_u32 versions_ena; /* PSP packets of other versions pass as ordinary UDP */
  psp_u32 restore;      /* PSP_RESTORE_*: host settings to put back, also after a crash */
  psp_u32 rotation;     /* how often the device has rotated its keys */
};
#define PSP_RESTORE_UDP_GRO_FORWARDING 1u
#define PSP_RESTORE_CLSACT 2u

/* psp_netdev_key names a netdev of any network namespace: the key of the map psp_guard. */
struct psp_netdev_key {
  psp_u64 netns; /* cookie of the network namespace */
  psp_u32 ifindex;
  psp_u32 reserved;
};
struct psp_guard_entry {
  psp_u64 epoch;
  psp_u32 dev_id;  /* the PSP device whose programs are in place there */
  psp_u32 program; /* id of its psp_egress, which nobody else's program has */
};

/*
 * The entry of psp_guard for this netdev of the namespace 0, which there is not: its epoch says
 * whose programs these are, and with it whether that pspd lives (see host_lock.hh). A psp_guard
 * without it is of a version that says so in another way: hands off.
 */
#define PSP_OWNER 1u

/*
 * psp_tx_spi is the key of the map psp_by_tx_spi, whose value is a psp_tuple: the connection that
 * an ICMP "too big" speaks of can be told only by the SPI in the PSP packet that it quotes.
 */
struct psp_tx_spi {
  psp_u8 remote[16]; /* IPv4 in the first four octets */
  psp_u32 family;
  psp_u32 spi; /* network order */
  psp_u64 netns;
};

/*
 * psp_noted has one entry for each socket that was given a Tx key, by cookie, until pspd has seen
 * it end: the connection that psp_departed and psp_by_tx_spi have of it, which is its last one.
 */
struct psp_noted_entry {
  struct psp_tuple tuple; /* without a peer yet: a namespace only, family 0 */
  psp_u32 tx_spi;         /* network order */
  psp_u8 released;        /* its application has closed it: alive only while the kernel lists it */
  psp_u8 over; /* its connection has ended in the way of TCP, and it has begun no other */
  psp_u8 reserved[2];
};

struct psp_tuple_entry {
  psp_u64 cookie;
  psp_u64 epoch;
  psp_u32 tx_handle;
  psp_u32 rx_spi;
  psp_u32 rotation;
  psp_u8 generation;
  psp_u8 version;
  psp_u16 dev_id;
  psp_u32 full; /* it came to PSP Full: nothing in clear is for it any more */
  psp_u32 reserved;
};

#endif
