/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * What is noted of a secured connection for the time when its socket is gone: psp_departed by
 * address, psp_by_tx_spi by what its packets show, and psp_noted, which has the one connection of a
 * socket that the other two know.
 */
#ifndef PSP_KERNEL_BPF_NOTE_H
#define PSP_KERNEL_BPF_NOTE_H

#include "netdev.h"

static __always_inline bool psp_same_tuple(const struct psp_tuple* a, const struct psp_tuple* b) {
  const __u64 *x = (const void*)a, *y = (const void*)b;
  __u64 difference = 0;

  for (__u32 i = 0; i < sizeof *a / sizeof *x; i++) difference |= x[i] ^ y[i];
  return !difference;
}

static __always_inline struct psp_tx_spi psp_spi_of(const struct psp_tuple* tuple, __u32 spi) {
  struct psp_tx_spi key = {.family = tuple->family, .spi = spi, .netns = tuple->netns};

  __builtin_memcpy(key.remote, tuple->remote, sizeof key.remote);
  return key;
}

/*
 * psp_unnote: the socket is another connection now, and the packets of the one before are long
 * gone. A later connection with its ports may have taken its entry over.
 */
static __always_inline void psp_unnote(__u64 cookie, const struct psp_noted_entry* noted) {
  struct psp_tuple tuple = noted->tuple;
  struct psp_tx_spi spi = psp_spi_of(&tuple, noted->tx_spi);
  const struct psp_tuple_entry* entry = bpf_map_lookup_elem(&psp_departed, &tuple);
  const struct psp_tuple* by_spi = bpf_map_lookup_elem(&psp_by_tx_spi, &spi);

  if (by_spi && psp_same_tuple(by_spi, &tuple)) bpf_map_delete_elem(&psp_by_tx_spi, &spi);
  if (entry && entry->cookie == cookie) bpf_map_delete_elem(&psp_departed, &tuple);
}

/*
 * psp_note_tuple notes the connection of a socket with a Tx key, for what comes when the socket is
 * gone: one for each socket, in the place of an earlier one. False: there is no room.
 */
static __always_inline bool psp_note_tuple(struct __sk_buff* skb, struct psp_sock* sock,
                                           const struct psp_packet* packet) {
  struct psp_tuple_entry entry = {.cookie = bpf_get_socket_cookie(skb),
                                  .epoch = psp_epoch,
                                  .tx_handle = sock->tx_handle,
                                  .rx = sock->rx,
                                  .full = sock->state == PSP_STATE_FULL};
  struct psp_tx_spi spi = psp_spi_of(&packet->tuple, bpf_htonl(sock->tx_spi));
  __u64 cookie = entry.cookie;
  struct psp_noted_entry* noted = bpf_map_lookup_elem(&psp_noted, &cookie);

  if (!noted) return false;
  if (noted->tuple.family && !psp_same_tuple(&noted->tuple, &packet->tuple))
    psp_unnote(cookie, noted);
  noted->tuple = packet->tuple;
  noted->tx_spi = spi.spi;
  if (bpf_map_update_elem(&psp_departed, &packet->tuple, &entry, BPF_ANY)) return false;
  /* An SPI that another connection to that peer has stays its: it is what a caller said. */
  bpf_map_update_elem(&psp_by_tx_spi, &spi, &packet->tuple, BPF_NOEXIST);
  sock->tuple_noted = 1;
  return true;
}

/*
 * psp_supersede: the SYN or the SYN and ACK of a connection in clear. One with the same ports that
 * was secured is over, or the stack would hardly send it. Should it live, since only one of the two
 * sockets is bound to a netdev, its last segment makes the note again.
 */
static __always_inline int psp_supersede(struct __sk_buff* skb) {
  struct psp_packet packet;

  if (psp_is_ip(skb) && psp_parse(skb, &packet) && packet.tcp.syn && !psp_is_foreign(skb))
    bpf_map_delete_elem(&psp_departed, &packet.tuple);
  return PSP_NEXT;
}

#endif
