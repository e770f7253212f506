// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
//
// The socket side of a PSP device: cgroup programs at the root of the cgroup tree.
//
//   psp_setsockopt  attaches Rx and Tx associations, under the socket lock
//   psp_getsockopt  shows pspd the socket as the kernel sees it, under the same lock
//   psp_sock_in     applies the state table to every segment of every full socket, whatever
//                   interface it came by
//   psp_sock_out    keeps a secured socket from leaving by a netdev that is not its device's, or
//                   that has lost its psp_egress
//   psp_released    notes that the application has closed a secured socket
//
// They run for all sockets of the host; a socket without association costs one storage lookup.
#include <asm-generic/errno.h>

#include "kernel.h"

#include "common.h"

#define IP_OPTIONS 4
#define SOL_SOCKET 1
#define SO_OOBINLINE 10
#define PSP_SOCK_URGINLINE (1ul << 2) /* SOCK_URGINLINE of the socket's flags */
#define TCP_MAXSEG 2
#define TCP_REPAIR 19
#define TCP_ULP 31
#define PSP_PAGE 4096 /* the smallest there is */
#define PSP_AF_INET 2
#define PSP_AF_INET6 10

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/*
 * psp_guard: netdevs whose programs are in place, with their PSP device, the epoch of who put them
 * there and the id of the program that psp_sock_out wants to see there. A secured socket may leave
 * only by a guarded netdev of its device. Entries with ifindex 0 are namespaces where sockets may
 * be secured, and PSP_OWNER.
 */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 4096);
  __type(key, struct psp_netdev_key);
  __type(value, struct psp_guard_entry);
} psp_guard SEC(".maps");

/* psp_guard_version: pspd counts here how often it has changed psp_guard, after each change. */
volatile __u32 psp_guard_version = 1;

/*
 * psp_barrier: an exchange is a full barrier on every architecture. (A compare-and-swap is one only
 * if it swaps.)
 */
static __always_inline void psp_barrier(struct psp_sock* sock) {
  __sync_lock_test_and_set(&sock->fence, 0);
}

static __always_inline bool psp_queue_end(const struct tcp_sock* tcp, __u32* end) {
  const struct sk_buff* last;

  if (!BPF_CORE_READ(tcp, out_of_order_queue.rb_node)) return false;
  last = BPF_CORE_READ(tcp, ooo_last_skb);
  if (!last) return false;
  *end = BPF_CORE_READ((const struct tcp_skb_cb*)&last->cb, end_seq);
  return true;
}

/*
 * psp_record_clear notes that clear data up to `end` was let through; the furthest end stands.
 * False: other processors were faster again and again, and it is not noted.
 */
static __always_inline bool psp_record_clear(struct psp_sock* sock, __u32 end) {
  for (int i = 0; i < 8; i++) {
    __u64 old = sock->clear_end;

    if (old && !psp_before((__u32)old, end)) return true;
    if (__sync_val_compare_and_swap(&sock->clear_end, old, PSP_CLEAR_END | end) == old) return true;
  }
  return false;
}

/*
 * psp_has_sequence: does the socket know its peer's sequence numbers? If not, no data can come: it
 * begins with a SYN.
 */
static __always_inline bool psp_has_sequence(const struct bpf_sock* sk) {
  return sk->state != PSP_TCP_CLOSE && sk->state != PSP_TCP_SYN_SENT && sk->state != PSP_TCP_LISTEN;
}

static __always_inline int psp_rx_attach(struct bpf_sockopt* ctx, struct bpf_sock* sk,
                                         const struct psp_sockopt* request) {
  const struct tcp_sock* tcp = psp_kernel_tcp(sk);
  struct psp_sock* sock;
  __u32 end, repaired;

  if (sk->state != PSP_TCP_ESTABLISHED && !(request->flags & PSP_SOCKOPT_ANY_STATE))
    return -ENOTCONN;
  sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);
  if (sock && sock->state != PSP_STATE_NONE && (sock->epoch == psp_epoch || psp_blocked(sock)))
    return -EBUSY;
  if (BPF_CORE_READ(tcp, inet_conn.icsk_ulp_ops)) return -EINVAL;
  if (!sock) sock = bpf_sk_storage_get(&psp_assoc, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!sock) return -ENOMEM;
  repaired = sock->repaired;
  __builtin_memset(sock, 0, sizeof *sock);
  sock->repaired = repaired;
  sock->rx_spi = request->rx_spi;
  sock->rotation = request->rotation;
  sock->dev_id = request->dev_id;
  sock->generation = request->generation;
  sock->version = request->version;
  sock->netns = bpf_get_netns_cookie(ctx);
  sock->epoch = psp_epoch;
  if (!psp_has_sequence(sk)) {
    sock->state = PSP_STATE_RX;
    return 0;
  }
  /* What comes from now on records itself; then, what is queued came in clear. */
  sock->clear_end = PSP_CLEAR_END | BPF_CORE_READ(tcp, rcv_nxt);
  psp_barrier(sock);
  sock->state = PSP_STATE_RX;
  psp_barrier(sock);
  end = BPF_CORE_READ(tcp, rcv_nxt);
  if (psp_record_clear(sock, end) && (!psp_queue_end(tcp, &end) || psp_record_clear(sock, end)))
    return 0;
  sock->state = PSP_STATE_NONE;
  return -EAGAIN;
}

/*
 * psp_clear_queued: does clear data wait between the application and the network? What was let
 * through in clear is recorded by psp_sock_in; the two other tests close the moment around
 * rx-assoc, when a segment may have passed before there was anything to record it in.
 */
static __always_inline bool psp_clear_queued(const struct psp_sock* sock,
                                             const struct tcp_sock* tcp) {
  __u32 copied = BPF_CORE_READ(tcp, copied_seq), end;

  if (sock->clear_end && psp_before(copied, (__u32)sock->clear_end)) return true;
  if (BPF_CORE_READ(tcp, rcv_nxt) != copied &&
      !(sock->psp_start_valid && !psp_before(copied, sock->psp_start)))
    return true;
  return !sock->psp_start_valid && psp_queue_end(tcp, &end);
}

/*
 * psp_urgent_pending: has a segment in clear told TCP to leave an octet out of the stream that has
 * still to be read? It could be one that comes sealed.
 */
static __always_inline bool psp_urgent_pending(const struct tcp_sock* tcp) {
  return BPF_CORE_READ(tcp, urg_data) &&
         !psp_before(BPF_CORE_READ(tcp, urg_seq), BPF_CORE_READ(tcp, copied_seq));
}

/*
 * psp_reads_urgent: does the application read urgent octets where they stand (SO_OOBINLINE)? Then
 * an urgent pointer takes none out of the stream.
 */
static __always_inline bool psp_reads_urgent(const void* sk) {
  return BPF_CORE_READ((const struct sock*)psp_kernel_pointer(sk), __sk_common.skc_flags) &
         PSP_SOCK_URGINLINE;
}

/* psp_keep_inline: SO_OOBINLINE is not switched off while a pointer of the clear stream is ahead.
 */
static __always_inline int psp_keep_inline(struct bpf_sockopt* ctx, struct bpf_sock* sk) {
  const __s32* on = ctx->optval;
  const struct psp_sock* sock;

  if ((void*)(on + 1) > ctx->optval_end || *on) return 1;
  sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);
  if (!sock || sock->state < PSP_STATE_TX || !psp_urgent_pending(psp_kernel_tcp(sk))) return 1;
  bpf_set_retval(-EBUSY);
  return 0;
}

static __always_inline int psp_tx_attach(struct bpf_sock* sk, const struct psp_sockopt* request) {
  const struct tcp_sock* tcp = psp_kernel_tcp(sk);
  struct psp_sock* sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);

  if (sk->state != PSP_TCP_ESTABLISHED && !(request->flags & PSP_SOCKOPT_ANY_STATE))
    return -ENOTCONN;
  if (!sock || sock->epoch != psp_epoch || sock->state == PSP_STATE_NONE) return -ENOENT;
  if (sock->state >= PSP_STATE_TX) return -EALREADY;
  /*
   * Close the door to clear data first, then look who is in the room. A segment on another
   * processor records itself, then looks at the door: one of the two sees the other.
   */
  __sync_lock_test_and_set(&sock->pending_tx, 1);
  if (psp_has_sequence(sk) &&
      (psp_clear_queued(sock, tcp) || (psp_urgent_pending(tcp) && !psp_reads_urgent(sk)))) {
    sock->pending_tx = 0;
    return -EBUSY;
  }
  sock->tx_spi = request->tx_spi;
  sock->tx_handle = request->tx_handle;
  sock->tuple_noted = request->flags & PSP_SOCKOPT_TUPLE_NOTED;
  sock->upgrade_rcv_nxt = BPF_CORE_READ(tcp, rcv_nxt);
  sock->clear_boundary = BPF_CORE_READ(tcp, write_seq);
  sock->clear_done = BPF_CORE_READ(tcp, snd_una) == BPF_CORE_READ(tcp, write_seq);
  sock->state = PSP_STATE_TX;
  psp_barrier(sock);
  if (sock->peer_tx) sock->state = PSP_STATE_FULL;
  sock->pending_tx = 0;
  return 0;
}

static __always_inline int psp_mss_reserved(struct bpf_sock* sk) {
  struct psp_sock* sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);

  if (!sock || sock->epoch != psp_epoch) return -ENOENT;
  sock->mss_reserved = 1;
  return 0;
}

/* psp_unreserve_mss: options that the application sets are in the place of those that pspd did. */
static __always_inline int psp_unreserve_mss(struct bpf_sock* sk) {
  struct psp_sock* sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);

  if (sock) sock->mss_reserved = 0;
  return 1;
}

/* psp_refuse_ulp: a secured socket takes no other layer that encrypts, such as kTLS. */
static __always_inline int psp_refuse_ulp(struct bpf_sock* sk) {
  const struct psp_sock* sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);

  if (!sock || sock->state == PSP_STATE_NONE) return 1;
  if (sock->epoch != psp_epoch && !psp_blocked(sock)) return 1;
  bpf_set_retval(-EINVAL);
  return 0;
}

/* psp_cookie is SO_COOKIE where no helper tells it; 0: nobody has asked for it yet. */
static __always_inline __u64 psp_cookie(const struct tcp_sock* tcp) {
  return (__u64)BPF_CORE_READ((const struct sock*)tcp, __sk_common.skc_cookie.counter);
}

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

/*
 * psp_pass leaves a call to the kernel. Of an option longer than a page the program sees a page,
 * and kernels before 6.5 refuse the call unless the program says that it did not touch it.
 */
static __always_inline int psp_pass(struct bpf_sockopt* ctx) {
  if (ctx->optlen > PSP_PAGE) *(volatile __s32*)&ctx->optlen = 0;
  return 1;
}

SEC("cgroup/setsockopt")
int psp_setsockopt(struct bpf_sockopt* ctx) {
  struct psp_sockopt* request = ctx->optval;
  struct bpf_sock* sk = ctx->sk;
  int result;

  if (sk && ctx->level == IPPROTO_TCP && ctx->optname == TCP_ULP) return psp_refuse_ulp(sk);
  if (sk && ctx->level == IPPROTO_TCP && ctx->optname == TCP_REPAIR)
    return psp_note_repair(ctx, sk);
  if (sk && ctx->level == SOL_SOCKET && ctx->optname == SO_OOBINLINE)
    return psp_keep_inline(ctx, sk);
  if (sk && ctx->level == IPPROTO_IP && ctx->optname == IP_OPTIONS) return psp_unreserve_mss(sk);
  if (ctx->level != PSP_SOL || !sk) return psp_pass(ctx);
  if ((void*)(request + 1) > ctx->optval_end) return 1;
  if (request->token[0] != psp_token[0] || request->token[1] != psp_token[1]) return 1;
  switch (ctx->optname) {
    case PSP_SO_RX_ATTACH:
      result = psp_rx_attach(ctx, sk, request);
      break;
    case PSP_SO_TX_ATTACH:
      result = psp_tx_attach(sk, request);
      break;
    case PSP_SO_MSS_RESERVED:
      result = psp_mss_reserved(sk);
      break;
    default:
      return 1;
  }
  if (result) {
    bpf_set_retval(result);
    return 0;
  }
  ctx->optlen = -1; /* done: the kernel's own handler does not run */
  return 1;
}

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
  view->rcv_nxt = BPF_CORE_READ(tcp, rcv_nxt);
  view->copied_seq = BPF_CORE_READ(tcp, copied_seq);
  view->write_seq = BPF_CORE_READ(tcp, write_seq);
  view->snd_nxt = BPF_CORE_READ(tcp, snd_nxt);
  view->snd_una = BPF_CORE_READ(tcp, snd_una);
  view->ofo_end = 0;
  view->ofo_valid = psp_queue_end(tcp, &view->ofo_end);
  sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);
  view->assoc_state = sock && sock->epoch == psp_epoch ? sock->state : PSP_STATE_NONE;
  view->clear_boundary = sock ? sock->clear_boundary : 0;
  view->mss = BPF_CORE_READ(tcp, mss_cache);
  view->rotation = sock ? sock->rotation : 0;
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

static __always_inline __u32 psp_classify(const struct psp_segment* segment, bool verified) {
  if (verified) return PSP_RX_PSP_MATCH;
  /* An urgent pointer changes which octets are read, also of those that come later. */
  if (segment->payload || segment->syn || segment->urg) return PSP_RX_CLEAR_DATA;
  return segment->fin ? PSP_RX_CLEAR_FIN : PSP_RX_CLEAR_CONTROL;
}

/* psp_note_clear records clear data on its way to the queue. False: tx-assoc came first, drop. */
static __always_inline bool psp_note_clear(struct psp_sock* sock, struct bpf_sock* sk,
                                           const struct psp_segment* segment) {
  __u32 end = segment->seq + segment->payload + segment->fin, window_end;
  const struct tcp_sock* tcp = psp_kernel_tcp(sk);

  /* A connection that only begins: a SYN leaves nothing in the queue, and data comes after it. */
  if (!psp_has_sequence(sk))
    return segment->syn && !segment->payload && !segment->fin && !segment->urg;
  if (segment->syn && sk->state == PSP_TCP_ESTABLISHED) return true; /* TCP keeps nothing of it */
  if (segment->urg && psp_before(end, segment->urgent)) end = segment->urgent;
  psp_barrier(sock); /* the state before the numbers */
  window_end = BPF_CORE_READ(tcp, rcv_nxt) + BPF_CORE_READ(tcp, rcv_wnd);
  /* TCP takes what begins in its window even if it ends beyond; we could not record that. */
  if (psp_before(window_end, end)) return false;
  if (psp_before(BPF_CORE_READ(tcp, copied_seq), end) && !psp_record_clear(sock, end)) return false;
  psp_barrier(sock);
  return !sock->pending_tx && sock->state == PSP_STATE_RX;
}

static __always_inline const struct net_device* psp_netdev(struct __sk_buff* skb) {
  const struct sk_buff* packet = psp_kernel_pointer(skb);

  return BPF_CORE_READ(packet, dev);
}

/* psp_note_full tells what outlives the socket that its connection is PSP Full. */
static __always_inline void psp_note_full(struct psp_sock* sock, struct __sk_buff* skb,
                                          const struct psp_segment* segment) {
  struct psp_tuple tuple = segment->tuple;
  struct psp_tuple_entry* entry;

  psp_turn(&tuple);
  tuple.netns = BPF_CORE_READ(psp_netdev(skb), nd_net.net, net_cookie);
  entry = bpf_map_lookup_elem(&psp_departed, &tuple);
  if (!entry) return;
  entry->full = 1;
  sock->full_noted = 1;
}

static __always_inline void psp_note_psp(struct psp_sock* sock, struct __sk_buff* skb,
                                         const struct psp_segment* segment) {
  if (segment->payload && sock->state == PSP_STATE_RX &&
      (!sock->psp_start_valid || psp_before(segment->seq, sock->psp_start))) {
    sock->psp_start = segment->seq;
    sock->psp_start_valid = 1;
  }
  sock->peer_tx = 1;
  psp_barrier(sock);
  __sync_val_compare_and_swap(&sock->state, PSP_STATE_TX, PSP_STATE_FULL);
  if (sock->state == PSP_STATE_FULL && !sock->full_noted) psp_note_full(sock, skb, segment);
  __sync_fetch_and_add(&sock->rx_packets, psp_segments(skb));
  __sync_fetch_and_add(&sock->rx_bytes, segment->payload);
}

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
  if (!entry || entry->epoch != psp_epoch || entry->dev_id != sock->dev_id) return false;
  sock->guard_program = entry->program;
  psp_barrier(sock);
  sock->guarded = now;
  return true;
}

/*
 * psp_rx_verdict looks into the table by one number that is judged right before it is used: the
 * verifier of Linux 6.1 does not know the bounds of a number that went over the stack since.
 */
static __always_inline __u32 psp_rx_verdict(__u32 state, __u32 event) {
  __u32 index = state * PSP_RX_EVENTS + event;

  barrier_var(index);
  return index < sizeof psp_rx_table ? (&psp_rx_table[0][0])[index] : PSP_RX_DROP;
}

/*
 * psp_note_over: the connection ends with a segment of the peer (`over`), or the socket begins
 * another. What is over has been told to its application, and need not be blocked when pspd stops.
 */
static __always_inline void psp_note_over(struct __sk_buff* skb, struct psp_sock* sock, bool over) {
  __u64 cookie = bpf_get_socket_cookie(skb);
  struct psp_noted_entry* noted = bpf_map_lookup_elem(&psp_noted, &cookie);

  sock->over = over;
  if (noted) noted->over = over;
}

/*
 * psp_ends: is this the end of a connection that its application has open? The peer resets it, or
 * both have said FIN. What comes before a sealed RST or FIN may still wait for the socket's lock,
 * so that it need only be in the window: should TCP see it otherwise, the connection goes on, and
 * says so when it is given up (psp_goes_on).
 */
static __always_inline bool psp_ends(const struct bpf_sock* sk, const struct psp_segment* segment,
                                     bool verified) {
  const struct tcp_sock* tcp = psp_kernel_tcp(sk);
  __u32 next = BPF_CORE_READ(tcp, rcv_nxt), write_seq = BPF_CORE_READ(tcp, write_seq);
  bool now =
      segment->seq == next || (verified && !psp_before(segment->seq, next) &&
                               !psp_before(next + BPF_CORE_READ(tcp, rcv_wnd), segment->seq));

  if (sk->state == PSP_TCP_SYN_SENT)
    return segment->rst && segment->ack && segment->ack_seq == BPF_CORE_READ(tcp, snd_nxt);
  if (segment->rst) return now;
  if (sk->state == PSP_TCP_LAST_ACK || sk->state == PSP_TCP_CLOSING)
    return segment->ack && segment->ack_seq == write_seq;
  return segment->fin && now && (sk->state == PSP_TCP_FIN_WAIT1 || sk->state == PSP_TCP_FIN_WAIT2);
}

/* psp_goes_on: does the socket send what it would not if the connection were over? A RST says that
   it was not, until its application gave it up. */
static __always_inline bool psp_goes_on(struct __sk_buff* skb) {
  struct psp_segment segment;

  return !psp_parse_segment(skb, 0, &segment) || segment.syn || segment.rst || segment.payload;
}

static __always_inline bool psp_accept(struct __sk_buff* skb, struct bpf_sock* sk,
                                       struct psp_sock* sock) {
  bool verified = skb->tc_index == psp_verified && psp_is_of(skb, skb->ingress_ifindex, sock);
  struct psp_segment segment;
  __u32 event, state = sock->state, verdict;

  /* TCP may find a segment behind headers where we do not. We could not note what it leaves. */
  if (!psp_parse_segment(skb, 0, &segment)) return false;
  if (state == PSP_STATE_RX && segment.urg && psp_reads_urgent(sk)) segment.urg = false;
  event = psp_classify(&segment, verified);
  verdict = psp_rx_verdict(state, event);
  if (sock->pending_tx && event != PSP_RX_CLEAR_CONTROL && !verified) verdict = PSP_RX_DROP;
  switch (verdict) {
    case PSP_RX_ACCEPT_AT_LATCH:
      if (segment.seq != sock->upgrade_rcv_nxt) return false;
      if (psp_ends(sk, &segment, verified)) psp_note_over(skb, sock, true);
      return true;
    case PSP_RX_ACCEPT_PEER:
    case PSP_RX_ACCEPT:
      if (event == PSP_RX_PSP_MATCH) psp_note_psp(sock, skb, &segment);
      if (state == PSP_STATE_RX && (event == PSP_RX_CLEAR_DATA || event == PSP_RX_CLEAR_FIN))
        return psp_note_clear(sock, sk, &segment);
      if (state >= PSP_STATE_TX && psp_ends(sk, &segment, verified)) psp_note_over(skb, sock, true);
      return true;
    default:
      return false;
  }
}

/* psp_is_restored: is this a packet of a socket that TCP_REPAIR has given a secured connection? */
static __always_inline bool psp_is_restored(struct __sk_buff* skb, struct psp_sock* sock,
                                            bool incoming) {
  struct psp_segment segment;

  if (sock->repaired != PSP_REPAIRED) return sock->repaired;
  if (!psp_parse_segment(skb, 0, &segment)) return true;
  if (segment.syn) return false; /* a connection of its own begins */
  if (incoming) psp_turn(&segment.tuple);
  segment.tuple.netns = BPF_CORE_READ(psp_netdev(skb), nd_net.net, net_cookie);
  return psp_restores(sock, &segment.tuple, bpf_get_socket_cookie(skb));
}

SEC("cgroup_skb/ingress")
int psp_sock_in(struct __sk_buff* skb) {
  struct bpf_sock* sk = skb->sk;
  struct psp_sock* sock;

  if (!sk) return 1;
  sk = bpf_sk_fullsock(sk);
  if (!sk || sk->protocol != IPPROTO_TCP) return 1;
  sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);
  if (!sock) return 1;
  if (psp_is_restored(skb, sock, true)) {
    psp_count_drop(PSP_DROP_POLICY_CLEAR);
    return 0;
  }
  if (sock->state == PSP_STATE_NONE) return 1;
  if (psp_blocked(sock)) {
    psp_count_drop(PSP_DROP_POLICY_EPOCH);
    return 0;
  }
  if (sock->epoch != psp_epoch || psp_accept(skb, sk, sock)) return 1;
  __sync_fetch_and_add(&sock->rx_drops, 1);
  psp_count_drop(PSP_DROP_POLICY_CLEAR);
  return 0;
}

/* psp_first_filter is the id of the first program of a clsact that begins with cls_bpf; else 0. */
static __always_inline __u32 psp_first_filter(const struct net_device* device) {
  struct psp_list* head = BPF_CORE_READ(device, miniq_egress, filter_list, root);
  struct psp_list* first = NULL;
  struct bpf_prog* filter = NULL;

  if (!head || bpf_probe_read_kernel(&first, sizeof first, &head->next) || first == head) return 0;
  first = (void*)first - offsetof(struct psp_cls_bpf_prog, link);
  if (bpf_probe_read_kernel(&filter, sizeof filter, first)) return 0;
  return BPF_CORE_READ(filter, aux, id);
}

/* psp_first_program is the id of the program that sees the packets of a netdev first; 0: none. */
static __always_inline __u32 psp_first_program(const struct net_device* device) {
  if (bpf_core_field_exists(device->tcx_egress))
    return BPF_CORE_READ(device, tcx_egress, fp_items[0].prog, aux, id);
  return psp_first_filter(device);
}

/*
 * psp_guarded: will psp_egress of the socket's device see this packet? pspd says on which netdevs
 * it is, and the kernel whether it is there now: for a program can be taken away, replaced or
 * outrun, and a netdev can take the number of another, also while no pspd is there to notice.
 */
static __always_inline bool psp_guarded(struct __sk_buff* skb, struct psp_sock* sock) {
  return psp_is_of(skb, skb->ifindex, sock) &&
         psp_first_program(psp_netdev(skb)) == sock->guard_program;
}

/*
 * psp_begin: a SYN goes out, under the socket lock. Another connection begins on this socket, and
 * nothing that was noted of an earlier one's sequence numbers holds. Data cannot come before the
 * peer's SYN, which ends this state under the same lock.
 */
static __always_inline void psp_begin(struct psp_sock* sock) {
  if (sock->state == PSP_STATE_RX) {
    sock->clear_end = 0;
    sock->psp_start_valid = 0;
  } else {
    sock->clear_done = 1;
    sock->tuple_noted = 0;
  }
}

SEC("cgroup_skb/egress")
int psp_sock_out(struct __sk_buff* skb) {
  struct bpf_sock* sk = skb->sk;
  struct psp_sock* sock;

  if (!sk) return 1;
  sk = bpf_sk_fullsock(sk);
  if (!sk || sk->protocol != IPPROTO_TCP) return 1;
  sock = bpf_sk_storage_get(&psp_assoc, sk, 0, 0);
  if (!sock) return 1;
  if (psp_is_restored(skb, sock, false)) {
    psp_count_drop(PSP_DROP_POLICY_CLEAR);
    return 0;
  }
  if (sock->state == PSP_STATE_NONE) return 1;
  if (sk->state == PSP_TCP_SYN_SENT) psp_begin(sock);
  if (sock->state < PSP_STATE_TX) return 1;
  /* pspd, too, notes what is over: of those that it aborts. */
  if (sk->state == PSP_TCP_SYN_SENT || (sock->over && psp_goes_on(skb)))
    psp_note_over(skb, sock, false);
  if (sock->epoch != psp_epoch) {
    psp_count_drop(PSP_DROP_POLICY_EPOCH);
    return 0;
  }
  if (psp_guarded(skb, sock)) return 1;
  psp_count_drop(PSP_DROP_POLICY_ROUTE);
  return 0;
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
