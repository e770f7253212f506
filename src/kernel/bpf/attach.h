/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * rx-assoc and tx-assoc at the socket, under its lock: the requests of pspd by setsockopt. What is
 * decided is in socket_state.h; here are the kernel's numbers for it and the place where it is
 * kept.
 */
#ifndef PSP_KERNEL_BPF_ATTACH_H
#define PSP_KERNEL_BPF_ATTACH_H

#include "kernel.h"
#include "maps.h"
#include "tcp.h"

static __always_inline int psp_rx_attach(struct bpf_sockopt* ctx, struct bpf_sock* sk,
                                         const struct psp_sockopt* request) {
  const struct tcp_sock* tcp = psp_kernel_tcp(sk);
  struct psp_sock* sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);
  struct psp_tcp now;
  int refused = psp_rx_refused(sock, psp_epoch, sk->state, request->flags & PSP_SOCKOPT_ANY_STATE,
                               BPF_CORE_READ(tcp, inet_conn.icsk_ulp_ops));

  if (refused) return refused;
  if (!sock) sock = bpf_sk_storage_get(&psp_assoc, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!sock) return -ENOMEM;
  psp_rx_prepare(sock, &request->rx, bpf_get_netns_cookie(ctx), psp_epoch);
  if (!psp_has_sequence(sk->state)) {
    sock->state = PSP_STATE_RX;
    return 0;
  }
  psp_rx_begin(sock, BPF_CORE_READ(tcp, rcv_nxt));
  psp_read_tcp(sk, &now);
  psp_read_queues(sk, &now);
  return psp_rx_settle(sock, &now);
}

static __always_inline int psp_tx_attach(struct bpf_sock* sk, const struct psp_sockopt* request) {
  struct psp_sock* sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);
  struct psp_tcp now;
  int refused = psp_tx_refused(sock, psp_epoch, sk->state, request->flags & PSP_SOCKOPT_ANY_STATE);

  if (refused) return refused;
  if (!sock) return -ENOENT; /* the verifier does not remember that it was looked at */
  psp_tx_begin(sock);
  psp_read_tcp(sk, &now);
  psp_read_queues(sk, &now);
  return psp_tx_settle(sock, &now, request->tx_spi, request->tx_handle,
                       request->flags & PSP_SOCKOPT_TUPLE_NOTED);
}

static __always_inline int psp_mss_reserved(struct bpf_sock* sk) {
  struct psp_sock* sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);

  if (!sock || sock->epoch != psp_epoch) return -ENOENT;
  sock->mss_reserved = 1;
  return 0;
}

#endif
