/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * What the programs at a netdev and at its TAP have in common: whose packet it is, the way to pspd,
 * and the socket of a segment. A netdev that is moved to another namespace takes its programs
 * along, where the TAP's number may be that of another netdev: nothing is redirected there
 * (psp_is_home). Without a pspd that reads from the TAP (psp_living) nothing is either. A packet
 * that comes from another namespace without passing IP, as by a macvlan, may have that one's
 * socket, whose keys are not ours.
 */
#ifndef PSP_KERNEL_BPF_NETDEV_H
#define PSP_KERNEL_BPF_NETDEV_H

#include <linux/pkt_cls.h>

#include "kernel.h"
#include "maps.h"
#include "parse.h"

#define PSP_NEXT TC_ACT_UNSPEC /* not ours: let the next filter see it */

static __always_inline const struct psp_device_config* psp_device(void) {
  __u32 zero = 0;
  return bpf_map_lookup_elem(&psp_config, &zero);
}

static __always_inline int psp_drop(__u32 reason) {
  psp_count_drop(reason);
  return TC_ACT_SHOT;
}

static __always_inline bool psp_is_ip(const struct __sk_buff* skb) {
  return skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6);
}

/*
 * psp_is_home: is the netdev still in the namespace where the TAP is? One that is moved takes its
 * programs along, and the number of the TAP may mean something else there.
 */
static __always_inline bool psp_is_home(struct __sk_buff* skb) {
  const struct sk_buff* packet = psp_kernel_pointer(skb);

  return BPF_CORE_READ(packet, dev, nd_net.net, net_cookie) == psp_netns;
}

/* psp_to_tap sends the packet to the TAP, if pspd is there to read from it. */
static __always_inline int psp_to_tap(void) {
  const __u32 zero = 0;
  struct bpf_sock* alive = bpf_map_lookup_elem(&psp_living, &zero);

  if (!alive) return psp_drop(PSP_DROP_POLICY_ROUTE);
  bpf_sk_release(alive);
  return bpf_redirect(psp_tap_ifindex, 0);
}

/* psp_to_daemon tags the frame and sends it to pspd. */
static __always_inline int psp_to_daemon(struct __sk_buff* skb, __u8 kind, __u8 flags,
                                         __u32 handle) {
  struct psp_frame_tag tag = {.kind = kind, .info = flags};
  __be32 value = bpf_htonl(handle);

  if (!psp_is_home(skb)) return psp_drop(PSP_DROP_POLICY_ROUTE);
  __builtin_memcpy(tag.value, &value, sizeof value);
  if (bpf_skb_store_bytes(skb, ETH_ALEN, &tag, sizeof tag, 0))
    return psp_drop(PSP_DROP_TX_BAD_PACKET);
  skb->mark = psp_mark;
  return psp_to_tap();
}

/*
 * psp_is_ours: is the association one of this device's, with keys of this namespace? A packet that
 * comes from another namespace without passing IP may still have the socket that sent it.
 */
static __always_inline bool psp_is_ours(const struct psp_sock* sock) {
  return sock->rx.dev_id == psp_dev_id && sock->netns == psp_netns;
}

/* psp_is_foreign: was the packet sent by a socket of another namespace, as through a macvlan? */
static __always_inline bool psp_is_foreign(const struct __sk_buff* skb) {
  const struct bpf_sock* sk = skb->sk;
  const struct sock* sender;

  if (!sk) return false;
  sender = psp_kernel_pointer(sk);
  return BPF_CORE_READ(sender, __sk_common.skc_net.net, net_cookie) != psp_netns;
}

/* psp_parse reads a TCP segment of this netdev's namespace. */
static __always_inline bool psp_parse(struct __sk_buff* skb, struct psp_packet* packet) {
  if (!psp_parse_segment(skb, ETH_HLEN, packet)) return false;
  packet->tuple.netns = psp_netns;
  return true;
}

/* psp_lookup finds the socket of an opened segment. The caller releases it. */
static __always_inline struct bpf_sock* psp_lookup(struct __sk_buff* skb,
                                                   const struct psp_packet* packet) {
  struct bpf_sock_tuple tuple = {};

  if (packet->tuple.family == 4) {
    __builtin_memcpy(&tuple.ipv4.saddr, packet->tuple.local, 4);
    __builtin_memcpy(&tuple.ipv4.daddr, packet->tuple.remote, 4);
    tuple.ipv4.sport = packet->tuple.local_port;
    tuple.ipv4.dport = packet->tuple.remote_port;
    return bpf_skc_lookup_tcp(skb, &tuple, sizeof tuple.ipv4, BPF_F_CURRENT_NETNS, 0);
  }
  __builtin_memcpy(tuple.ipv6.saddr, packet->tuple.local, 16);
  __builtin_memcpy(tuple.ipv6.daddr, packet->tuple.remote, 16);
  tuple.ipv6.sport = packet->tuple.local_port;
  tuple.ipv6.dport = packet->tuple.remote_port;
  return bpf_skc_lookup_tcp(skb, &tuple, sizeof tuple.ipv6, BPF_F_CURRENT_NETNS, 0);
}

#endif
