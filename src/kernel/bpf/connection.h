/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Connections of sockets by their addresses, and TCP_REPAIR, which can give the connection of one
 * socket to another. Keys do not go along with it: what it makes of a secured connection would go
 * on in clear, so such a socket neither sends nor receives until it is closed (docs/security.md,
 * "Known limits"). A 4-tuple is one only with its namespace, as two containers may have the same
 * addresses. IPv4 in IPv6 sockets is IPv4 here, as on the wire. For the socket programs: socket
 * options and the cgroup's two ways.
 */
#ifndef PSP_KERNEL_BPF_CONNECTION_H
#define PSP_KERNEL_BPF_CONNECTION_H

#include "kernel.h"
#include "maps.h"
#include "parse.h"
#include "tcp.h"

#define PSP_AF_INET 2
#define PSP_AF_INET6 10

/*
 * psp_connection is the connection of a socket in the form it has on the wire: IPv4-mapped becomes
 * IPv4. False: it has no peer; then only the namespace is filled in.
 */
static __always_inline bool psp_connection(struct bpf_sockopt* ctx, struct bpf_sock* sk,
                                           struct psp_tuple* tuple) {
  __u32 local[4] = {sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2], sk->src_ip6[3]};
  __u32 remote[4] = {sk->dst_ip6[0], sk->dst_ip6[1], sk->dst_ip6[2], sk->dst_ip6[3]};

  __builtin_memset(tuple, 0, sizeof *tuple);
  tuple->netns = bpf_get_netns_cookie(ctx);
  if (!sk->dst_port || sk->state == PSP_TCP_CLOSE || sk->state == PSP_TCP_SYN_SENT) return false;
  if (sk->family == PSP_AF_INET || (!remote[0] && !remote[1] && remote[2] == bpf_htonl(0xffff))) {
    tuple->family = 4;
    local[0] = sk->src_ip4;
    remote[0] = sk->dst_ip4;
    __builtin_memcpy(tuple->local, local, 4);
    __builtin_memcpy(tuple->remote, remote, 4);
  } else {
    tuple->family = 6;
    __builtin_memcpy(tuple->local, local, sizeof local);
    __builtin_memcpy(tuple->remote, remote, sizeof remote);
  }
  tuple->local_port = bpf_htons((__u16)sk->src_port);
  tuple->remote_port = sk->dst_port;
  return true;
}

/* psp_restores: is that a secured connection of another socket, which may be gone? For good then.
 */
static __always_inline bool psp_restores(struct psp_sock* sock, const struct psp_tuple* tuple,
                                         __u64 cookie) {
  const struct psp_tuple_entry* entry = bpf_map_lookup_elem(&psp_departed, tuple);

  if (!entry || entry->cookie == cookie) return false;
  sock->repaired = PSP_RESTORED;
  return true;
}

/*
 * psp_note_repair: TCP_REPAIR gives a socket the 4-tuple of another one's connection without a word
 * on the wire, as who restores a process from a checkpoint does. The keys stay with the other one.
 * Whether it has been done can be seen when the call that ends it comes, or by what is sent.
 */
static __always_inline int psp_note_repair(struct bpf_sockopt* ctx, struct bpf_sock* sk) {
  struct psp_sock* sock = bpf_sk_storage_get(&psp_assoc, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  struct psp_tuple tuple;

  if (!sock) {
    bpf_set_retval(-ENOMEM);
    return 0;
  }
  if (!sock->repaired) sock->repaired = PSP_REPAIRED;
  if (psp_connection(ctx, sk, &tuple)) psp_restores(sock, &tuple, psp_cookie(psp_kernel_tcp(sk)));
  return 1;
}

/* psp_is_restored: is this a packet of a socket that TCP_REPAIR has given a secured connection? */
static __always_inline bool psp_is_restored(struct __sk_buff* skb, struct psp_sock* sock,
                                            bool incoming) {
  struct psp_packet packet;

  if (sock->repaired != PSP_REPAIRED) return sock->repaired;
  if (!psp_parse_segment(skb, 0, &packet)) return true;
  if (packet.tcp.syn) return false; /* a connection of its own begins */
  if (incoming) psp_turn(&packet.tuple);
  packet.tuple.netns = BPF_CORE_READ(psp_netdev(skb), nd_net.net, net_cookie);
  return psp_restores(sock, &packet.tuple, bpf_get_socket_cookie(skb));
}

/* psp_tcp_of is the full TCP socket of a packet at a cgroup, if it has one. */
static __always_inline struct bpf_sock* psp_tcp_of(struct __sk_buff* skb) {
  struct bpf_sock* sk = skb->sk;

  if (!sk) return NULL;
  sk = bpf_sk_fullsock(sk);
  return sk && sk->protocol == IPPROTO_TCP ? sk : NULL;
}

/*
 * psp_judge_of is the association that has to judge a packet of that socket. If there is none,
 * `verdict`, which is 1 before, is the packet's.
 */
static __always_inline struct psp_sock* psp_judge_of(struct __sk_buff* skb, struct bpf_sock* sk,
                                                     bool incoming, int* verdict) {
  struct psp_sock* sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);

  if (!sock) return NULL;
  if (psp_is_restored(skb, sock, incoming)) {
    psp_count_drop(PSP_DROP_POLICY_CLEAR);
    *verdict = 0;
    return NULL;
  }
  return sock->state == PSP_STATE_NONE ? NULL : sock;
}

#endif
