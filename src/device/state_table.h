/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * The socket state table of the Linux PSP documentation as one data structure, read by C++ and BPF
 * alike. A row is the state of a socket, a column what happens to it; see docs/architecture.md.
 *
 *   NONE --rx-assoc--> RX --tx-assoc--> TX --first matching PSP packet--> FULL
 *
 * There is no way back: the state lives until the socket and its TIME_WAIT end. A matching PSP
 * packet that arrives in RX is remembered, and tx-assoc then leads to FULL at once.
 */
#ifndef PSP_DEVICE_STATE_TABLE_H
#define PSP_DEVICE_STATE_TABLE_H

enum psp_state {
  PSP_STATE_NONE = 0, /* ordinary TCP */
  PSP_STATE_RX = 1,   /* has an Rx key; clear and PSP segments are accepted, sends clear */
  PSP_STATE_TX = 2,   /* has a Tx key too; sends PSP; the peer may not have switched yet */
  PSP_STATE_FULL = 3, /* the peer has sent PSP: nothing in clear is accepted any more */
  PSP_STATES = 4,
};

enum psp_rx_event {
  PSP_RX_CLEAR_DATA = 0,    /* any clear segment with data, also SYN, also FIN with data */
  PSP_RX_CLEAR_CONTROL = 1, /* clear, no sequence space: pure ACK, RST without data */
  PSP_RX_CLEAR_FIN = 2,     /* clear, FIN alone: exactly one number of sequence space */
  PSP_RX_PSP_MATCH = 3,     /* authenticated; SPI, generation, version and device match */
  PSP_RX_PSP_OTHER = 4,     /* authenticated, but one of these differs */
  PSP_RX_EVENTS = 5,
};

enum psp_rx_verdict {
  PSP_RX_DROP = 0,
  PSP_RX_ACCEPT = 1,
  PSP_RX_ACCEPT_AT_LATCH = 2, /* only if its sequence number is rcv_nxt as latched by tx-assoc */
  PSP_RX_ACCEPT_PEER = 3,     /* accept, and note that the peer sends PSP: TX becomes FULL */
};

/* psp_rx_table[state][event] is the psp_rx_verdict. */
/* clang-format off */
static const unsigned char psp_rx_table[PSP_STATES][PSP_RX_EVENTS] = {
    /*          clear data     clear control  clear FIN               PSP match           PSP other */
    /* NONE */ {PSP_RX_ACCEPT, PSP_RX_ACCEPT, PSP_RX_ACCEPT,          PSP_RX_DROP,        PSP_RX_DROP},
    /* RX   */ {PSP_RX_ACCEPT, PSP_RX_ACCEPT, PSP_RX_ACCEPT,          PSP_RX_ACCEPT_PEER, PSP_RX_DROP},
    /* TX   */ {PSP_RX_DROP,   PSP_RX_ACCEPT, PSP_RX_ACCEPT_AT_LATCH, PSP_RX_ACCEPT_PEER, PSP_RX_DROP},
    /* FULL */ {PSP_RX_DROP,   PSP_RX_DROP,   PSP_RX_DROP,            PSP_RX_ACCEPT,      PSP_RX_DROP},
};
/* clang-format on */

enum psp_tx_form {
  PSP_TX_CLEAR = 0,
  PSP_TX_SEALED = 1,
  PSP_TX_SPAN = 2, /* starts in clear, sealed from the clear boundary on; not in the table */
};

/*
 * psp_tx_table[state][1] is how new data, ACK, FIN, RST and probes are sent; psp_tx_table[state][0]
 * how octets that were queued before tx-assoc are sent and sent again.
 */
static const unsigned char psp_tx_table[PSP_STATES][2] = {
    /* NONE */ {PSP_TX_CLEAR, PSP_TX_CLEAR},
    /* RX   */ {PSP_TX_CLEAR, PSP_TX_CLEAR},
    /* TX   */ {PSP_TX_CLEAR, PSP_TX_SEALED},
    /* FULL */ {PSP_TX_CLEAR, PSP_TX_SEALED},
};

#ifndef __bpf__
/* psp_state_name is for people: "none", "rx", "tx", "full". */
static inline const char* psp_state_name(unsigned int state) {
  static const char* const names[PSP_STATES] = {"none", "rx", "tx", "full"};
  return state < PSP_STATES ? names[state] : "?";
}
#endif

#endif
