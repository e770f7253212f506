// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
//
// The packet side of one PSP device: tc programs at the netdev and at its TAP.
//
//   psp_egress       netdev, out: segments of sockets with a Tx key go to pspd, nothing else does
//   psp_ingress      netdev, in:  PSP packets go to pspd; opened segments that pspd sends back are
//                                 matched with their socket's association
//   psp_tap_ingress  TAP, from pspd: out to the wire, or up through the netdev
//   psp_tap_egress   TAP, to pspd: only what psp_egress and psp_ingress sent there
//
// They outlive pspd. Without it the TAP is gone, redirects to it fail, and secured sockets are
// silent instead of in clear.
#include <linux/if_ether.h>
#include <linux/in6.h>
#include <linux/pkt_cls.h>
#include <stddef.h>

#include "kernel.h"

#include "common.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u32 psp_netdev_ifindex = 0;
const volatile __u32 psp_tap_ifindex = 0;
const volatile __u16 psp_dev_id = 0;
const volatile __u64 psp_netns = 0; /* cookie of the netdev's network namespace */

#define PSP_UDP_PORT 1000
#define PSP_NEXT TC_ACT_UNSPEC /* not ours: let the next filter see it */
#define PSP_PACKET_OTHERHOST 3

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct psp_device_config);
} psp_config SEC(".maps");

/*
 * psp_living holds a socket of pspd, which the kernel takes out when pspd closes it or dies. From
 * then on the number of the TAP may be another netdev's.
 */
struct {
  __uint(type, BPF_MAP_TYPE_SOCKMAP);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u32);
} psp_living SEC(".maps");

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
  return sock->dev_id == psp_dev_id && sock->netns == psp_netns;
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
static __always_inline bool psp_parse(struct __sk_buff* skb, struct psp_segment* segment) {
  if (!psp_parse_segment(skb, ETH_HLEN, segment)) return false;
  segment->tuple.netns = psp_netns;
  return true;
}

/* psp_flags: has TCP left room for PSP in this segment? */
static __always_inline __u8 psp_flags(const struct __sk_buff* skb, const struct psp_sock* sock,
                                      struct bpf_sock* sk, const struct psp_segment* segment) {
  struct bpf_tcp_sock* tcp;

  if (sock->mss_reserved) return PSP_FRAME_F_MSS_RESERVED;
  if (skb->gso_size) return 0; /* cut anyway, by gso_size */
  tcp = bpf_tcp_sock(sk);
  return tcp && segment->payload + PSP_OVERHEAD > tcp->mss_cache ? PSP_FRAME_F_CUT : 0;
}

/* psp_kind: octets below the clear boundary were queued before tx-assoc and stay in clear. */
static __always_inline __u8 psp_kind(struct psp_sock* sock, struct bpf_sock* sk,
                                     const struct psp_segment* segment) {
  struct bpf_tcp_sock* tcp;

  if (sock->clear_done) return PSP_FRAME_SEAL;
  tcp = bpf_tcp_sock(sk);
  if (tcp && !psp_before(tcp->snd_una, sock->clear_boundary)) {
    sock->clear_done = 1;
    return PSP_FRAME_SEAL;
  }
  if (!segment->payload || !psp_before(segment->seq, sock->clear_boundary)) return PSP_FRAME_SEAL;
  if (psp_before(sock->clear_boundary, segment->seq + segment->payload) || segment->fin)
    return PSP_FRAME_SPAN;
  return PSP_FRAME_CLEAR;
}

/*
 * psp_is_again: has all of the segment been sent before? Then TCP meant to send again what lies
 * before the clear boundary, and has joined it with what is behind: there is no fence at the
 * boundary that would keep it from that.
 */
static __always_inline bool psp_is_again(struct bpf_sock* sk, const struct psp_segment* segment) {
  struct bpf_tcp_sock* tcp = bpf_tcp_sock(sk);

  return tcp && !psp_before(tcp->snd_nxt, segment->seq + segment->payload + segment->fin);
}

/* psp_lookup finds the socket of an opened segment. The caller releases it. */
static __always_inline struct bpf_sock* psp_lookup(struct __sk_buff* skb,
                                                   const struct psp_segment* segment) {
  struct bpf_sock_tuple tuple = {};

  if (segment->tuple.family == 4) {
    __builtin_memcpy(&tuple.ipv4.saddr, segment->tuple.local, 4);
    __builtin_memcpy(&tuple.ipv4.daddr, segment->tuple.remote, 4);
    tuple.ipv4.sport = segment->tuple.local_port;
    tuple.ipv4.dport = segment->tuple.remote_port;
    return bpf_skc_lookup_tcp(skb, &tuple, sizeof tuple.ipv4, BPF_F_CURRENT_NETNS, 0);
  }
  __builtin_memcpy(tuple.ipv6.saddr, segment->tuple.local, 16);
  __builtin_memcpy(tuple.ipv6.daddr, segment->tuple.remote, 16);
  tuple.ipv6.sport = segment->tuple.local_port;
  tuple.ipv6.dport = segment->tuple.remote_port;
  return bpf_skc_lookup_tcp(skb, &tuple, sizeof tuple.ipv6, BPF_F_CURRENT_NETNS, 0);
}

#define PSP_ICMP_HEADER 8

/*
 * psp_is_unclaimed: the answer of this host's UDP to a PSP packet, port unreachable. Such a packet
 * came by a netdev without PSP device, or in a version that is not enabled. The kernel sends few of
 * these: how many there are says no more than that there are some.
 */
static __always_inline bool psp_is_unclaimed(struct __sk_buff* skb) {
  __u8 outer[20], icmp[2], inner[20];
  __u32 at = ETH_HLEN + 40, l4;
  __be16 port;

  if (bpf_skb_load_bytes(skb, ETH_HLEN, outer, sizeof outer)) return false;
  if (outer[0] >> 4 == 4) {
    if (outer[9] != IPPROTO_ICMP) return false;
    at = ETH_HLEN + 4 * (__u32)(outer[0] & 15);
  } else if (outer[0] >> 4 != 6 || outer[6] != IPPROTO_ICMPV6) {
    return false;
  }
  if (bpf_skb_load_bytes(skb, at, icmp, sizeof icmp)) return false;
  if (outer[0] >> 4 == 4 ? icmp[0] != 3 || icmp[1] != 3 : icmp[0] != 1 || icmp[1] != 4)
    return false;
  at += PSP_ICMP_HEADER;
  if (bpf_skb_load_bytes(skb, at, inner, sizeof inner)) return false;
  l4 = at + (inner[0] >> 4 == 4 ? 4 * (__u32)(inner[0] & 15) : 40);
  if ((inner[0] >> 4 == 4 ? inner[9] : inner[6]) != IPPROTO_UDP) return false;
  return !bpf_skb_load_bytes(skb, l4 + 2, &port, sizeof port) && port == bpf_htons(PSP_UDP_PORT);
}

/* psp_is_live: does the connection of an outgoing segment still have its full socket? */
static __always_inline bool psp_is_live(struct __sk_buff* skb, const struct psp_tuple* tuple) {
  struct psp_segment inbound = {.tuple = *tuple};
  struct bpf_sock* sk;
  bool live;

  psp_turn(&inbound.tuple);
  sk = psp_lookup(skb, &inbound);
  if (!sk) return false;
  live = sk->state != PSP_TCP_TIME_WAIT && sk->state != PSP_TCP_LISTEN && bpf_sk_fullsock(sk);
  bpf_sk_release(sk);
  return live;
}

/*
 * psp_egress_departed: packets without a full socket of their own: ACKs of TIME_WAIT, RSTs of
 * nobody. They are sealed if their connection had a Tx key. The kernel sends nothing else in this
 * way: what has data comes from somebody who forges, and must not get our seal.
 */
static __always_inline int psp_egress_departed(struct __sk_buff* skb, bool time_wait) {
  struct psp_tuple_entry* entry;
  struct psp_segment segment;
  __u64 cookie;

  if (skb->mark == psp_mark) { /* pspd's own: clear octets of before tx-assoc */
    skb->mark = 0;
    return PSP_NEXT;
  }
  if (skb->ingress_ifindex) return PSP_NEXT; /* forwarded: not this host's connection */
  if (!psp_is_ip(skb)) return PSP_NEXT;
  if (!psp_parse(skb, &segment)) {
    if (psp_is_unclaimed(skb)) psp_count_drop(PSP_DROP_UNCLAIMED);
    return PSP_NEXT;
  }
  entry = bpf_map_lookup_elem(&psp_departed, &segment.tuple);
  if (!entry || segment.syn) return PSP_NEXT; /* a SYN begins another connection */
  if (psp_is_foreign(skb)) return PSP_NEXT;   /* its addresses are not ours */
  if (time_wait) {
    cookie = bpf_get_socket_cookie(skb);
    if (cookie && cookie != entry->cookie) return PSP_NEXT; /* a later connection, same ports */
  }
  if (entry->epoch != psp_epoch) return psp_drop(PSP_DROP_POLICY_EPOCH);
  if (entry->dev_id != psp_dev_id) return psp_drop(PSP_DROP_POLICY_ROUTE);
  if (segment.payload || segment.fin || psp_is_live(skb, &segment.tuple))
    return psp_drop(PSP_DROP_POLICY_FORGED);
  if (segment.rst && segment.ack) return PSP_NEXT; /* the answer to a SYN: another connection */
  return psp_to_daemon(skb, PSP_FRAME_SEAL, 0, entry->tx_handle);
}

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
                                           const struct psp_segment* segment) {
  struct psp_tuple_entry entry = {.cookie = bpf_get_socket_cookie(skb),
                                  .epoch = psp_epoch,
                                  .tx_handle = sock->tx_handle,
                                  .rx_spi = sock->rx_spi,
                                  .rotation = sock->rotation,
                                  .generation = sock->generation,
                                  .version = sock->version,
                                  .dev_id = sock->dev_id,
                                  .full = sock->state == PSP_STATE_FULL};
  struct psp_tx_spi spi = psp_spi_of(&segment->tuple, bpf_htonl(sock->tx_spi));
  __u64 cookie = entry.cookie;
  struct psp_noted_entry* noted = bpf_map_lookup_elem(&psp_noted, &cookie);

  if (!noted) return false;
  if (noted->tuple.family && !psp_same_tuple(&noted->tuple, &segment->tuple))
    psp_unnote(cookie, noted);
  noted->tuple = segment->tuple;
  noted->tx_spi = spi.spi;
  if (bpf_map_update_elem(&psp_departed, &segment->tuple, &entry, BPF_ANY)) return false;
  /* An SPI that another connection to that peer has stays its: it is what a caller said. */
  bpf_map_update_elem(&psp_by_tx_spi, &spi, &segment->tuple, BPF_NOEXIST);
  sock->tuple_noted = 1;
  return true;
}

/*
 * psp_supersede: the SYN or the SYN and ACK of a connection in clear. One with the same ports that
 * was secured is over, or the stack would hardly send it. Should it live, since only one of the two
 * sockets is bound to a netdev, its last segment makes the note again.
 */
static __always_inline int psp_supersede(struct __sk_buff* skb) {
  struct psp_segment segment;

  if (psp_is_ip(skb) && psp_parse(skb, &segment) && segment.syn && !psp_is_foreign(skb))
    bpf_map_delete_elem(&psp_departed, &segment.tuple);
  return PSP_NEXT;
}

SEC("tc")
int psp_egress(struct __sk_buff* skb) {
  struct bpf_sock* sk = skb->sk;
  struct psp_segment segment;
  struct psp_sock* sock;
  __u32 state;
  __u8 kind, flags;

  if (!sk) return psp_egress_departed(skb, false);
  state = sk->state;
  sk = bpf_sk_fullsock(sk);
  if (!sk && state == PSP_TCP_NEW_SYN_RECV) return psp_supersede(skb);
  if (!sk) return state == PSP_TCP_TIME_WAIT ? psp_egress_departed(skb, true) : PSP_NEXT;
  sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);
  if (!sock || sock->state == PSP_STATE_NONE) {
    if (state == PSP_TCP_SYN_SENT || state == PSP_TCP_SYN_RECV) return psp_supersede(skb);
    /* The kernel's own control sockets and the TAP's are in state CLOSE; RSTs of a port that
       somebody listens on carry the listener. */
    return state == PSP_TCP_CLOSE || state == PSP_TCP_LISTEN ? psp_egress_departed(skb, false)
                                                             : PSP_NEXT;
  }
  if (sock->state >= PSP_STATES) return psp_drop(PSP_DROP_TX_NO_ASSOC);
  if (psp_tx_table[sock->state][1] == PSP_TX_CLEAR) return PSP_NEXT;
  if (sock->epoch != psp_epoch) return psp_drop(PSP_DROP_POLICY_EPOCH);
  if (!psp_is_ours(sock)) return psp_drop(PSP_DROP_POLICY_ROUTE);
  if (skb->vlan_present || !psp_is_ip(skb) || !psp_parse(skb, &segment))
    return psp_drop(PSP_DROP_TX_BAD_PACKET);
  /* Data in a SYN: pspd could have to cut it. TCP sends it again behind the SYN. */
  if (segment.syn && segment.payload) return psp_drop(PSP_DROP_TX_BAD_PACKET);
  /*
   * The first segment of a socket that had its keys before it had a peer (rules of Linux up
   * to 7.3); and the last of any: a socket with the same ports, if only one of them is bound to a
   * netdev, may have taken the note away.
   */
  if ((!sock->tuple_noted || segment.fin || segment.rst) && !psp_note_tuple(skb, sock, &segment))
    return psp_drop(PSP_DROP_TX_NO_ASSOC);
  kind = psp_kind(sock, sk, &segment);
  if (kind == PSP_FRAME_SEAL) {
    __sync_fetch_and_add(&sock->tx_packets, psp_segments(skb));
    __sync_fetch_and_add(&sock->tx_bytes, segment.payload);
  }
  flags = psp_flags(skb, sock, sk, &segment);
  if (kind == PSP_FRAME_SPAN && psp_is_again(sk, &segment)) flags |= PSP_FRAME_F_AGAIN;
  return psp_to_daemon(skb, kind, flags, sock->tx_handle);
}

struct psp_udp_header {
  __be16 source, dest, length, check;
  __u8 psp_next, psp_ext_length, psp_crypt_offset, psp_version; /* how a PSP header begins */
} __attribute__((aligned(4)));

/* psp_load_udp reads a UDP header and the PSP header's begin, or of a shorter packet the ports. */
static __always_inline bool psp_load_udp(struct __sk_buff* skb, __u32 offset,
                                         struct psp_udp_header* udp) {
  if (offset == ETH_HLEN + 20 && psp_load(skb, ETH_HLEN + 20, udp, sizeof *udp)) return true;
  if (offset == ETH_HLEN + 40 && psp_load(skb, ETH_HLEN + 40, udp, sizeof *udp)) return true;
  if (!bpf_skb_load_bytes(skb, offset, udp, sizeof *udp)) return true;
  udp->psp_version = 0;
  return !bpf_skb_load_bytes(skb, offset, udp, offsetof(struct psp_udp_header, length));
}

/* psp_is_psp: UDP to port 1000 directly behind the IP header, not a fragment. Gives the version. */
static __always_inline bool psp_is_psp(struct __sk_buff* skb, __u32* version) {
  __u8 ip[20] __attribute__((aligned(4)));
  struct psp_udp_header udp;
  __u32 offset = ETH_HLEN + 40;

  if (!psp_load(skb, ETH_HLEN, ip, sizeof ip)) return false;
  if (ip[0] >> 4 == 4) {
    if (ip[9] != IPPROTO_UDP || (ip[6] & 0x3f) || ip[7]) return false;
    offset = ETH_HLEN + 4 * (__u32)(ip[0] & 15);
  } else if (ip[0] >> 4 != 6 || ip[6] != IPPROTO_UDP) {
    return false;
  }
  if (!psp_load_udp(skb, offset, &udp)) return false;
  *version = udp.psp_version >> 2 & 15;
  return udp.dest == bpf_htons(PSP_UDP_PORT);
}

/* psp_matches: is the opened segment for this association? */
static __always_inline bool psp_matches(const struct psp_device_config* device,
                                        const struct psp_sock* sock,
                                        const struct psp_frame_tag* tag) {
  __be32 spi;

  __builtin_memcpy(&spi, tag->value, sizeof spi);
  return sock->epoch == psp_epoch && psp_is_ours(sock) && sock->rx_spi == bpf_ntohl(spi) &&
         !psp_is_dead(sock->rotation, device->rotation) && sock->generation == tag->info &&
         (sock->version | PSP_FRAME_TO_STACK) == tag->kind;
}

/* psp_departed_matches: the same test for a connection in TIME_WAIT. */
static __always_inline bool psp_departed_matches(const struct psp_device_config* device,
                                                 const struct psp_segment* segment,
                                                 const struct psp_frame_tag* tag) {
  struct psp_tuple tuple = segment->tuple;
  struct psp_tuple_entry* entry;
  __be32 spi;

  psp_turn(&tuple);
  entry = bpf_map_lookup_elem(&psp_departed, &tuple);
  __builtin_memcpy(&spi, tag->value, sizeof spi);
  return entry && entry->epoch == psp_epoch && entry->dev_id == psp_dev_id &&
         entry->rx_spi == bpf_ntohl(spi) && !psp_is_dead(entry->rotation, device->rotation) &&
         entry->generation == tag->info && (entry->version | PSP_FRAME_TO_STACK) == tag->kind;
}

/* psp_deliver judges an opened segment before the stack sees it. */
static __always_inline int psp_deliver(struct __sk_buff* skb,
                                       const struct psp_device_config* device) {
  struct psp_segment segment;
  struct psp_frame_tag tag;
  struct psp_sock* sock;
  struct bpf_sock *sk, *full;
  bool match = false, known = false;
  __u8 blank[ETH_ALEN] = {};

  skb->mark = 0;
  if (bpf_skb_load_bytes(skb, ETH_ALEN, &tag, sizeof tag)) return psp_drop(PSP_DROP_POLICY_FORGED);
  if (!psp_parse(skb, &segment)) return psp_drop(PSP_DROP_BAD_INNER);
  sk = psp_lookup(skb, &segment);
  if (sk) {
    full = bpf_sk_fullsock(sk);
    if (full) {
      sock = bpf_sk_storage_get(&psp_assoc, full, 0, 0);
      known = sock != NULL;
      match = sock && psp_matches(device, sock, &tag);
    } else if (sk->state == PSP_TCP_TIME_WAIT) {
      known = true;
      match = psp_departed_matches(device, &segment, &tag);
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

#define PSP_VERSIONS 4

static __always_inline bool psp_wants(__u32 enabled, __u32 version) {
  return version < PSP_VERSIONS ? enabled >> version & 1 : enabled != 0;
}

/* psp_quote is where the parts of an ICMP "too big" and of the packet that it quotes lie. */
struct psp_quote {
  __u32 icmp, l4;      /* offsets in the frame */
  __u32 protocol_word; /* the four octets of the quoted IP header with its protocol */
  struct psp_tx_spi key;
  __u64 iv;
};

/* psp_parse_too_big: an ICMP "fragmentation needed" or "packet too big" that quotes a PSP packet?
 */
static __always_inline bool psp_parse_too_big(struct __sk_buff* skb, struct psp_quote* quote) {
  __u8 outer[20], icmp[PSP_ICMP_HEADER], inner[40];
  __be16 port;

  __builtin_memset(quote, 0, sizeof *quote);
  quote->key.netns = psp_netns;
  if (bpf_skb_load_bytes(skb, ETH_HLEN, outer, sizeof outer)) return false;
  if (outer[0] >> 4 == 4) {
    if (outer[9] != IPPROTO_ICMP || (outer[6] & 0x3f) || outer[7]) return false;
    quote->icmp = ETH_HLEN + 4 * (__u32)(outer[0] & 15);
    if (bpf_skb_load_bytes(skb, quote->icmp, icmp, sizeof icmp)) return false;
    if (icmp[0] != 3 || icmp[1] != 4) return false;
    if (bpf_skb_load_bytes(skb, quote->icmp + PSP_ICMP_HEADER, inner, 20)) return false;
    if (inner[0] >> 4 != 4 || inner[9] != IPPROTO_UDP) return false;
    quote->l4 = quote->icmp + PSP_ICMP_HEADER + 4 * (__u32)(inner[0] & 15);
    quote->protocol_word = quote->icmp + PSP_ICMP_HEADER + 8;
    quote->key.family = 4;
    __builtin_memcpy(quote->key.remote, inner + 16, 4);
  } else {
    if (outer[0] >> 4 != 6 || outer[6] != IPPROTO_ICMPV6) return false;
    quote->icmp = ETH_HLEN + 40;
    if (bpf_skb_load_bytes(skb, quote->icmp, icmp, sizeof icmp)) return false;
    if (icmp[0] != 2) return false;
    if (bpf_skb_load_bytes(skb, quote->icmp + PSP_ICMP_HEADER, inner, 40)) return false;
    if (inner[0] >> 4 != 6 || inner[6] != IPPROTO_UDP) return false;
    quote->l4 = quote->icmp + PSP_ICMP_HEADER + 40;
    quote->protocol_word = quote->icmp + PSP_ICMP_HEADER + 4;
    quote->key.family = 6;
    __builtin_memcpy(quote->key.remote, inner + 24, 16);
  }
  if (bpf_skb_load_bytes(skb, quote->l4 + 2, &port, sizeof port)) return false;
  if (port != bpf_htons(PSP_UDP_PORT)) return false;
  return !bpf_skb_load_bytes(skb, quote->l4 + 8 + 4, &quote->key.spi, sizeof quote->key.spi) &&
         !bpf_skb_load_bytes(skb, quote->l4 + 8 + 8, &quote->iv, sizeof quote->iv);
}

#define PSP_QUOTE_AGE_NS (60ull * 1000 * 1000 * 1000)

/*
 * psp_is_recent: IVs are boot time in picoseconds, so only who has seen one of the last minute's
 * packets can quote it. SPIs are easily guessed.
 */
static __always_inline bool psp_is_recent(__u64 iv) {
  __u64 now = bpf_ktime_get_boot_ns();

  return now * 1000 - iv < PSP_QUOTE_AGE_NS * 1000;
}

/* psp_unacknowledged is snd_una of a secured connection. False: there is none. */
static __always_inline bool psp_unacknowledged(struct __sk_buff* skb, const struct psp_tuple* tuple,
                                               __u32* sequence) {
  struct psp_segment inbound = {};
  struct bpf_sock *sk, *full;
  struct bpf_tcp_sock* tcp;
  struct psp_sock* sock;
  bool found = false;

  inbound.tuple = *tuple;
  psp_turn(&inbound.tuple);
  sk = psp_lookup(skb, &inbound);
  if (!sk) return false;
  full = bpf_sk_fullsock(sk);
  if (full) {
    sock = bpf_sk_storage_get(&psp_assoc, full, 0, 0);
    tcp = bpf_tcp_sock(full);
    if (sock && tcp && sock->state >= PSP_STATE_TX && sock->epoch == psp_epoch) {
      *sequence = tcp->snd_una;
      found = true;
    }
  }
  bpf_sk_release(sk);
  return found;
}

/*
 * psp_too_big makes an ICMP message about a PSP packet one about the TCP segment inside, so that
 * the stack lowers that connection's path MTU. Whoever sends it must have seen a packet of it.
 */
static __always_inline void psp_too_big(struct __sk_buff* skb) {
  struct psp_tuple* tuple;
  struct psp_quote quote;
  __be32 before[3], after[3];
  __u32 sequence, shift;
  __s64 difference;

  if (!psp_parse_too_big(skb, &quote) || !psp_is_recent(bpf_be64_to_cpu(quote.iv))) return;
  tuple = bpf_map_lookup_elem(&psp_by_tx_spi, &quote.key);
  if (!tuple || !psp_unacknowledged(skb, tuple, &sequence)) return;
  if (bpf_skb_load_bytes(skb, quote.protocol_word, &before[0], 4) ||
      bpf_skb_load_bytes(skb, quote.l4, &before[1], 8))
    return;
  shift = quote.key.family == 4 ? 16 : 8; /* of the protocol in its word */
  after[0] = (before[0] & ~bpf_htonl(0xffu << shift)) | bpf_htonl((__u32)IPPROTO_TCP << shift);
  ((__be16*)after)[2] = tuple->local_port;
  ((__be16*)after)[3] = tuple->remote_port;
  after[2] = bpf_htonl(sequence);
  difference = bpf_csum_diff(before, sizeof before, after, sizeof after, 0);
  if (difference < 0) return;
  bpf_skb_store_bytes(skb, quote.protocol_word, &after[0], 4, 0);
  bpf_skb_store_bytes(skb, quote.l4, &after[1], 8, 0);
  bpf_l4_csum_replace(skb, quote.icmp + 2, 0, difference, 0);
}

/* psp_begins: may the segment take the place of that connection in TIME_WAIT, as TCP sees it? */
static __always_inline bool psp_begins(const struct psp_segment* segment, const void* sk) {
  const struct tcp_timewait_sock* past = psp_kernel_pointer(sk);

  if (!segment->syn || segment->ack || segment->rst || segment->fin) return false;
  if (BPF_CORE_READ(past, tw_sk.tw_substate) != PSP_TCP_TIME_WAIT) return false;
  return psp_before(BPF_CORE_READ(past, tw_sk.__tw_common.skc_tw_rcv_nxt), segment->seq) ||
         BPF_CORE_READ(past, tw_ts_recent_stamp); /* then the timestamp can decide */
}

/*
 * psp_is_late: a segment in clear for a connection in TIME_WAIT that the state table refuses: all
 * if it was PSP Full, else those that take sequence space, but for a FIN. It would be answered, or
 * end that state; only a SYN may pass, to begin another connection. The state of an orphan in
 * FIN_WAIT2 is TIME_WAIT too. Of a first fragment we may see no more than the ports.
 */
static __always_inline bool psp_is_late(struct __sk_buff* skb) {
  struct psp_tuple_entry* entry;
  struct psp_segment segment;
  struct psp_tuple tuple;
  struct bpf_sock* sk;
  bool late;

  if (!psp_parse(skb, &segment) && !segment.tuple.remote_port) return false;
  segment.tuple.netns = psp_netns;
  tuple = segment.tuple;
  psp_turn(&tuple);
  entry = bpf_map_lookup_elem(&psp_departed, &tuple);
  if (!entry || !(entry->full || segment.payload || segment.syn)) return false;
  sk = psp_lookup(skb, &segment);
  if (!sk) return false;
  late = sk->state == PSP_TCP_TIME_WAIT && !psp_begins(&segment, sk);
  bpf_sk_release(sk);
  return late;
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
  struct psp_segment segment;
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
  if (!psp_is_ip(skb) || !psp_parse(skb, &segment)) return false;
  entry = bpf_map_lookup_elem(&psp_departed, &segment.tuple);
  return entry && entry->epoch == psp_epoch && entry->dev_id == psp_dev_id &&
         entry->tx_handle == bpf_ntohl(handle);
}

SEC("tc")
int psp_tap_egress(struct __sk_buff* skb) {
  __u32 version;

  if (skb->mark != psp_mark) return psp_drop(PSP_DROP_POLICY_FORGED);
  if (psp_is_psp(skb, &version) || psp_may_seal(skb)) return TC_ACT_OK;
  return psp_drop(PSP_DROP_POLICY_FORGED);
}
