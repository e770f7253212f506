/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * What the socket programs and the netdev programs share: the maps of one pspd, its secrets, and
 * the parsing of TCP segments. Secrets are read-only data, set by the loader before the programs
 * load.
 */
#ifndef PSP_DATAPATH_COMMON_H
#define PSP_DATAPATH_COMMON_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <psp/device/state_table.h>
#include <psp/wire/drop.h>

#include "abi.h"

#define PSP_TCP_ESTABLISHED 1
#define PSP_TCP_SYN_SENT 2
#define PSP_TCP_SYN_RECV 3
#define PSP_TCP_FIN_WAIT1 4
#define PSP_TCP_FIN_WAIT2 5
#define PSP_TCP_TIME_WAIT 6
#define PSP_TCP_CLOSE 7
#define PSP_TCP_LAST_ACK 9
#define PSP_TCP_LISTEN 10
#define PSP_TCP_CLOSING 11
#define PSP_TCP_NEW_SYN_RECV 12

#define PSP_OVERHEAD 40 /* UDP 8, PSP 16, ICV 16 */

/* The loader's values. */
const volatile __u64 psp_epoch = 0;        /* of this pspd, random */
const volatile __u64 psp_token[2] = {};    /* proves that a request comes from pspd */
const volatile __u32 psp_view_optname = 0; /* getsockopt number of the view, random */
const volatile __u32 psp_mark = 0;         /* skb->mark between the programs of this pspd, random */
const volatile __u16 psp_verified = 0; /* skb->tc_index of an opened and matched segment, random */

/* psp_assoc: the association that a socket carries. */
struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct psp_sock);
} psp_assoc SEC(".maps");

#define PSP_MAX_SECURED 1024 /* the loader sets what is wanted */

/* psp_departed: connections with a Tx key by 4-tuple, for packets that have no full socket. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, PSP_MAX_SECURED);
  __type(key, struct psp_tuple);
  __type(value, struct psp_tuple_entry);
} psp_departed SEC(".maps");

/* psp_by_tx_spi: connections with a Tx key by what their packets show. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, PSP_MAX_SECURED);
  __type(key, struct psp_tx_spi);
  __type(value, struct psp_tuple);
} psp_by_tx_spi SEC(".maps");

/* psp_noted: sockets with a Tx key by cookie, with the one connection that the maps above have. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, PSP_MAX_SECURED);
  __type(key, __u64);
  __type(value, struct psp_noted_entry);
} psp_noted SEC(".maps");

/* psp_drops: how often each enum psp_drop_reason happened in these programs. */
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, PSP_DROP_MAX);
  __type(key, __u32);
  __type(value, __u64);
} psp_drops SEC(".maps");

static __always_inline void psp_count_drop(__u32 reason) {
  __u64* count = bpf_map_lookup_elem(&psp_drops, &reason);
  if (count) *count += 1;
}

/* psp_blocked: an association whose keys are gone and that must not fall back to clear text. */
static __always_inline bool psp_blocked(const struct psp_sock* sock) {
  return sock->epoch != psp_epoch && (sock->state >= PSP_STATE_TX || sock->pending_tx);
}

typedef __u32 __attribute__((may_alias)) psp_word;

/*
 * psp_load is bpf_skb_load_bytes, in line where the octets are in the linear part of the packet, as
 * headers nearly always are. `offset` and `size` are constants, `size` and the alignment of `to`
 * are multiples of four. The verifier takes it where unaligned loads are cheap, as on x86-64 and
 * arm64.
 */
static __always_inline bool psp_load(struct __sk_buff* skb, __u32 offset, void* to, __u32 size) {
  const psp_word* from = (const void*)(long)skb->data + offset;
  psp_word* words = to;

  if ((const void*)from + size > (const void*)(long)skb->data_end)
    return !bpf_skb_load_bytes(skb, offset, to, size);
  for (__u32 i = 0; i < size / 4; i++) words[i] = from[i];
  return true;
}

/* psp_segment is a TCP segment as the programs see it; numbers in host order. */
struct psp_segment {
  __u32 seq, ack_seq;
  __u32 payload;
  __u32 urgent; /* one past the octet that the urgent pointer may mean, if `urg` */
  bool syn, fin, rst, ack, urg;
  struct psp_tuple tuple; /* local is the source on egress; the caller swaps for ingress */
                          /* and says whose namespace it is */
};

struct psp_tcp_header {
  __be16 source, dest;
  __be32 seq, ack;
  __u8 offset, flags;
  __be16 window, check, urgent;
} __attribute__((aligned(4)));

#define PSP_MAX_EXTENSIONS 8
#define PSP_IPV6_FRAGMENT 44

/*
 * psp_ipv6_tcp_offset walks the extension headers to TCP. Returns 0 if it is not there, as in a
 * later fragment.
 */
static __always_inline __u32 psp_ipv6_tcp_offset(struct __sk_buff* skb, __u32 l3, __u8 next) {
  __u32 offset = l3 + 40;
  for (int i = 0; i < PSP_MAX_EXTENSIONS; i++) {
    __u8 header[4];
    if (next == IPPROTO_TCP) return offset;
    if (next != 0 && next != 43 && next != 60 && next != PSP_IPV6_FRAGMENT)
      return 0; /* hop-by-hop, routing, destination */
    if (bpf_skb_load_bytes(skb, offset, header, sizeof header)) return 0;
    if (next == PSP_IPV6_FRAGMENT) {
      if (header[2] || header[3] & 0xf8) return 0;
      header[1] = 0; /* not a length there */
    }
    next = header[0];
    offset += 8 * ((__u32)header[1] + 1);
  }
  return 0;
}

/* psp_load_tcp reads a TCP header; in line behind an IP header as ours are, with the MSS's NOPs. */
static __always_inline bool psp_load_tcp(struct __sk_buff* skb, __u32 l3, __u32 l4,
                                         struct psp_tcp_header* tcp) {
  if (l4 == l3 + 20) return psp_load(skb, l3 + 20, tcp, sizeof *tcp);
  if (l4 == l3 + 40) return psp_load(skb, l3 + 40, tcp, sizeof *tcp);
  if (l4 == l3 + 60) return psp_load(skb, l3 + 60, tcp, sizeof *tcp);
  return !bpf_skb_load_bytes(skb, l4, tcp, sizeof *tcp);
}

/*
 * psp_parse_segment reads the TCP segment whose IP header is at `l3`. False if there is no whole
 * TCP header (then it is not something a socket of ours sent). The tuple is filled in all the same
 * if the ports are there: the first fragment of a packet can be as short as that.
 */
static __always_inline bool psp_parse_segment(struct __sk_buff* skb, __u32 l3,
                                              struct psp_segment* segment) {
  __u8 ip[40] __attribute__((aligned(4)));
  struct psp_tcp_header tcp;
  __u32 l4, length;

  __builtin_memset(segment, 0, sizeof *segment);
  if (!psp_load(skb, l3, ip, 20)) return false;
  if (ip[0] >> 4 == 4) {
    if (ip[9] != IPPROTO_TCP || ip[6] & 0x1f || ip[7]) return false; /* a later fragment */
    l4 = l3 + 4 * (__u32)(ip[0] & 15);
    segment->tuple.family = 4;
    __builtin_memcpy(segment->tuple.local, ip + 12, 4);
    __builtin_memcpy(segment->tuple.remote, ip + 16, 4);
  } else if (ip[0] >> 4 == 6) {
    if (!psp_load(skb, l3, ip, 40)) return false;
    l4 = psp_ipv6_tcp_offset(skb, l3, ip[6]);
    if (!l4) return false;
    segment->tuple.family = 6;
    __builtin_memcpy(segment->tuple.local, ip + 8, 16);
    __builtin_memcpy(segment->tuple.remote, ip + 24, 16);
  } else {
    return false;
  }
  if (!psp_load_tcp(skb, l3, l4, &tcp)) {
    bpf_skb_load_bytes(skb, l4, &segment->tuple.local_port, 4);
    return false;
  }
  segment->tuple.local_port = tcp.source;
  segment->tuple.remote_port = tcp.dest;
  length = l4 + 4 * (__u32)(tcp.offset >> 4);
  if (skb->len < length) return false;
  segment->payload = skb->len - length;
  segment->seq = bpf_ntohl(tcp.seq);
  segment->ack_seq = bpf_ntohl(tcp.ack);
  segment->fin = tcp.flags & 0x01;
  segment->syn = tcp.flags & 0x02;
  segment->rst = tcp.flags & 0x04;
  segment->ack = tcp.flags & 0x10;
  /* Whether the pointer means the octet before it is a sysctl: both count. */
  segment->urg = tcp.flags & 0x20;
  segment->urgent = segment->seq + bpf_ntohs(tcp.urgent) + 1;
  return true;
}

/* psp_turn makes a tuple as seen from one end that of the other end. */
static __always_inline void psp_turn(struct psp_tuple* tuple) {
  struct psp_tuple before = *tuple;

  __builtin_memcpy(tuple->local, before.remote, sizeof before.remote);
  __builtin_memcpy(tuple->remote, before.local, sizeof before.local);
  tuple->local_port = before.remote_port;
  tuple->remote_port = before.local_port;
}

static __always_inline bool psp_before(__u32 a, __u32 b) { return (__s32)(a - b) < 0; }

/* psp_is_dead: two rotations of the device key after `rotation` nothing can match it any more. */
static __always_inline bool psp_is_dead(__u32 rotation, __u32 now) { return now - rotation > 1; }

static __always_inline __u32 psp_segments(const struct __sk_buff* skb) {
  return skb->gso_segs ? skb->gso_segs : 1;
}

#endif
