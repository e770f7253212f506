/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Packets of connections that have no full socket any more: what the kernel itself sends for them
 * is sealed, and what comes in clear for one in TIME_WAIT is refused as its socket would have done.
 * The keys of a socket's storage go with the full socket, at the entry to TIME_WAIT; what is needed
 * afterwards is noted in psp_departed by 4-tuple, for 125 s. The trap is another connection with
 * the same ports: a SYN, and what is sent by a later cookie, is not of the old one. Sealed is only
 * what the kernel sends in that way, bare and not forwarded: else anybody could have his packets
 * sealed.
 */
#ifndef PSP_KERNEL_BPF_DEPARTED_H
#define PSP_KERNEL_BPF_DEPARTED_H

#include "icmp.h"
#include "netdev.h"

/* psp_is_live: does the connection of an outgoing segment still have its full socket? */
static __always_inline bool psp_is_live(struct __sk_buff* skb, const struct psp_tuple* tuple) {
  struct psp_packet inbound = {.tuple = *tuple};
  struct bpf_sock* sk;
  bool live;

  psp_turn(&inbound.tuple);
  sk = psp_lookup(skb, &inbound);
  if (!sk) return false;
  live = sk->state != PSP_TCP_TIME_WAIT && sk->state != PSP_TCP_LISTEN && bpf_sk_fullsock(sk);
  bpf_sk_release(sk);
  return live;
}

/*
 * psp_egress_departed: packets without a full socket of their own: ACKs of TIME_WAIT, RSTs of
 * nobody. They are sealed if their connection had a Tx key.
 */
static __always_inline int psp_egress_departed(struct __sk_buff* skb, bool time_wait) {
  struct psp_tuple_entry* entry;
  struct psp_packet packet;
  __u64 cookie;

  if (skb->mark == psp_mark) { /* pspd's own: clear octets of before tx-assoc */
    skb->mark = 0;
    return PSP_NEXT;
  }
  if (skb->ingress_ifindex) return PSP_NEXT; /* forwarded: not this host's connection */
  if (!psp_is_ip(skb)) return PSP_NEXT;
  if (!psp_parse(skb, &packet)) {
    if (psp_is_unclaimed(skb)) psp_count_drop(PSP_DROP_UNCLAIMED);
    return PSP_NEXT;
  }
  entry = bpf_map_lookup_elem(&psp_departed, &packet.tuple);
  if (!entry || packet.tcp.syn) return PSP_NEXT; /* a SYN begins another connection */
  if (psp_is_foreign(skb)) return PSP_NEXT;      /* its addresses are not ours */
  if (time_wait) {
    cookie = bpf_get_socket_cookie(skb);
    if (cookie && cookie != entry->cookie) return PSP_NEXT; /* a later connection, same ports */
  }
  if (entry->epoch != psp_epoch) return psp_drop(PSP_DROP_POLICY_EPOCH);
  if (entry->rx.dev_id != psp_dev_id) return psp_drop(PSP_DROP_POLICY_ROUTE);
  if (!psp_is_bare(&packet.tcp) || psp_is_live(skb, &packet.tuple))
    return psp_drop(PSP_DROP_POLICY_FORGED);
  if (packet.tcp.rst && packet.tcp.ack)
    return PSP_NEXT; /* the answer to a SYN: another connection */
  return psp_to_daemon(skb, PSP_FRAME_SEAL, 0, entry->tx_handle);
}

/* psp_takes_over: may the segment take the place of that connection in TIME_WAIT? */
static __always_inline bool psp_takes_over(const struct psp_segment* segment, const void* sk) {
  const struct tcp_timewait_sock* past = psp_kernel_pointer(sk);

  if (BPF_CORE_READ(past, tw_sk.tw_substate) != PSP_TCP_TIME_WAIT) return false;
  return psp_begins(segment, BPF_CORE_READ(past, tw_sk.__tw_common.skc_tw_rcv_nxt),
                    BPF_CORE_READ(past, tw_ts_recent_stamp));
}

/*
 * psp_is_late: a segment in clear for a connection in TIME_WAIT that the state table refuses: all
 * if it was PSP Full, else those that take sequence space, but for a FIN. It would be answered, or
 * end that state; only a SYN may pass, to begin another connection. The state of an orphan in
 * FIN_WAIT2 is TIME_WAIT too. Of a first fragment we may see no more than the ports.
 */
static __always_inline bool psp_is_late(struct __sk_buff* skb) {
  struct psp_tuple_entry* entry;
  struct psp_packet packet;
  struct psp_tuple tuple;
  struct bpf_sock* sk;
  bool late;

  if (!psp_parse(skb, &packet) && !packet.tuple.remote_port) return false;
  packet.tuple.netns = psp_netns;
  tuple = packet.tuple;
  psp_turn(&tuple);
  entry = bpf_map_lookup_elem(&psp_departed, &tuple);
  if (!entry || !psp_is_refused_late(&packet.tcp, entry->full)) return false;
  sk = psp_lookup(skb, &packet);
  if (!sk) return false;
  late = sk->state == PSP_TCP_TIME_WAIT && !psp_takes_over(&packet.tcp, sk);
  bpf_sk_release(sk);
  return late;
}

#endif
