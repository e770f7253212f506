/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Whether a packet of a secured socket meets the programs of its PSP device at a netdev: by what
 * pspd has noted in psp_guard, and by what the kernel has there now. The note alone is not enough:
 * root can take a program off or put another in front of it while pspd is dead or has not noticed.
 * So the head of the kernel's own list is read, for each packet that leaves and for each that
 * says it was opened: what says so is a number that another namespace can set where psp_ingress
 * does not clear it. An answer of no is silence, which is what is promised.
 */
#ifndef PSP_KERNEL_BPF_GUARD_H
#define PSP_KERNEL_BPF_GUARD_H

#include "kernel.h"
#include "maps.h"
#include "tcp.h"

/*
 * psp_is_of: has pspd put the programs of the socket's PSP device on this netdev? A yes is kept in
 * the socket for as long as pspd changes nothing, so that few packets ask the map. The number of a
 * netdev will do there: the socket and the netdevs of its packets share a network namespace.
 */
static __always_inline bool psp_is_of(struct __sk_buff* skb, __u32 ifindex, struct psp_sock* sock) {
  struct psp_netdev_key key = {.ifindex = ifindex};
  /* Read before the map is: what changes meanwhile makes the answer one of the past. */
  __u64 now = (__u64)psp_guard_version << 32 | ifindex;
  const struct psp_guard_entry* entry;

  if (sock->guarded == now) return true;
  psp_barrier(sock);
  key.netns = BPF_CORE_READ(psp_netdev(skb), nd_net.net, net_cookie);
  entry = bpf_map_lookup_elem(&psp_guard, &key);
  if (!entry || entry->epoch != psp_epoch || entry->dev_id != sock->rx.dev_id) return false;
  sock->guard_egress = entry->egress;
  sock->guard_ingress = entry->ingress;
  psp_barrier(sock);
  sock->guarded = now;
  return true;
}

/* psp_first_filter is the id of a clsact's first program if it begins with cls_bpf; else 0. */
static __always_inline __u32 psp_first_filter(struct psp_list* head) {
  struct psp_list* first = NULL;
  struct bpf_prog* filter = NULL;

  if (!head || bpf_probe_read_kernel(&first, sizeof first, &head->next) || first == head) return 0;
  first = (void*)first - offsetof(struct psp_cls_bpf_prog, link);
  if (bpf_probe_read_kernel(&filter, sizeof filter, first)) return 0;
  return BPF_CORE_READ(filter, aux, id);
}

/* The id of the program that sees the packets of a netdev first; 0: none. */
static __always_inline __u32 psp_first_egress(const struct net_device* device) {
  if (bpf_core_field_exists(device->tcx_egress))
    return BPF_CORE_READ(device, tcx_egress, fp_items[0].prog, aux, id);
  return psp_first_filter(BPF_CORE_READ(device, miniq_egress, filter_list, root));
}

static __always_inline __u32 psp_first_ingress(const struct net_device* device) {
  if (bpf_core_field_exists(device->tcx_ingress))
    return BPF_CORE_READ(device, tcx_ingress, fp_items[0].prog, aux, id);
  return psp_first_filter(BPF_CORE_READ(device, miniq_ingress, filter_list, root));
}

/*
 * psp_guarded: will psp_egress of the socket's device see this packet? pspd says on which netdevs
 * it is, and the kernel whether it is there now: for a program can be taken away, replaced or
 * outrun, and a netdev can take the number of another, also while no pspd is there to notice.
 */
static __always_inline bool psp_guarded(struct __sk_buff* skb, struct psp_sock* sock) {
  return psp_is_of(skb, skb->ifindex, sock) &&
         psp_first_egress(psp_netdev(skb)) == sock->guard_egress;
}

/* psp_opened: was this packet opened by the socket's device? */
static __always_inline bool psp_opened(struct __sk_buff* skb, struct psp_sock* sock) {
  return skb->tc_index == psp_verified && psp_is_of(skb, skb->ingress_ifindex, sock) &&
         psp_first_ingress(psp_netdev(skb)) == sock->guard_ingress;
}

#endif
