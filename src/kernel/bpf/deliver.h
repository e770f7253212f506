/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Opened segments on their way up: each is matched with the association of the socket that the
 * stack will find for it, and only then carries the proof. That a packet authenticates says that it
 * is of some connection here; the peer of one must not put segments into another. The proof is
 * tc_index, which no socket can set and ingress.h clears on everything else. TIME_WAIT has no
 * storage and is judged by psp_departed. Runs in psp_ingress, on what psp_tap_ingress has marked as
 * pspd's.
 */
#ifndef PSP_KERNEL_BPF_DELIVER_H
#define PSP_KERNEL_BPF_DELIVER_H

#include "netdev.h"

/* psp_opened is what pspd says that an opened segment came under. */
static __always_inline struct psp_sa_id psp_opened(const struct psp_device_config* device,
                                                   const struct psp_frame_tag* tag) {
  struct psp_sa_id id = {.rotation = device->rotation,
                         .dev_id = psp_dev_id,
                         .generation = tag->info,
                         .version = tag->kind ^ PSP_FRAME_TO_STACK};
  __be32 spi;

  __builtin_memcpy(&spi, tag->value, sizeof spi);
  id.spi = bpf_ntohl(spi);
  return id;
}

/*
 * psp_matches: is that the association of a socket of this device, with keys of this pspd? `sa` is
 * a full socket's, or what has been noted of a connection in TIME_WAIT.
 */
static __always_inline bool psp_matches(const struct psp_sa_id* sa, __u64 epoch, __u64 netns,
                                        const struct psp_sa_id* opened) {
  return epoch == psp_epoch && netns == psp_netns && psp_sa_matches(sa, opened);
}

/* psp_deliver judges an opened segment before the stack sees it. */
static __always_inline int psp_deliver(struct __sk_buff* skb,
                                       const struct psp_device_config* device) {
  struct psp_packet packet;
  const struct psp_tuple_entry* entry;
  struct psp_frame_tag tag;
  struct psp_sa_id opened;
  struct psp_sock* sock;
  struct bpf_sock *sk, *full;
  bool match = false, known = false;
  __u8 blank[ETH_ALEN] = {};

  skb->mark = 0;
  if (bpf_skb_load_bytes(skb, ETH_ALEN, &tag, sizeof tag)) return psp_drop(PSP_DROP_POLICY_FORGED);
  if (!psp_parse(skb, &packet)) return psp_drop(PSP_DROP_BAD_INNER);
  opened = psp_opened(device, &tag);
  sk = psp_lookup(skb, &packet);
  if (sk) {
    full = bpf_sk_fullsock(sk);
    if (full) {
      sock = bpf_sk_storage_get(&psp_assoc, full, 0, 0);
      known = sock != NULL;
      match = sock && psp_matches(&sock->rx, sock->epoch, sock->netns, &opened);
    } else if (sk->state == PSP_TCP_TIME_WAIT) {
      known = true;
      psp_turn(&packet.tuple);
      entry = bpf_map_lookup_elem(&psp_departed, &packet.tuple);
      match = entry && psp_matches(&entry->rx, entry->epoch, psp_netns, &opened);
    }
    bpf_sk_release(sk);
  }
  if (!match) return psp_drop(known ? PSP_DROP_POLICY_MISMATCH : PSP_DROP_POLICY_NO_ASSOC);
  if (bpf_skb_store_bytes(skb, ETH_ALEN, blank, sizeof blank, 0))
    return psp_drop(PSP_DROP_POLICY_FORGED);
  /*
   * The end of the walk: a filter behind us that says TC_ACT_OK would have its own class written to
   * tc_index. So does ours, and the class is the proof.
   */
  skb->tc_index = psp_verified;
  skb->tc_classid = psp_verified;
  return TC_ACT_OK;
}

#endif
