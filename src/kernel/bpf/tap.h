/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * The programs at the TAP. psp_tap_ingress sends on what pspd has written, to the wire or up
 * through the netdev; psp_tap_egress lets nothing to pspd but what the netdev's programs have sent
 * there.
 */
#ifndef PSP_KERNEL_BPF_TAP_H
#define PSP_KERNEL_BPF_TAP_H

#include "netdev.h"

SEC("tc")
int psp_tap_ingress(struct __sk_buff* skb) {
  const struct psp_device_config* device = psp_device();
  struct psp_frame_tag tag;
  __u8 mac[ETH_ALEN];
  __u32 version;

  if (!device) return TC_ACT_SHOT;
  if (bpf_skb_load_bytes(skb, ETH_ALEN, &tag, sizeof tag)) return psp_drop(PSP_DROP_POLICY_FORGED);
  __builtin_memcpy(mac, device->mac, sizeof mac);
  switch (tag.kind) {
    case PSP_FRAME_TO_WIRE_SEALED:
      if (!psp_is_psp(skb, &version)) return psp_drop(PSP_DROP_POLICY_FORGED);
      /* fall through */
    case PSP_FRAME_TO_WIRE_CLEAR:
      if (bpf_skb_store_bytes(skb, ETH_ALEN, mac, sizeof mac, 0))
        return psp_drop(PSP_DROP_TX_WRITE);
      skb->mark = psp_mark;
      return bpf_redirect(psp_netdev_ifindex, 0);
    case PSP_FRAME_TO_STACK:
    case PSP_FRAME_TO_STACK | 1:
    case PSP_FRAME_TO_STACK | 2:
    case PSP_FRAME_TO_STACK | 3:
      if (bpf_skb_store_bytes(skb, 0, mac, sizeof mac, 0)) return psp_drop(PSP_DROP_RX_WRITE);
      skb->mark = psp_mark;
      return bpf_redirect(psp_netdev_ifindex, BPF_F_INGRESS);
    default:
      return psp_drop(PSP_DROP_POLICY_FORGED);
  }
}

/*
 * psp_may_seal: is the Tx key that the frame asks for that of its connection? This keeps out what
 * gets to the TAP by a route, a bridge or a program that knows no better. A packet socket that
 * wants can go past it (PACKET_QDISC_BYPASS), and root can take it off: from seals of other
 * namespaces such a one is kept by pspd, which has none of their keys at this TAP.
 */
static __always_inline bool psp_may_seal(struct __sk_buff* skb) {
  struct psp_tuple_entry* entry;
  struct psp_packet packet;
  struct psp_frame_tag tag;
  struct psp_sock* sock;
  struct bpf_sock* sk;
  __be32 handle;

  if (bpf_skb_load_bytes(skb, ETH_ALEN, &tag, sizeof tag)) return false;
  __builtin_memcpy(&handle, tag.value, sizeof handle);
  sk = skb->sk ? bpf_sk_fullsock(skb->sk) : NULL;
  sock = sk ? bpf_sk_storage_get(&psp_assoc, sk, 0, 0) : NULL;
  if (sock)
    return sock->epoch == psp_epoch && psp_is_ours(sock) && sock->state >= PSP_STATE_TX &&
           sock->tx_handle == bpf_ntohl(handle);
  if (!psp_is_ip(skb) || !psp_parse(skb, &packet)) return false;
  entry = bpf_map_lookup_elem(&psp_departed, &packet.tuple);
  return entry && entry->epoch == psp_epoch && entry->rx.dev_id == psp_dev_id &&
         entry->tx_handle == bpf_ntohl(handle);
}

SEC("tc")
int psp_tap_egress(struct __sk_buff* skb) {
  __u32 version;

  if (skb->mark != psp_mark) return psp_drop(PSP_DROP_POLICY_FORGED);
  if (psp_is_psp(skb, &version) || psp_may_seal(skb)) return TC_ACT_OK;
  return psp_drop(PSP_DROP_POLICY_FORGED);
}

#endif
