/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Packets as the programs see them: TCP segments with their connection, and the begin of PSP
 * packets. Nothing here knows of sockets, and but for the namespace, which the caller adds, nothing
 * of where the packet is.
 */
#ifndef PSP_KERNEL_BPF_PARSE_H
#define PSP_KERNEL_BPF_PARSE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "device/socket_state.h"
#include "wire/constants.h"

#include "structs.h"

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

/* psp_packet is a TCP segment with its connection, as the programs see it. */
struct psp_packet {
  struct psp_segment tcp;
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
                                              struct psp_packet* packet) {
  __u8 ip[40] __attribute__((aligned(4)));
  struct psp_tcp_header tcp;
  __u32 l4, length;

  __builtin_memset(packet, 0, sizeof *packet);
  if (!psp_load(skb, l3, ip, 20)) return false;
  if (ip[0] >> 4 == 4) {
    if (ip[9] != IPPROTO_TCP || ip[6] & 0x1f || ip[7]) return false; /* a later fragment */
    l4 = l3 + 4 * (__u32)(ip[0] & 15);
    packet->tuple.family = 4;
    __builtin_memcpy(packet->tuple.local, ip + 12, 4);
    __builtin_memcpy(packet->tuple.remote, ip + 16, 4);
  } else if (ip[0] >> 4 == 6) {
    if (!psp_load(skb, l3, ip, 40)) return false;
    l4 = psp_ipv6_tcp_offset(skb, l3, ip[6]);
    if (!l4) return false;
    packet->tuple.family = 6;
    __builtin_memcpy(packet->tuple.local, ip + 8, 16);
    __builtin_memcpy(packet->tuple.remote, ip + 24, 16);
  } else {
    return false;
  }
  if (!psp_load_tcp(skb, l3, l4, &tcp)) {
    bpf_skb_load_bytes(skb, l4, &packet->tuple.local_port, 4);
    return false;
  }
  packet->tuple.local_port = tcp.source;
  packet->tuple.remote_port = tcp.dest;
  length = l4 + 4 * (__u32)(tcp.offset >> 4);
  if (skb->len < length) return false;
  packet->tcp.payload = skb->len - length;
  packet->tcp.seq = bpf_ntohl(tcp.seq);
  packet->tcp.ack_seq = bpf_ntohl(tcp.ack);
  packet->tcp.fin = tcp.flags & PSP_TCP_FLAG_FIN;
  packet->tcp.syn = tcp.flags & PSP_TCP_FLAG_SYN;
  packet->tcp.rst = tcp.flags & PSP_TCP_FLAG_RST;
  packet->tcp.ack = tcp.flags & PSP_TCP_FLAG_ACK;
  /* Whether the pointer means the octet before it is a sysctl: both count. */
  packet->tcp.urg = tcp.flags & PSP_TCP_FLAG_URG;
  packet->tcp.urgent = packet->tcp.seq + bpf_ntohs(tcp.urgent) + 1;
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

static __always_inline __u32 psp_segments(const struct __sk_buff* skb) {
  return skb->gso_segs ? skb->gso_segs : 1;
}

struct psp_udp_header {
  __be16 source, dest, length, check;
  __u8 psp_next, psp_ext_length, psp_crypt_offset, psp_version; /* how a PSP header begins */
} __attribute__((aligned(4)));

/* psp_load_udp reads a UDP header and the PSP header's begin, or of a shorter packet the ports. */
static __always_inline bool psp_load_udp(struct __sk_buff* skb, __u32 offset,
                                         struct psp_udp_header* udp) {
  if (offset == ETH_HLEN + 20 && psp_load(skb, ETH_HLEN + 20, udp, sizeof *udp)) return true;
  if (offset == ETH_HLEN + 40 && psp_load(skb, ETH_HLEN + 40, udp, sizeof *udp)) return true;
  if (!bpf_skb_load_bytes(skb, offset, udp, sizeof *udp)) return true;
  udp->psp_version = 0;
  return !bpf_skb_load_bytes(skb, offset, udp, offsetof(struct psp_udp_header, length));
}

/* psp_is_psp: UDP to port 1000 directly behind the IP header, not a fragment. Gives the version. */
static __always_inline bool psp_is_psp(struct __sk_buff* skb, __u32* version) {
  __u8 ip[20] __attribute__((aligned(4)));
  struct psp_udp_header udp;
  __u32 offset = ETH_HLEN + 40;

  if (!psp_load(skb, ETH_HLEN, ip, sizeof ip)) return false;
  if (ip[0] >> 4 == 4) {
    if (ip[9] != IPPROTO_UDP || (ip[6] & 0x3f) || ip[7]) return false;
    offset = ETH_HLEN + 4 * (__u32)(ip[0] & 15);
  } else if (ip[0] >> 4 != 6 || ip[6] != IPPROTO_UDP) {
    return false;
  }
  if (!psp_load_udp(skb, offset, &udp)) return false;
  *version = udp.psp_version >> 2 & 15;
  return udp.dest == bpf_htons(PSP_UDP_PORT);
}

#endif
