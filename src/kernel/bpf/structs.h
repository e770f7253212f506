/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * What BPF programs and pspd agree on: requests to the socket programs, and what is kept of
 * connections and netdevs. device/socket_state.h has what a socket carries, datapath/frame_tag.h
 * what is written on a frame. Compiled by clang for BPF and by g++.
 *
 * Programs of a killed daemon stay attached and are found by the next one, which may be of another
 * version. It reads struct psp_sock in its own size only. psp_noted it reads as it is here, of
 * psp_guard what comes before `ingress`, and of psp_config the field `restore`: these must keep
 * their form and place. Maps are
 * inherited only if all of them have the form of its own.
 */
#ifndef PSP_KERNEL_BPF_STRUCTS_H
#define PSP_KERNEL_BPF_STRUCTS_H

#include "datapath/frame_tag.h"
#include "device/socket_state.h"

/*
 * Requests to the socket programs: setsockopt(fd, PSP_SOL, PSP_SO_*, struct psp_sockopt) and
 * getsockopt(fd, PSP_SOL, <secret number>, struct psp_sock_view), by pspd on a borrowed descriptor.
 * The kernel runs the program under the socket lock. The token keeps the socket's owner out.
 */
#define PSP_SOL 0x50535000
#define PSP_SO_RX_ATTACH 1
#define PSP_SO_TX_ATTACH 2
#define PSP_SO_MSS_RESERVED 3

/*
 * The entry of psp_guard for this netdev of the namespace 0, which there is not: its epoch says
 * whose programs these are, and with it whether that pspd lives (see host_lock.hh). A psp_guard
 * without it is of a version that says so in another way: hands off.
 */
#define PSP_OWNER 1u

#define PSP_SOCKOPT_ANY_STATE 1   /* as Linux up to 7.3: not only in ESTABLISHED */
#define PSP_SOCKOPT_TUPLE_NOTED 2 /* the connection is in psp_noted and psp_departed */

struct psp_sockopt {
  psp_u64 token[2];
  struct psp_sa_id rx;
  psp_u32 tx_spi;
  psp_u32 tx_handle;
  psp_u32 flags; /* PSP_SOCKOPT_* */
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
  psp_u32 clear_boundary; /* of its association */
  psp_u32 mss;            /* the socket's mss_cache */
  psp_u32 uid;            /* whose socket it is, as the initial user namespace has it */
  psp_u32 reserved;
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
  psp_u32 egress;  /* id of its psp_egress, which nobody else's program has */
  psp_u32 ingress; /* and of its psp_ingress */
  psp_u32 reserved;
};

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
  psp_u8 over;            /* PSP_OVER_...: its connection has ended, and it has begun no other */
  psp_u8 reserved[2];
};

#define PSP_OVER_BY_TCP 1  /* its application was told by a segment of the peer */
#define PSP_OVER_BY_PSPD 2 /* ... or by pspd, which aborts it */

struct psp_tuple_entry {
  psp_u64 cookie;
  psp_u64 epoch;
  psp_u32 tx_handle;
  struct psp_sa_id rx;
  psp_u32 full; /* it came to PSP Full: nothing in clear is for it any more */
  psp_u32 reserved;
};

#endif
