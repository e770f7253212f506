/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * psp_sock_out: a secured socket sends by no netdev that is not its device's, or that has lost its
 * psp_egress; and nothing at all once its keys are gone. As with the kernel's own PSP, a route
 * change is silence and no leak. It is at the cgroup, before the netdev is reached, so it also
 * guards where our programs never were. RSTs and ACKs without a full socket do not come by here:
 * those are for departed.h.
 */
#ifndef PSP_KERNEL_BPF_SOCK_OUT_H
#define PSP_KERNEL_BPF_SOCK_OUT_H

#include "connection.h"
#include "guard.h"
#include "over.h"
#include "parse.h"

/* psp_sends_on is psp_goes_on of a packet; what cannot be read is no sign of an end. */
static __always_inline bool psp_sends_on(struct __sk_buff* skb) {
  struct psp_packet packet;

  return !psp_parse_segment(skb, 0, &packet) || psp_goes_on(&packet.tcp);
}

SEC("cgroup_skb/egress")
int psp_sock_out(struct __sk_buff* skb) {
  struct bpf_sock* sk = psp_tcp_of(skb);
  struct psp_sock* sock;
  int verdict = 1;

  if (!sk) return 1;
  sock = psp_judge_of(skb, sk, false, &verdict);
  if (!sock) return verdict;
  if (sk->state == PSP_TCP_SYN_SENT) psp_begin(sock);
  if (sock->state < PSP_STATE_TX) return 1;
  /* pspd, too, notes what is over: of those that it aborts. */
  if (sk->state == PSP_TCP_SYN_SENT || (sock->over && psp_sends_on(skb)))
    psp_note_over(skb, sock, false);
  if (sock->epoch != psp_epoch) {
    psp_count_drop(PSP_DROP_POLICY_EPOCH);
    return 0;
  }
  if (psp_guarded(skb, sock)) return 1;
  psp_count_drop(PSP_DROP_POLICY_ROUTE);
  return 0;
}

#endif
