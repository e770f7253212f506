/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * ICMP about PSP packets. One that says "too big" is made to speak of the TCP segment inside; that
 * a host answers PSP with "port unreachable" is counted. The stack looks for the UDP socket of the
 * quoted packet, which there is not, and the connection would never hear of a smaller path MTU (RFC
 * 1191, RFC 8201). Whoever forges one could lower that MTU: he has to quote an SPI of the
 * connection and an IV of the last minute, so he must have seen a packet of it. Used by ingress.h
 * and, for the count, departed.h.
 */
#ifndef PSP_KERNEL_BPF_ICMP_H
#define PSP_KERNEL_BPF_ICMP_H

#include "netdev.h"

#define PSP_ICMP_HEADER 8

/*
 * psp_is_unclaimed: the answer of this host's UDP to a PSP packet, port unreachable. Such a packet
 * came by a netdev without PSP device, or in a version that is not enabled. The kernel sends few of
 * these: how many there are says no more than that there are some.
 */
static __always_inline bool psp_is_unclaimed(struct __sk_buff* skb) {
  __u8 outer[20], icmp[2], inner[20];
  __u32 at = ETH_HLEN + 40, l4;
  __be16 port;

  if (bpf_skb_load_bytes(skb, ETH_HLEN, outer, sizeof outer)) return false;
  if (outer[0] >> 4 == 4) {
    if (outer[9] != IPPROTO_ICMP) return false;
    at = ETH_HLEN + 4 * (__u32)(outer[0] & 15);
  } else if (outer[0] >> 4 != 6 || outer[6] != IPPROTO_ICMPV6) {
    return false;
  }
  if (bpf_skb_load_bytes(skb, at, icmp, sizeof icmp)) return false;
  if (outer[0] >> 4 == 4 ? icmp[0] != 3 || icmp[1] != 3 : icmp[0] != 1 || icmp[1] != 4)
    return false;
  at += PSP_ICMP_HEADER;
  if (bpf_skb_load_bytes(skb, at, inner, sizeof inner)) return false;
  l4 = at + (inner[0] >> 4 == 4 ? 4 * (__u32)(inner[0] & 15) : 40);
  if ((inner[0] >> 4 == 4 ? inner[9] : inner[6]) != IPPROTO_UDP) return false;
  return !bpf_skb_load_bytes(skb, l4 + 2, &port, sizeof port) && port == bpf_htons(PSP_UDP_PORT);
}

/* psp_quote is where the parts of an ICMP "too big" and of the packet that it quotes lie. */
struct psp_quote {
  __u32 icmp, l4;      /* offsets in the frame */
  __u32 protocol_word; /* the four octets of the quoted IP header with its protocol */
  struct psp_tx_spi key;
  __u64 iv;
};

/* psp_parse_too_big: an ICMP "fragmentation needed" or "packet too big" that quotes a PSP packet?
 */
static __always_inline bool psp_parse_too_big(struct __sk_buff* skb, struct psp_quote* quote) {
  __u8 outer[20], icmp[PSP_ICMP_HEADER], inner[40];
  __be16 port;

  __builtin_memset(quote, 0, sizeof *quote);
  quote->key.netns = psp_netns;
  if (bpf_skb_load_bytes(skb, ETH_HLEN, outer, sizeof outer)) return false;
  if (outer[0] >> 4 == 4) {
    if (outer[9] != IPPROTO_ICMP || (outer[6] & 0x3f) || outer[7]) return false;
    quote->icmp = ETH_HLEN + 4 * (__u32)(outer[0] & 15);
    if (bpf_skb_load_bytes(skb, quote->icmp, icmp, sizeof icmp)) return false;
    if (icmp[0] != 3 || icmp[1] != 4) return false;
    if (bpf_skb_load_bytes(skb, quote->icmp + PSP_ICMP_HEADER, inner, 20)) return false;
    if (inner[0] >> 4 != 4 || inner[9] != IPPROTO_UDP) return false;
    quote->l4 = quote->icmp + PSP_ICMP_HEADER + 4 * (__u32)(inner[0] & 15);
    quote->protocol_word = quote->icmp + PSP_ICMP_HEADER + 8;
    quote->key.family = 4;
    __builtin_memcpy(quote->key.remote, inner + 16, 4);
  } else {
    if (outer[0] >> 4 != 6 || outer[6] != IPPROTO_ICMPV6) return false;
    quote->icmp = ETH_HLEN + 40;
    if (bpf_skb_load_bytes(skb, quote->icmp, icmp, sizeof icmp)) return false;
    if (icmp[0] != 2) return false;
    if (bpf_skb_load_bytes(skb, quote->icmp + PSP_ICMP_HEADER, inner, 40)) return false;
    if (inner[0] >> 4 != 6 || inner[6] != IPPROTO_UDP) return false;
    quote->l4 = quote->icmp + PSP_ICMP_HEADER + 40;
    quote->protocol_word = quote->icmp + PSP_ICMP_HEADER + 4;
    quote->key.family = 6;
    __builtin_memcpy(quote->key.remote, inner + 24, 16);
  }
  if (bpf_skb_load_bytes(skb, quote->l4 + 2, &port, sizeof port)) return false;
  if (port != bpf_htons(PSP_UDP_PORT)) return false;
  return !bpf_skb_load_bytes(skb, quote->l4 + 8 + 4, &quote->key.spi, sizeof quote->key.spi) &&
         !bpf_skb_load_bytes(skb, quote->l4 + 8 + 8, &quote->iv, sizeof quote->iv);
}

#define PSP_QUOTE_AGE_NS (60ull * 1000 * 1000 * 1000)

/*
 * psp_is_recent: IVs are boot time in picoseconds, so only who has seen one of the last minute's
 * packets can quote it. SPIs are easily guessed.
 */
static __always_inline bool psp_is_recent(__u64 iv) {
  __u64 now = bpf_ktime_get_boot_ns();

  return now * 1000 - iv < PSP_QUOTE_AGE_NS * 1000;
}

/* psp_unacknowledged is snd_una of a secured connection. False: there is none. */
static __always_inline bool psp_unacknowledged(struct __sk_buff* skb, const struct psp_tuple* tuple,
                                               __u32* sequence) {
  struct psp_packet inbound = {};
  struct bpf_sock *sk, *full;
  struct bpf_tcp_sock* tcp;
  struct psp_sock* sock;
  bool found = false;

  inbound.tuple = *tuple;
  psp_turn(&inbound.tuple);
  sk = psp_lookup(skb, &inbound);
  if (!sk) return false;
  full = bpf_sk_fullsock(sk);
  if (full) {
    sock = bpf_sk_storage_get(&psp_assoc, full, 0, 0);
    tcp = bpf_tcp_sock(full);
    if (sock && tcp && sock->state >= PSP_STATE_TX && sock->epoch == psp_epoch) {
      *sequence = tcp->snd_una;
      found = true;
    }
  }
  bpf_sk_release(sk);
  return found;
}

/*
 * psp_too_big makes an ICMP message about a PSP packet one about the TCP segment inside, so that
 * the stack lowers that connection's path MTU. Whoever sends it must have seen a packet of it.
 */
static __always_inline void psp_too_big(struct __sk_buff* skb) {
  struct psp_tuple* tuple;
  struct psp_quote quote;
  __be32 before[3], after[3];
  __u32 sequence, shift;
  __s64 difference;

  if (!psp_parse_too_big(skb, &quote) || !psp_is_recent(bpf_be64_to_cpu(quote.iv))) return;
  tuple = bpf_map_lookup_elem(&psp_by_tx_spi, &quote.key);
  if (!tuple || !psp_unacknowledged(skb, tuple, &sequence)) return;
  if (bpf_skb_load_bytes(skb, quote.protocol_word, &before[0], 4) ||
      bpf_skb_load_bytes(skb, quote.l4, &before[1], 8))
    return;
  shift = quote.key.family == 4 ? 16 : 8; /* of the protocol in its word */
  after[0] = (before[0] & ~bpf_htonl(0xffu << shift)) | bpf_htonl((__u32)IPPROTO_TCP << shift);
  ((__be16*)after)[2] = tuple->local_port;
  ((__be16*)after)[3] = tuple->remote_port;
  after[2] = bpf_htonl(sequence);
  difference = bpf_csum_diff(before, sizeof before, after, sizeof after, 0);
  if (difference < 0) return;
  bpf_skb_store_bytes(skb, quote.protocol_word, &after[0], 4, 0);
  bpf_skb_store_bytes(skb, quote.l4, &after[1], 8, 0);
  bpf_l4_csum_replace(skb, quote.icmp + 2, 0, difference, 0);
}

#endif
