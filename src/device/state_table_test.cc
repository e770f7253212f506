// SPDX-License-Identifier: Apache-2.0
//
// The state table against the tables of the Linux documentation (Documentation/networking/psp.rst)
// and of the kernel's acceptance test, written out here a second time, in the words of those
// sources and cell by cell. Two ways to the same table: one copies what the documentation says, the
// other what the kernel does. What a socket remembers and latches beside it: socket_state_test.cc;
// real sockets, cell by cell: docs/semantics.md names the scripts.
#include "device/state_table.h"

#include <gtest/gtest.h>
#include <string_view>

namespace {

// One row of the documentation's table: event, then Normal TCP, Rx PSP, Tx PSP, PSP Full.
struct RxRow {
  psp_rx_event event;
  const char* columns[4];
};

// The documentation has one row for ACK, FIN and RST; the text above it tells FIN apart: "ACKs and
// RSTs will be accepted with any sequence number, while FINs will only be accepted at the latched
// value of rcv_nxt". "accept, peer" notes that the peer sends PSP, which makes Tx PSP full.
constexpr RxRow kRxRows[] = {
    {PSP_RX_CLEAR_DATA, {"accept", "accept", "drop", "drop"}},
    {PSP_RX_CLEAR_CONTROL, {"accept", "accept", "accept", "drop"}},
    {PSP_RX_CLEAR_FIN, {"accept", "accept", "accept at latch", "drop"}},
    {PSP_RX_PSP_MATCH, {"drop", "accept, peer", "accept, peer", "accept"}},
    {PSP_RX_PSP_OTHER, {"drop", "drop", "drop", "drop"}},
};

std::string_view verdict_text(unsigned verdict) {
  switch (verdict) {
    case PSP_RX_DROP:
      return "drop";
    case PSP_RX_ACCEPT:
      return "accept";
    case PSP_RX_ACCEPT_AT_LATCH:
      return "accept at latch";
    case PSP_RX_ACCEPT_PEER:
      return "accept, peer";
  }
  return "?";
}

// The kernel's acceptance test, in its order, for a packet that carries `latched` as its sequence
// number or not. An independent way to the same table.
struct Socket {
  bool has_association, has_tx_key, peer_tx;
};
struct Segment {
  bool psp, matches, data, fin, at_latch;
};

bool kernel_accepts(Socket& socket, const Segment& segment) {
  if (!socket.has_association) return !segment.psp;
  if (segment.psp && segment.matches) {
    socket.peer_tx = true;
    return true;
  }
  if (segment.psp) return false;
  if (!socket.has_tx_key) return true;
  if (socket.peer_tx) return false;
  if (segment.data) return false;
  return !segment.fin || segment.at_latch;
}

Socket socket_in(psp_state state) {
  return {state != PSP_STATE_NONE, state == PSP_STATE_TX || state == PSP_STATE_FULL,
          state == PSP_STATE_FULL};
}

Segment segment_of(psp_rx_event event, bool at_latch) {
  switch (event) {
    case PSP_RX_CLEAR_DATA:
      return {false, false, true, false, at_latch};
    case PSP_RX_CLEAR_FIN:
      return {false, false, false, true, at_latch};
    case PSP_RX_PSP_MATCH:
      return {true, true, true, false, at_latch};
    case PSP_RX_PSP_OTHER:
      return {true, false, true, false, at_latch};
    default:
      return {false, false, false, false, at_latch};
  }
}

TEST(StateTable, EveryReceiveCellIsTheDocumentations) {
  EXPECT_EQ(std::size(kRxRows), std::size_t{PSP_RX_EVENTS});
  for (const RxRow& row : kRxRows)
    for (unsigned state = 0; state < PSP_STATES; ++state)
      EXPECT_EQ(verdict_text(psp_rx_table[state][row.event]), row.columns[state])
          << "state " << psp_state_name(state) << " event " << row.event;
}

TEST(StateTable, AgreesWithTheKernelsAcceptanceTest) {
  for (unsigned state = 0; state < PSP_STATES; ++state)
    for (unsigned event = 0; event < PSP_RX_EVENTS; ++event)
      for (const bool at_latch : {false, true}) {
        Socket socket = socket_in(static_cast<psp_state>(state));
        const bool peer_before = socket.peer_tx;
        const bool accepted =
            kernel_accepts(socket, segment_of(static_cast<psp_rx_event>(event), at_latch));
        const unsigned verdict = psp_rx_table[state][event];
        EXPECT_EQ(accepted, verdict == PSP_RX_ACCEPT || verdict == PSP_RX_ACCEPT_PEER ||
                                (verdict == PSP_RX_ACCEPT_AT_LATCH && at_latch))
            << psp_state_name(state) << " " << event << " " << at_latch;
        EXPECT_EQ(socket.peer_tx && !peer_before, verdict == PSP_RX_ACCEPT_PEER)
            << psp_state_name(state) << " " << event;
      }
}

TEST(StateTable, OnlyNewOctetsOfASocketWithATxKeyAreSealed) {
  // "Tx: plain text, plain text, encrypted (excl. rtx), encrypted (excl. rtx)"
  constexpr psp_tx_form kNew[] = {PSP_TX_CLEAR, PSP_TX_CLEAR, PSP_TX_SEALED, PSP_TX_SEALED};
  for (unsigned state = 0; state < PSP_STATES; ++state) {
    EXPECT_EQ(psp_tx_table[state][1], kNew[state]) << psp_state_name(state);
    EXPECT_EQ(psp_tx_table[state][0], PSP_TX_CLEAR) << psp_state_name(state);
  }
}

TEST(StateTable, NamesStates) {
  EXPECT_STREQ(psp_state_name(PSP_STATE_NONE), "none");
  EXPECT_STREQ(psp_state_name(PSP_STATE_RX), "rx");
  EXPECT_STREQ(psp_state_name(PSP_STATE_TX), "tx");
  EXPECT_STREQ(psp_state_name(PSP_STATE_FULL), "full");
  EXPECT_STREQ(psp_state_name(PSP_STATES), "?");
}

}  // namespace
