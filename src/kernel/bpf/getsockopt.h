/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * psp_getsockopt: shows pspd a socket as the kernel sees it, under the socket's lock, and
 * applications the MSS that they have. By a level of our own and a number that is secret and of one
 * pspd, so that a program gets from it what it always did. pspd asks on a borrowed descriptor
 * (kernel/sockets.cc), whatever namespace or process the socket is of. An IPv6 socket that was
 * accepted keeps its MSS, though pspd cuts its segments: what TCP_MAXSEG says is what is sent.
 */
#ifndef PSP_KERNEL_BPF_GETSOCKOPT_H
#define PSP_KERNEL_BPF_GETSOCKOPT_H

#include "connection.h"
#include "tcp_options.h"

/*
 * psp_maxseg: what the application is told of its MSS. A socket whose own MSS could not be lowered
 * still sends PSP_OVERHEAD octets less in each packet, since pspd cuts its segments to fit.
 */
static __always_inline int psp_maxseg(struct bpf_sockopt* ctx, struct bpf_sock* sk) {
  __s32* mss = ctx->optval;
  struct psp_sock* sock;

  if (ctx->retval || (void*)(mss + 1) > ctx->optval_end) return 1;
  sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);
  if (sock && sock->state >= PSP_STATE_TX && !sock->mss_reserved) *mss -= PSP_OVERHEAD;
  return 1;
}

static __always_inline __u32 psp_netns_references(const struct bpf_sock* sk) {
  const struct sock* kernel_sk = psp_kernel_pointer(sk);
  const struct net* net = BPF_CORE_READ(kernel_sk, __sk_common.skc_net.net);
  const struct net___before* before = (const void*)net;

  if (bpf_core_field_exists(net->ns.__ns_ref))
    return (__u32)BPF_CORE_READ(net, ns.__ns_ref.refs.counter);
  if (bpf_core_field_exists(before->ns.count))
    return (__u32)BPF_CORE_READ(before, ns.count.refs.counter);
  return 0;
}

static __always_inline void psp_view_tcp(struct psp_sock_view* view, struct bpf_sock* sk) {
  const struct tcp_sock* tcp = psp_kernel_tcp(sk);
  struct psp_sock* sock;

  view->tcp_state = sk->state;
  view->cookie = psp_cookie(tcp);
  view->route_ifindex = BPF_CORE_READ((const struct sock*)tcp, sk_dst_cache, dev, ifindex);
  sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);
  view->clear_boundary = sock ? sock->clear_boundary : 0;
  view->mss = BPF_CORE_READ(tcp, mss_cache);
  view->uid = BPF_CORE_READ((const struct sock*)tcp, sk_uid.val);
}

SEC("cgroup/getsockopt")
int psp_getsockopt(struct bpf_sockopt* ctx) {
  struct psp_sock_view* view = ctx->optval;
  struct bpf_sock* sk = ctx->sk;

  if (sk && ctx->level == IPPROTO_TCP && ctx->optname == TCP_MAXSEG) return psp_maxseg(ctx, sk);
  if (ctx->level != PSP_SOL || (__u32)ctx->optname != psp_view_optname || !sk) return psp_pass(ctx);
  if ((void*)(view + 1) > ctx->optval_end) return 1;
  view->valid = 1;
  view->netns_references = psp_netns_references(sk);
  view->family = sk->family;
  view->type = sk->type;
  view->protocol = sk->protocol;
  if ((sk->family == PSP_AF_INET || sk->family == PSP_AF_INET6) && sk->protocol == IPPROTO_TCP) {
    psp_view_tcp(view, sk);
    view->connected = psp_connection(ctx, sk, &view->tuple);
  }
  /* Volatile: one 8-octet store to both is not allowed on a context. */
  *(volatile __s32*)&ctx->retval = 0;
  *(volatile __s32*)&ctx->optlen = sizeof *view;
  return 1;
}

#endif
