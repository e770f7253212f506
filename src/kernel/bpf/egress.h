/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * psp_egress, at the netdev on the way out: segments of sockets with a Tx key go to pspd, with a
 * tag that says how they are to be sealed. Nothing else does, and none of these goes on in clear:
 * what cannot be read, or has keys of an earlier pspd or of another device, is dropped. Below the
 * clear boundary octets were written before tx-assoc and stay in clear, also when they are sent
 * again. The programs stay when pspd is killed; the TAP is gone then, and secured sockets are
 * silent.
 */
#ifndef PSP_KERNEL_BPF_EGRESS_H
#define PSP_KERNEL_BPF_EGRESS_H

#include "departed.h"
#include "note.h"

/* psp_flags: has TCP left room for PSP in this segment? */
static __always_inline __u8 psp_flags(const struct __sk_buff* skb, const struct psp_sock* sock,
                                      struct bpf_sock* sk, const struct psp_packet* packet) {
  struct bpf_tcp_sock* tcp;

  if (sock->mss_reserved) return PSP_FRAME_F_MSS_RESERVED;
  if (skb->gso_size) return 0; /* cut anyway, by gso_size */
  tcp = bpf_tcp_sock(sk);
  return tcp && packet->tcp.payload + PSP_OVERHEAD > tcp->mss_cache ? PSP_FRAME_F_CUT : 0;
}

/* psp_kind: octets below the clear boundary were queued before tx-assoc and stay in clear. */
static __always_inline __u8 psp_kind(struct psp_sock* sock, struct bpf_sock* sk,
                                     const struct psp_packet* packet) {
  struct bpf_tcp_sock* tcp;
  __u32 form;

  if (sock->clear_done) return PSP_FRAME_SEAL;
  tcp = bpf_tcp_sock(sk);
  if (tcp && psp_all_acknowledged(sock, tcp->snd_una)) {
    sock->clear_done = 1;
    return PSP_FRAME_SEAL;
  }
  form = psp_tx_form(sock, &packet->tcp);
  if (form == PSP_TX_SEALED) return PSP_FRAME_SEAL;
  return form == PSP_TX_SPAN ? PSP_FRAME_SPAN : PSP_FRAME_CLEAR;
}

/* psp_was_sent: has all of the segment been sent before? */
static __always_inline bool psp_was_sent(struct bpf_sock* sk, const struct psp_packet* packet) {
  struct bpf_tcp_sock* tcp = bpf_tcp_sock(sk);

  return tcp && psp_is_again(tcp->snd_nxt, &packet->tcp);
}

SEC("tc")
int psp_egress(struct __sk_buff* skb) {
  struct bpf_sock* sk = skb->sk;
  struct psp_packet packet;
  struct psp_sock* sock;
  __u32 state;
  __u8 kind, flags;

  if (!sk) return psp_egress_departed(skb, false);
  state = sk->state;
  sk = bpf_sk_fullsock(sk);
  if (!sk && state == PSP_TCP_NEW_SYN_RECV) return psp_supersede(skb);
  if (!sk) return state == PSP_TCP_TIME_WAIT ? psp_egress_departed(skb, true) : PSP_NEXT;
  sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);
  if (!sock || sock->state == PSP_STATE_NONE) {
    if (state == PSP_TCP_SYN_SENT || state == PSP_TCP_SYN_RECV) return psp_supersede(skb);
    /* The kernel's own control sockets and the TAP's are in state CLOSE; RSTs of a port that
       somebody listens on carry the listener. */
    return state == PSP_TCP_CLOSE || state == PSP_TCP_LISTEN ? psp_egress_departed(skb, false)
                                                             : PSP_NEXT;
  }
  if (sock->state >= PSP_STATES) return psp_drop(PSP_DROP_TX_NO_ASSOC);
  if (psp_tx_table[sock->state][1] == PSP_TX_CLEAR) return PSP_NEXT;
  if (sock->epoch != psp_epoch) return psp_drop(PSP_DROP_POLICY_EPOCH);
  if (!psp_is_ours(sock)) return psp_drop(PSP_DROP_POLICY_ROUTE);
  if (skb->vlan_present || !psp_is_ip(skb) || !psp_parse(skb, &packet))
    return psp_drop(PSP_DROP_TX_BAD_PACKET);
  /* Data in a SYN: pspd could have to cut it. TCP sends it again behind the SYN. */
  if (packet.tcp.syn && packet.tcp.payload) return psp_drop(PSP_DROP_TX_BAD_PACKET);
  /*
   * The first segment of a socket that had its keys before it had a peer (rules of Linux up
   * to 7.3); and the last of any: a socket with the same ports, if only one of them is bound to a
   * netdev, may have taken the note away.
   */
  if ((!sock->tuple_noted || packet.tcp.fin || packet.tcp.rst) &&
      !psp_note_tuple(skb, sock, &packet))
    return psp_drop(PSP_DROP_TX_NO_ASSOC);
  kind = psp_kind(sock, sk, &packet);
  if (kind == PSP_FRAME_SEAL) {
    __sync_fetch_and_add(&sock->tx_packets, psp_segments(skb));
    __sync_fetch_and_add(&sock->tx_bytes, packet.tcp.payload);
  }
  flags = psp_flags(skb, sock, sk, &packet);
  if (kind == PSP_FRAME_SPAN && psp_was_sent(sk, &packet)) flags |= PSP_FRAME_F_AGAIN;
  return psp_to_daemon(skb, kind, flags, sock->tx_handle);
}

#endif
