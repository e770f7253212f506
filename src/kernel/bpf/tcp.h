/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * What the kernel's TCP knows of a socket, in the form in which socket_state.h wants it. Numbers
 * are read from struct tcp_sock by CO-RE (kernel.h); what follows from them is decided in plain C
 * over there, where tests and the simulator have it too. In setsockopt and getsockopt the socket's
 * lock is held and all belong together; in softirq they may be of a moment ago, and callers allow
 * for that.
 */
#ifndef PSP_KERNEL_BPF_TCP_H
#define PSP_KERNEL_BPF_TCP_H

#include "device/socket_state.h"

#include "kernel.h"

#define PSP_SOCK_URGINLINE (1ul << 2) /* SOCK_URGINLINE of the socket's flags */

static __always_inline bool psp_queue_end(const struct tcp_sock* tcp, __u32* end) {
  const struct sk_buff* last;

  if (!BPF_CORE_READ(tcp, out_of_order_queue.rb_node)) return false;
  last = BPF_CORE_READ(tcp, ooo_last_skb);
  if (!last) return false;
  *end = BPF_CORE_READ((const struct tcp_skb_cb*)&last->cb, end_seq);
  return true;
}

/*
 * psp_reads_urgent: does the application read urgent octets where they stand (SO_OOBINLINE)? Then
 * an urgent pointer takes none out of the stream.
 */
static __always_inline bool psp_reads_urgent(const void* sk) {
  return BPF_CORE_READ((const struct sock*)psp_kernel_pointer(sk), __sk_common.skc_flags) &
         PSP_SOCK_URGINLINE;
}

/* psp_read_tcp is what TCP knows of the connection at this moment. */
static __always_inline void psp_read_tcp(const struct bpf_sock* sk, struct psp_tcp* now) {
  const struct tcp_sock* tcp = psp_kernel_tcp(sk);

  __builtin_memset(now, 0, sizeof *now);
  now->state = sk->state;
  now->rcv_nxt = BPF_CORE_READ(tcp, rcv_nxt);
  now->rcv_wnd = BPF_CORE_READ(tcp, rcv_wnd);
  now->copied_seq = BPF_CORE_READ(tcp, copied_seq);
  now->snd_una = BPF_CORE_READ(tcp, snd_una);
  now->snd_nxt = BPF_CORE_READ(tcp, snd_nxt);
  now->write_seq = BPF_CORE_READ(tcp, write_seq);
}

/* psp_read_queues adds what is queued out of order, and what an urgent pointer has named. */
static __always_inline void psp_read_queues(const struct bpf_sock* sk, struct psp_tcp* now) {
  const struct tcp_sock* tcp = psp_kernel_tcp(sk);

  now->queue = psp_queue_end(tcp, &now->queue_end);
  now->urgent = BPF_CORE_READ(tcp, urg_data);
  now->urgent_seq = BPF_CORE_READ(tcp, urg_seq);
  now->urgent_inline = psp_reads_urgent(sk);
}

/* psp_cookie is SO_COOKIE where no helper tells it; 0: nobody has asked for it yet. */
static __always_inline __u64 psp_cookie(const struct tcp_sock* tcp) {
  return (__u64)BPF_CORE_READ((const struct sock*)tcp, __sk_common.skc_cookie.counter);
}

static __always_inline const struct net_device* psp_netdev(struct __sk_buff* skb) {
  const struct sk_buff* packet = psp_kernel_pointer(skb);

  return BPF_CORE_READ(packet, dev);
}

#endif
