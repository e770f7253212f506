/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * psp_setsockopt: requests of pspd, and the options of applications that a secured socket cannot
 * have or that change what it does. The kernel runs it under the socket's lock, which is what makes
 * rx-assoc and tx-assoc one step (attach.h). Requests carry a token that only this pspd knows: the
 * level is no secret, and a socket's owner could attach keys of his own. What is refused to
 * applications: kTLS beside PSP, and to take urgent octets out of the stream while a clear pointer
 * is ahead.
 */
#ifndef PSP_KERNEL_BPF_SETSOCKOPT_H
#define PSP_KERNEL_BPF_SETSOCKOPT_H

#include "attach.h"
#include "connection.h"
#include "tcp_options.h"

/* psp_keep_inline: SO_OOBINLINE is not switched off while a pointer of the clear stream is ahead.
 */
static __always_inline int psp_keep_inline(struct bpf_sockopt* ctx, struct bpf_sock* sk) {
  const __s32* on = ctx->optval;
  const struct psp_sock* sock;
  struct psp_tcp now;

  if ((void*)(on + 1) > ctx->optval_end || *on) return 1;
  sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);
  if (!sock || sock->state < PSP_STATE_TX) return 1;
  psp_read_tcp(sk, &now);
  psp_read_queues(sk, &now);
  if (!psp_urgent_pending(&now)) return 1;
  bpf_set_retval(-EBUSY);
  return 0;
}

/* psp_unreserve_mss: options that the application sets are in the place of those that pspd did. */
static __always_inline int psp_unreserve_mss(struct bpf_sock* sk) {
  struct psp_sock* sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);

  if (sock) sock->mss_reserved = 0;
  return 1;
}

/* psp_refuse_ulp: a secured socket takes no other layer that encrypts, such as kTLS. */
static __always_inline int psp_refuse_ulp(struct bpf_sock* sk) {
  const struct psp_sock* sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);

  if (!sock || sock->state == PSP_STATE_NONE) return 1;
  if (sock->epoch != psp_epoch && !psp_blocked(sock, psp_epoch)) return 1;
  bpf_set_retval(-EINVAL);
  return 0;
}

SEC("cgroup/setsockopt")
int psp_setsockopt(struct bpf_sockopt* ctx) {
  struct psp_sockopt* request = ctx->optval;
  struct bpf_sock* sk = ctx->sk;
  int result;

  if (sk && ctx->level == IPPROTO_TCP && ctx->optname == TCP_ULP) return psp_refuse_ulp(sk);
  if (sk && ctx->level == IPPROTO_TCP && ctx->optname == TCP_REPAIR)
    return psp_note_repair(ctx, sk);
  if (sk && ctx->level == SOL_SOCKET && ctx->optname == SO_OOBINLINE)
    return psp_keep_inline(ctx, sk);
  if (sk && ctx->level == IPPROTO_IP && ctx->optname == IP_OPTIONS) return psp_unreserve_mss(sk);
  if (ctx->level != PSP_SOL || !sk) return psp_pass(ctx);
  if ((void*)(request + 1) > ctx->optval_end) return 1;
  if (request->token[0] != psp_token[0] || request->token[1] != psp_token[1]) return 1;
  switch (ctx->optname) {
    case PSP_SO_RX_ATTACH:
      result = psp_rx_attach(ctx, sk, request);
      break;
    case PSP_SO_TX_ATTACH:
      result = psp_tx_attach(sk, request);
      break;
    case PSP_SO_MSS_RESERVED:
      result = psp_mss_reserved(sk);
      break;
    default:
      return 1;
  }
  if (result) {
    bpf_set_retval(result);
    return 0;
  }
  ctx->optlen = -1; /* done: the kernel's own handler does not run */
  return 1;
}

#endif
