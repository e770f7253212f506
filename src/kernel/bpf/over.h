/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * The ends of secured connections and sockets, noted in psp_noted for pspd. It must know at a clean
 * stop which sockets could still send: those keep the programs in place, the others are let go. A
 * socket that was disconnected is in no listing of the kernel and can connect again, so no listing
 * tells. The notes are by cookie, since the socket's storage is not to be read from outside once
 * its descriptor is gone.
 */
#ifndef PSP_KERNEL_BPF_OVER_H
#define PSP_KERNEL_BPF_OVER_H

#include "kernel.h"
#include "maps.h"

/*
 * psp_note_over: the connection ends with a segment of the peer (`over`), or the socket begins
 * another. What is over has been told to its application, and need not be blocked when pspd stops.
 */
static __always_inline void psp_note_over(struct __sk_buff* skb, struct psp_sock* sock, bool over) {
  __u64 cookie = bpf_get_socket_cookie(skb);
  struct psp_noted_entry* noted = bpf_map_lookup_elem(&psp_noted, &cookie);

  sock->over = over;
  if (noted) noted->over = over ? PSP_OVER_BY_TCP : 0;
}

/*
 * psp_released: the application has closed its last descriptor of a secured socket. From now on the
 * socket is alive only if the kernel lists it. Before, one that has been disconnected is in no
 * listing and can connect again.
 */
SEC("cgroup/sock_release")
int psp_released(struct bpf_sock* sk) {
  struct psp_noted_entry* noted;
  struct psp_sock* sock;
  __u64 cookie;

  /* The epoch is never 0. Asking makes the constants a map of this program: they tell whose it is.
   */
  if (!psp_epoch || sk->protocol != IPPROTO_TCP) return 1;
  sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);
  if (!sock) return 1;
  cookie = bpf_get_socket_cookie(sk);
  noted = bpf_map_lookup_elem(&psp_noted, &cookie);
  if (noted) noted->released = 1;
  return 1;
}

#endif
