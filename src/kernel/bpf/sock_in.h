/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * psp_sock_in: every segment of every full socket with an association, whatever interface it came
 * by, is judged by the state table here, after the socket lookup and before TCP. So loopback,
 * another netdev, fragments and extension headers are no way around: what has not the proof of
 * deliver.h is clear. It runs in softirq and not under the socket's lock; against an rx-assoc or
 * tx-assoc on another processor it notes first and looks at the state then (psp_must_note). What it
 * cannot read to the TCP header it drops.
 */
#ifndef PSP_KERNEL_BPF_SOCK_IN_H
#define PSP_KERNEL_BPF_SOCK_IN_H

#include "connection.h"
#include "guard.h"
#include "over.h"
#include "parse.h"

/* psp_note_full tells what outlives the socket that its connection is PSP Full. */
static __always_inline void psp_note_full(struct psp_sock* sock, struct __sk_buff* skb,
                                          const struct psp_packet* packet) {
  struct psp_tuple tuple = packet->tuple;
  struct psp_tuple_entry* entry;

  psp_turn(&tuple);
  tuple.netns = BPF_CORE_READ(psp_netdev(skb), nd_net.net, net_cookie);
  entry = bpf_map_lookup_elem(&psp_departed, &tuple);
  if (!entry) return;
  entry->full = 1;
  sock->full_noted = 1;
}

/* psp_let_in notes a segment that was opened under the socket's association. */
static __always_inline void psp_let_in(struct psp_sock* sock, struct __sk_buff* skb,
                                       const struct psp_packet* packet) {
  psp_note_psp(sock, &packet->tcp);
  if (sock->state == PSP_STATE_FULL && !sock->full_noted) psp_note_full(sock, skb, packet);
  __sync_fetch_and_add(&sock->rx_packets, psp_segments(skb));
  __sync_fetch_and_add(&sock->rx_bytes, packet->tcp.payload);
}

/* psp_says_end is psp_ends of the socket; few segments need the kernel's numbers for it. */
static __always_inline bool psp_says_end(const struct bpf_sock* sk,
                                         const struct psp_segment* segment, bool verified) {
  struct psp_tcp now;

  if (!psp_may_end(sk->state, segment)) return false;
  psp_read_tcp(sk, &now);
  return psp_ends(&now, segment, verified);
}

static __always_inline bool psp_accept(struct __sk_buff* skb, struct bpf_sock* sk,
                                       struct psp_sock* sock) {
  bool verified = psp_opened(skb, sock);
  struct psp_packet packet;
  __u32 event, state = sock->state;
  struct psp_tcp now;

  /* TCP may find a segment behind headers where we do not. We could not note what it leaves. */
  if (!psp_parse_segment(skb, 0, &packet)) return false;
  if (state == PSP_STATE_RX && packet.tcp.urg && psp_reads_urgent(sk)) packet.tcp.urg = false;
  event = psp_classify(&packet.tcp, verified);
  if (psp_rx_judge(sock, state, event, &packet.tcp, verified) == PSP_RX_DROP) return false;
  if (event == PSP_RX_PSP_MATCH) psp_let_in(sock, skb, &packet);
  if (psp_must_note(state, event)) {
    psp_barrier(sock);
    psp_read_tcp(sk, &now);
    return psp_note_clear(sock, &now, &packet.tcp);
  }
  if (state >= PSP_STATE_TX && psp_says_end(sk, &packet.tcp, verified))
    psp_note_over(skb, sock, true);
  return true;
}

SEC("cgroup_skb/ingress")
int psp_sock_in(struct __sk_buff* skb) {
  struct bpf_sock* sk = psp_tcp_of(skb);
  struct psp_sock* sock;
  int verdict = 1;

  if (!sk) return 1;
  sock = psp_judge_of(skb, sk, true, &verdict);
  if (!sock) return verdict;
  if (psp_blocked(sock, psp_epoch)) {
    psp_count_drop(PSP_DROP_POLICY_EPOCH);
    return 0;
  }
  if (sock->epoch != psp_epoch || psp_accept(skb, sk, sock)) return 1;
  __sync_fetch_and_add(&sock->rx_drops, 1);
  psp_count_drop(PSP_DROP_POLICY_CLEAR);
  return 0;
}

#endif
