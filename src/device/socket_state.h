/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * What a socket with an association remembers, and every decision that is made by it: which
 * segments are let through, how they are sent, when keys may be given to it. One source in plain C
 * for the BPF programs, which run it on the sockets of the kernel, and for tests and models, which
 * run it on sockets of their own. The table of states itself is in state_table.h.
 *
 * Nothing here looks at a packet, a map or the kernel: the caller gives a parsed segment and what
 * TCP knows at that moment. That moment matters: segments arrive on other processors while
 * tx-assoc looks at the queues. Each side writes what it does, passes psp_barrier, and then reads
 * what the other does, so that one of the two sees the other. Where a function says "read after
 * ...", the numbers are to be read after that call, not before.
 */
#ifndef PSP_DEVICE_SOCKET_STATE_H
#define PSP_DEVICE_SOCKET_STATE_H

#include <asm-generic/errno.h>

#include "base/integers.h"
#include "device/sa/sa_id.h"
#include "device/state_table.h"

enum psp_tcp_state { /* the kernel's numbers */
                     PSP_TCP_ESTABLISHED = 1,
                     PSP_TCP_SYN_SENT = 2,
                     PSP_TCP_SYN_RECV = 3,
                     PSP_TCP_FIN_WAIT1 = 4,
                     PSP_TCP_FIN_WAIT2 = 5,
                     PSP_TCP_TIME_WAIT = 6,
                     PSP_TCP_CLOSE = 7,
                     PSP_TCP_LAST_ACK = 9,
                     PSP_TCP_LISTEN = 10,
                     PSP_TCP_CLOSING = 11,
                     PSP_TCP_NEW_SYN_RECV = 12,
};

/*
 * psp_sock is the association that a socket carries (in the kernel: BPF_MAP_TYPE_SK_STORAGE). It
 * appears at rx-assoc and goes with the full socket. Sequence numbers are TCP's, in host order.
 */
struct psp_sock {
  psp_u64 epoch;      /* of the pspd that made it; another's means that the keys are gone */
  psp_u32 state;      /* enum psp_state */
  psp_u32 peer_tx;    /* a matching PSP packet came: tx-assoc leads to FULL */
  psp_u32 pending_tx; /* tx-assoc is looking at the queues: clear data is already refused */
  psp_u32 tx_spi;
  psp_u32 tx_handle;
  struct psp_sa_id rx;     /* what it receives under */
  psp_u64 clear_end;       /* clear data was let through up to here: PSP_CLEAR_END | sequence */
  psp_u32 upgrade_rcv_nxt; /* rcv_nxt at tx-assoc: where a clear FIN may stand */
  psp_u32 clear_boundary;  /* write_seq at tx-assoc: first sealed octet */
  psp_u32 clear_done;      /* all clear octets are acknowledged: nothing is sent in clear again */
  psp_u32 tuple_noted;     /* the connection is in psp_noted and psp_departed */
  psp_u32 full_noted;      /* ... and that it is PSP Full */
  psp_u32 psp_start_valid; /* PSP data was let through ... */
  psp_u32 psp_start;       /* ... and none before here */
  psp_u32 mss_reserved;    /* the socket's own MSS leaves room for PSP */
  psp_u32 over;            /* as in struct psp_noted_entry */
  psp_u32 fence;           /* means nothing: see psp_barrier */
  psp_u32 repaired;        /* PSP_REPAIRED or PSP_RESTORED; 0: never in the hands of TCP_REPAIR */
  psp_u32 guard_egress;    /* id of the program that must stand first on the way out ... */
  psp_u32 guard_ingress;   /* ... and on the way in ... */
  psp_u32 reserved;
  psp_u64 guarded;              /* ... as psp_guard has them: psp_guard_version << 32 | ifindex */
  psp_u64 netns;                /* of the socket: the keys are those of that namespace */
  psp_u64 rx_packets, rx_bytes; /* PSP segments accepted; octets of TCP payload */
  psp_u64 tx_packets, tx_bytes; /* segments handed over for sealing */
  psp_u64 rx_drops;             /* refused by the state table */
};
#define PSP_CLEAR_END (1ull << 32)
#define PSP_REPAIRED 1 /* TCP_REPAIR was used on the socket */
#define PSP_RESTORED 2 /* and gave it a secured connection's 4-tuple: it is silent for good */

/* psp_segment is a TCP segment; numbers in host order. */
struct psp_segment {
  psp_u32 seq, ack_seq;
  psp_u32 payload;
  psp_u32 urgent; /* one past the octet that the urgent pointer may mean, if `urg` */
  bool syn, fin, rst, ack, urg;
};

/* psp_tcp is what TCP knows of a connection. */
struct psp_tcp {
  psp_u32 state; /* enum psp_tcp_state */
  psp_u32 rcv_nxt, rcv_wnd, copied_seq;
  psp_u32 snd_una, snd_nxt, write_seq;
  psp_u32 queue_end;  /* of the out-of-order queue, if `queue` */
  psp_u32 urgent_seq; /* of an octet that a pointer has named, if `urgent` */
  bool queue;         /* something waits out of order */
  bool urgent;
  bool urgent_inline; /* the application reads such octets where they stand (SO_OOBINLINE) */
};

PSP_INLINE bool psp_before(psp_u32 a, psp_u32 b) { return (int)(a - b) < 0; }

/* psp_segment_end is the sequence number behind a segment that is no SYN. */
PSP_INLINE psp_u32 psp_segment_end(const struct psp_segment* segment) {
  return segment->seq + segment->payload + segment->fin;
}

/*
 * psp_barrier: an exchange is a full barrier on every architecture. (A compare-and-swap is one only
 * if it swaps.)
 */
PSP_INLINE void psp_barrier(struct psp_sock* sock) { __sync_lock_test_and_set(&sock->fence, 0); }

/* psp_blocked: an association whose keys are gone and that must not fall back to clear text. */
PSP_INLINE bool psp_blocked(const struct psp_sock* sock, psp_u64 epoch) {
  return sock->epoch != epoch && (sock->state >= PSP_STATE_TX || sock->pending_tx);
}

/*
 * psp_has_sequence: does a socket in that state know its peer's sequence numbers? If not, no data
 * can come: it begins with a SYN.
 */
PSP_INLINE bool psp_has_sequence(psp_u32 tcp_state) {
  return tcp_state != PSP_TCP_CLOSE && tcp_state != PSP_TCP_SYN_SENT && tcp_state != PSP_TCP_LISTEN;
}

/*
 * psp_record_clear notes that clear data up to `end` was let through; the furthest end stands.
 * False: other processors were faster again and again, and it is not noted.
 */
PSP_INLINE bool psp_record_clear(struct psp_sock* sock, psp_u32 end) {
  for (int i = 0; i < 8; i++) {
    psp_u64 old = sock->clear_end;

    if (old && !psp_before((psp_u32)old, end)) return true;
    if (__sync_val_compare_and_swap(&sock->clear_end, old, PSP_CLEAR_END | end) == old) return true;
  }
  return false;
}

/* --- rx-assoc, under the socket lock: refused?, prepare, begin, settle --------------------- */

/*
 * psp_rx_refused: may a socket have an Rx association now? `sock` is what it carries, or null;
 * `any_state` are the rules of Linux up to 7.3; `other_layer`: it has a layer that encrypts
 * already. 0, or a negative errno: ENOTCONN, EBUSY, EINVAL.
 */
PSP_INLINE int psp_rx_refused(const struct psp_sock* sock, psp_u64 epoch, psp_u32 tcp_state,
                              bool any_state, bool other_layer) {
  if (tcp_state != PSP_TCP_ESTABLISHED && !any_state) return -ENOTCONN;
  if (sock && sock->state != PSP_STATE_NONE && (sock->epoch == epoch || psp_blocked(sock, epoch)))
    return -EBUSY;
  return other_layer ? -EINVAL : 0;
}

/* psp_rx_prepare makes a new association of what the socket carried. Nobody looks at it yet. */
PSP_INLINE void psp_rx_prepare(struct psp_sock* sock, const struct psp_sa_id* rx, psp_u64 netns,
                               psp_u64 epoch) {
  psp_u32 repaired = sock->repaired;

  __builtin_memset(sock, 0, sizeof *sock);
  sock->repaired = repaired;
  sock->rx = *rx;
  sock->netns = netns;
  sock->epoch = epoch;
}

/*
 * psp_rx_begin: what comes from now on records itself; what is queued came in clear. psp_rx_settle
 * must follow. A socket without sequence numbers needs neither: it only changes its state.
 */
PSP_INLINE void psp_rx_begin(struct psp_sock* sock, psp_u32 rcv_nxt) {
  sock->clear_end = PSP_CLEAR_END | rcv_nxt;
  psp_barrier(sock);
  sock->state = PSP_STATE_RX;
  psp_barrier(sock);
}

/*
 * psp_rx_settle records what is queued; `tcp` is read after psp_rx_begin. EAGAIN: it could not be,
 * and the socket has no association.
 */
PSP_INLINE int psp_rx_settle(struct psp_sock* sock, const struct psp_tcp* tcp) {
  if (psp_record_clear(sock, tcp->rcv_nxt) &&
      (!tcp->queue || psp_record_clear(sock, tcp->queue_end)))
    return 0;
  sock->state = PSP_STATE_NONE;
  return -EAGAIN;
}

/* --- tx-assoc, under the socket lock: refused?, begin, settle ------------------------------ */

/* psp_tx_refused: may the socket have a Tx key now? 0 or ENOTCONN, ENOENT, EALREADY, negative. */
PSP_INLINE int psp_tx_refused(const struct psp_sock* sock, psp_u64 epoch, psp_u32 tcp_state,
                              bool any_state) {
  if (tcp_state != PSP_TCP_ESTABLISHED && !any_state) return -ENOTCONN;
  if (!sock || sock->epoch != epoch || sock->state == PSP_STATE_NONE) return -ENOENT;
  return sock->state >= PSP_STATE_TX ? -EALREADY : 0;
}

/*
 * psp_tx_begin closes the door to clear data, before anybody looks who is in the room. A segment on
 * another processor records itself, then looks at the door: one of the two sees the other.
 */
PSP_INLINE void psp_tx_begin(struct psp_sock* sock) {
  __sync_lock_test_and_set(&sock->pending_tx, 1);
}

/*
 * psp_clear_queued: does clear data wait between the application and the network? What was let
 * through in clear is recorded by psp_note_clear; the two other tests close the moment around
 * rx-assoc, when a segment may have passed before there was anything to record it in.
 */
PSP_INLINE bool psp_clear_queued(const struct psp_sock* sock, const struct psp_tcp* tcp) {
  if (sock->clear_end && psp_before(tcp->copied_seq, (psp_u32)sock->clear_end)) return true;
  if (tcp->rcv_nxt != tcp->copied_seq &&
      !(sock->psp_start_valid && !psp_before(tcp->copied_seq, sock->psp_start)))
    return true;
  return !sock->psp_start_valid && tcp->queue;
}

/*
 * psp_urgent_pending: has a segment in clear told TCP to leave an octet out of the stream that has
 * still to be read? It could be one that comes sealed.
 */
PSP_INLINE bool psp_urgent_pending(const struct psp_tcp* tcp) {
  return tcp->urgent && !psp_before(tcp->urgent_seq, tcp->copied_seq);
}

/*
 * psp_tx_settle switches the socket, or opens the door again: EBUSY, negative. `tcp` is read after
 * psp_tx_begin. `noted`: what outlives the socket knows of its connection already.
 */
PSP_INLINE int psp_tx_settle(struct psp_sock* sock, const struct psp_tcp* tcp, psp_u32 tx_spi,
                             psp_u32 tx_handle, psp_u32 noted) {
  if (psp_has_sequence(tcp->state) &&
      (psp_clear_queued(sock, tcp) || (psp_urgent_pending(tcp) && !tcp->urgent_inline))) {
    sock->pending_tx = 0;
    return -EBUSY;
  }
  sock->tx_spi = tx_spi;
  sock->tx_handle = tx_handle;
  sock->tuple_noted = noted;
  sock->upgrade_rcv_nxt = tcp->rcv_nxt;
  sock->clear_boundary = tcp->write_seq;
  sock->clear_done = tcp->snd_una == tcp->write_seq;
  sock->state = PSP_STATE_TX;
  psp_barrier(sock);
  if (sock->peer_tx) sock->state = PSP_STATE_FULL;
  sock->pending_tx = 0;
  return 0;
}

/* --- what comes ---------------------------------------------------------------------------- */

/* psp_classify is the event of a segment. `verified`: it was opened under this association. */
PSP_INLINE psp_u32 psp_classify(const struct psp_segment* segment, bool verified) {
  if (verified) return PSP_RX_PSP_MATCH;
  /* An urgent pointer changes which octets are read, also of those that come later. */
  if (segment->payload || segment->syn || segment->urg) return PSP_RX_CLEAR_DATA;
  return segment->fin ? PSP_RX_CLEAR_FIN : PSP_RX_CLEAR_CONTROL;
}

/*
 * psp_rx_verdict looks into the table by one number that is judged right before it is used: the
 * verifier of Linux 6.1 does not know the bounds of a number that went over the stack since.
 */
PSP_INLINE psp_u32 psp_rx_verdict(psp_u32 state, psp_u32 event) {
  psp_u32 index = state * PSP_RX_EVENTS + event;

  __asm__ volatile("" : "+r"(index));
  if (index >= sizeof psp_rx_table) return PSP_RX_DROP;
  return (&psp_rx_table[0][0])[index];
}

/*
 * psp_rx_judge is the verdict on a segment for a socket that is in `state`, read once before: the
 * table's, with the door of tx-assoc and the latch looked at. PSP_RX_DROP or else it may pass; but
 * one that psp_must_note is let in only by psp_note_clear.
 */
PSP_INLINE psp_u32 psp_rx_judge(const struct psp_sock* sock, psp_u32 state, psp_u32 event,
                                const struct psp_segment* segment, bool verified) {
  psp_u32 verdict = psp_rx_verdict(state, event);

  if (sock->pending_tx && event != PSP_RX_CLEAR_CONTROL && !verified) return PSP_RX_DROP;
  if (verdict == PSP_RX_ACCEPT_AT_LATCH && segment->seq != sock->upgrade_rcv_nxt)
    return PSP_RX_DROP;
  return verdict;
}

/* psp_must_note: clear data that tx-assoc would have to know of. */
PSP_INLINE bool psp_must_note(psp_u32 state, psp_u32 event) {
  return state == PSP_STATE_RX && (event == PSP_RX_CLEAR_DATA || event == PSP_RX_CLEAR_FIN);
}

/*
 * psp_note_clear records clear data on its way to the queue; `tcp` is read after a psp_barrier,
 * which puts the state before the numbers. False: tx-assoc came first, drop.
 */
PSP_INLINE bool psp_note_clear(struct psp_sock* sock, const struct psp_tcp* tcp,
                               const struct psp_segment* segment) {
  psp_u32 end = psp_segment_end(segment);

  /* A connection that only begins: a SYN leaves nothing in the queue, and data comes after it. */
  if (!psp_has_sequence(tcp->state))
    return segment->syn && !segment->payload && !segment->fin && !segment->urg;
  if (segment->syn && tcp->state == PSP_TCP_ESTABLISHED) return true; /* TCP keeps nothing of it */
  if (segment->urg && psp_before(end, segment->urgent)) end = segment->urgent;
  /* TCP takes what begins in its window even if it ends beyond; we could not record that. */
  if (psp_before(tcp->rcv_nxt + tcp->rcv_wnd, end)) return false;
  if (psp_before(tcp->copied_seq, end) && !psp_record_clear(sock, end)) return false;
  psp_barrier(sock);
  return !sock->pending_tx && sock->state == PSP_STATE_RX;
}

/* psp_note_psp: a segment that was opened under this association is let through. */
PSP_INLINE void psp_note_psp(struct psp_sock* sock, const struct psp_segment* segment) {
  if (segment->payload && sock->state == PSP_STATE_RX &&
      (!sock->psp_start_valid || psp_before(segment->seq, sock->psp_start))) {
    sock->psp_start = segment->seq;
    sock->psp_start_valid = 1;
  }
  sock->peer_tx = 1;
  psp_barrier(sock);
  __sync_val_compare_and_swap(&sock->state, PSP_STATE_TX, PSP_STATE_FULL);
}

/* psp_may_end: can the segment end a connection in that state, if its numbers are right? */
PSP_INLINE bool psp_may_end(psp_u32 tcp_state, const struct psp_segment* segment) {
  if (tcp_state == PSP_TCP_SYN_SENT) return segment->rst && segment->ack;
  if (segment->rst) return true;
  if (tcp_state == PSP_TCP_LAST_ACK || tcp_state == PSP_TCP_CLOSING) return segment->ack;
  return segment->fin && (tcp_state == PSP_TCP_FIN_WAIT1 || tcp_state == PSP_TCP_FIN_WAIT2);
}

/*
 * psp_ends: is this the end of a connection that its application has open? The peer resets it, or
 * both have said FIN. What comes before a sealed RST or FIN may still wait for the socket's lock,
 * so that it need only be in the window: should TCP see it otherwise, the connection goes on, and
 * says so when it is given up (psp_goes_on).
 */
PSP_INLINE bool psp_ends(const struct psp_tcp* tcp, const struct psp_segment* segment,
                         bool verified) {
  if (!psp_may_end(tcp->state, segment)) return false;
  if (tcp->state == PSP_TCP_SYN_SENT) return segment->ack_seq == tcp->snd_nxt;
  if (!segment->rst && (tcp->state == PSP_TCP_LAST_ACK || tcp->state == PSP_TCP_CLOSING))
    return segment->ack_seq == tcp->write_seq;
  return segment->seq == tcp->rcv_nxt || (verified && !psp_before(segment->seq, tcp->rcv_nxt) &&
                                          !psp_before(tcp->rcv_nxt + tcp->rcv_wnd, segment->seq));
}

/* --- what goes ----------------------------------------------------------------------------- */

/*
 * psp_begin: a SYN goes out, under the socket lock. Another connection begins on this socket, and
 * nothing that was noted of an earlier one's sequence numbers holds. Data cannot come before the
 * peer's SYN, which ends this state under the same lock.
 */
PSP_INLINE void psp_begin(struct psp_sock* sock) {
  if (sock->state == PSP_STATE_RX) {
    sock->clear_end = 0;
    sock->psp_start_valid = 0;
  } else {
    sock->clear_done = 1;
    sock->tuple_noted = 0;
  }
}

/*
 * psp_goes_on: does a socket send what it would not if its connection were over? A RST says that it
 * was not, until its application gave it up.
 */
PSP_INLINE bool psp_goes_on(const struct psp_segment* segment) {
  return segment->syn || segment->rst || segment->payload;
}

/* psp_all_acknowledged: are the octets that were queued before tx-assoc all with the peer? */
PSP_INLINE bool psp_all_acknowledged(const struct psp_sock* sock, psp_u32 snd_una) {
  return !psp_before(snd_una, sock->clear_boundary);
}

/* psp_tx_form is how a segment of a socket with a Tx key is sent, if not psp_all_acknowledged. */
PSP_INLINE psp_u32 psp_tx_form(const struct psp_sock* sock, const struct psp_segment* segment) {
  if (!segment->payload || !psp_before(segment->seq, sock->clear_boundary)) return PSP_TX_SEALED;
  if (psp_before(sock->clear_boundary, segment->seq + segment->payload) || segment->fin)
    return PSP_TX_SPAN;
  return PSP_TX_CLEAR;
}

/*
 * psp_is_again: has all of the segment been sent before? Then TCP meant to send again what lies
 * before the clear boundary, and has joined it with what is behind: there is no fence at the
 * boundary that would keep it from that.
 */
PSP_INLINE bool psp_is_again(psp_u32 snd_nxt, const struct psp_segment* segment) {
  return !psp_before(snd_nxt, psp_segment_end(segment));
}

/* --- connections whose socket has gone -------------------------------------------------------- */

/*
 * psp_is_bare: the kernel sends nothing else for a connection without full socket. What has data
 * comes from somebody who forges, and must not get our seal.
 */
PSP_INLINE bool psp_is_bare(const struct psp_segment* segment) {
  return !segment->payload && !segment->fin;
}

/* psp_begins: may a segment take the place of a connection in TIME_WAIT, as TCP sees it? */
PSP_INLINE bool psp_begins(const struct psp_segment* segment, psp_u32 rcv_nxt, bool timestamps) {
  if (!segment->syn || segment->ack || segment->rst || segment->fin) return false;
  /* With timestamps it may be one of those that decides. */
  return timestamps || psp_before(rcv_nxt, segment->seq);
}

/*
 * psp_is_refused_late: of the segments in clear for a connection in TIME_WAIT the state table
 * refuses all if it was PSP Full, else those that take sequence space, but for a FIN. Such a one
 * would be answered, or end that state; only what psp_begins may pass.
 */
PSP_INLINE bool psp_is_refused_late(const struct psp_segment* segment, bool full) {
  return full || segment->payload || segment->syn;
}

#endif
