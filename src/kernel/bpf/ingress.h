/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * psp_ingress, at the netdev on the way in: PSP packets go to pspd, what pspd has opened goes up if
 * it matches, and all else is what it always was. PSP that is for another host is passed on as it
 * is, and so is a version that is not enabled: to its own UDP, as on a NIC. The proof of authentic
 * segments is cleared on everything that has not earned it. 802.1Q tags without a VLAN are taken
 * off, since the stack would pass over them.
 */
#ifndef PSP_KERNEL_BPF_INGRESS_H
#define PSP_KERNEL_BPF_INGRESS_H

#include "deliver.h"
#include "departed.h"
#include "icmp.h"

#define PSP_PACKET_OTHERHOST 3

/* psp_is_forwarded: would the stack send this packet on? Then it is somebody else's PSP. */
static __always_inline bool psp_is_forwarded(struct __sk_buff* skb) {
  struct bpf_fib_lookup route = {};
  __u8 ip[40];
  long result;

  if (bpf_skb_load_bytes(skb, ETH_HLEN, ip, 20)) return false;
  route.ifindex = skb->ingress_ifindex;
  if (ip[0] >> 4 == 4) {
    route.family = 2; /* AF_INET */
    __builtin_memcpy(&route.ipv4_src, ip + 12, 4);
    __builtin_memcpy(&route.ipv4_dst, ip + 16, 4);
  } else {
    if (bpf_skb_load_bytes(skb, ETH_HLEN, ip, 40)) return false;
    route.family = 10; /* AF_INET6 */
    __builtin_memcpy(route.ipv6_src, ip + 8, 16);
    __builtin_memcpy(route.ipv6_dst, ip + 24, 16);
  }
  result = bpf_fib_lookup(skb, &route, sizeof route, 0);
  return result == BPF_FIB_LKUP_RET_SUCCESS || result == BPF_FIB_LKUP_RET_NO_NEIGH ||
         result == BPF_FIB_LKUP_RET_FRAG_NEEDED;
}

static __always_inline bool psp_wants(__u32 enabled, __u32 version) {
  return version < PSP_VERSIONS ? enabled >> version & 1 : enabled != 0;
}

#define PSP_VLAN_ID 0x0fff
#define PSP_MAX_TAGS 4

/*
 * psp_untag takes off the 802.1Q tags that say a priority and no VLAN: the stack ignores them.
 * False if there are more than anybody has a use for.
 */
static __always_inline bool psp_untag(struct __sk_buff* skb) {
  for (int i = 0; i < PSP_MAX_TAGS; i++) {
    if (!skb->vlan_present || skb->vlan_tci & PSP_VLAN_ID) return true;
    if (bpf_skb_vlan_pop(skb)) return false;
  }
  return !skb->vlan_present;
}

SEC("tc")
int psp_ingress(struct __sk_buff* skb) {
  const struct psp_device_config* device = psp_device();
  __u32 version;

  if (skb->mark == psp_mark) return device ? psp_deliver(skb, device) : TC_ACT_SHOT;
  skb->tc_index = 0; /* another namespace may have set it */
  if (!device || skb->pkt_type == PSP_PACKET_OTHERHOST) return PSP_NEXT;
  if (!psp_untag(skb)) return psp_drop(PSP_DROP_BAD_IP);
  if (!psp_is_ip(skb) || skb->vlan_present) return PSP_NEXT;
  if (!psp_is_psp(skb, &version)) {
    if (psp_is_late(skb)) return psp_drop(PSP_DROP_POLICY_CLEAR);
    psp_too_big(skb);
    return PSP_NEXT;
  }
  /* As plain UDP, like a NIC; but a version that there is not is counted where versions are. */
  if (!psp_wants(device->versions_ena, version) || psp_is_forwarded(skb) || !psp_is_home(skb))
    return PSP_NEXT;
  skb->mark = psp_mark;
  return psp_to_tap();
}

#endif
