// SPDX-License-Identifier: Apache-2.0
//
// The decisions of socket_state.h, as the BPF programs make them: of each what it looks at, and the
// order of what two processors do around the two attach calls, played through by hand. The table of
// states itself is tested in state_table_test.cc, the programs around all this in src/kernel.
#include "device/socket_state.h"

#include <cerrno>
#include <gtest/gtest.h>

namespace {

constexpr psp_u64 kEpoch = 77;
constexpr psp_u64 kNetns = 5;
constexpr psp_sa_id kRx{
    .spi = 0x80001234, .rotation = 9, .dev_id = 3, .generation = 9, .version = 1};

psp_sock in_state(psp_u32 state) {
  psp_sock sock{};
  sock.epoch = kEpoch;
  sock.state = state;
  sock.rx = kRx;
  return sock;
}

// established is a connection that has received up to 1000 and read it all, and sent up to 2000,
// all acknowledged.
psp_tcp established() {
  psp_tcp tcp{};
  tcp.state = PSP_TCP_ESTABLISHED;
  tcp.rcv_nxt = tcp.copied_seq = 1000;
  tcp.rcv_wnd = 500;
  tcp.snd_una = tcp.snd_nxt = tcp.write_seq = 2000;
  return tcp;
}

psp_segment data(psp_u32 seq, psp_u32 payload) {
  psp_segment segment{};
  segment.seq = seq;
  segment.payload = payload;
  segment.ack = true;
  return segment;
}

psp_segment flags(std::string_view letters, psp_u32 seq = 1000, psp_u32 ack_seq = 2000) {
  psp_segment segment{};
  segment.seq = seq;
  segment.ack_seq = ack_seq;
  for (const char letter : letters) {
    segment.syn |= letter == 'S';
    segment.fin |= letter == 'F';
    segment.rst |= letter == 'R';
    segment.ack |= letter == 'A';
    segment.urg |= letter == 'U';
  }
  return segment;
}

// --- the identity ---------------------------------------------------------------------------

TEST(SaId, MatchesWhatWasOpenedUnderIt) {
  psp_sa_id opened = kRx;
  EXPECT_TRUE(psp_sa_matches(&kRx, &opened));
  opened.rotation++;
  EXPECT_TRUE(psp_sa_matches(&kRx, &opened)) << "the device key before the active one";
  opened.rotation++;
  EXPECT_FALSE(psp_sa_matches(&kRx, &opened)) << "two rotations later";
}

TEST(SaId, DiffersInAnyPart) {
  for (const auto change :
       {+[](psp_sa_id& id) { id.spi ^= 0x80000000; }, +[](psp_sa_id& id) { id.spi++; },
        +[](psp_sa_id& id) { id.dev_id++; }, +[](psp_sa_id& id) { id.generation++; },
        +[](psp_sa_id& id) { id.version ^= 1; }, +[](psp_sa_id& id) { id.rotation--; }}) {
    psp_sa_id opened = kRx;
    change(opened);
    EXPECT_FALSE(psp_sa_matches(&kRx, &opened));
  }
}

TEST(SaId, ARotationCountsAlsoAcrossTheEndOfItsNumbers) {
  EXPECT_FALSE(psp_is_dead(0xffffffff, 0));
  EXPECT_TRUE(psp_is_dead(0xffffffff, 1));
  EXPECT_TRUE(psp_is_dead(5, 4)) << "of the future";
}

// --- rx-assoc -------------------------------------------------------------------------------

TEST(RxAttach, WantsAnEstablishedSocketUnlessTheRulesSayOtherwise) {
  EXPECT_EQ(psp_rx_refused(nullptr, kEpoch, PSP_TCP_ESTABLISHED, false, false), 0);
  EXPECT_EQ(psp_rx_refused(nullptr, kEpoch, PSP_TCP_CLOSE, false, false), -ENOTCONN);
  EXPECT_EQ(psp_rx_refused(nullptr, kEpoch, PSP_TCP_CLOSE, true, false), 0);
}

TEST(RxAttach, IsRefusedWhereThereIsStateOrAnotherLayer) {
  const psp_sock rx = in_state(PSP_STATE_RX), none = in_state(PSP_STATE_NONE);
  EXPECT_EQ(psp_rx_refused(&rx, kEpoch, PSP_TCP_ESTABLISHED, false, false), -EBUSY);
  EXPECT_EQ(psp_rx_refused(&none, kEpoch, PSP_TCP_ESTABLISHED, false, false), 0);
  EXPECT_EQ(psp_rx_refused(nullptr, kEpoch, PSP_TCP_ESTABLISHED, false, true), -EINVAL);
}

TEST(RxAttach, TakesTheStateOfAnEarlierPspdOnlyWhereNothingIsSecured) {
  psp_sock rx = in_state(PSP_STATE_RX), tx = in_state(PSP_STATE_TX);
  EXPECT_EQ(psp_rx_refused(&rx, kEpoch + 1, PSP_TCP_ESTABLISHED, false, false), 0);
  EXPECT_EQ(psp_rx_refused(&tx, kEpoch + 1, PSP_TCP_ESTABLISHED, false, false), -EBUSY);
  rx.pending_tx = 1;
  EXPECT_EQ(psp_rx_refused(&rx, kEpoch + 1, PSP_TCP_ESTABLISHED, false, false), -EBUSY);
}

TEST(RxAttach, ForgetsAllButThatTheSocketWasRepaired) {
  psp_sock sock = in_state(PSP_STATE_RX);
  sock.repaired = PSP_RESTORED;
  sock.peer_tx = sock.over = sock.psp_start_valid = 1;
  psp_rx_prepare(&sock, &kRx, kNetns, kEpoch + 1);
  EXPECT_EQ(sock.state, unsigned{PSP_STATE_NONE});
  EXPECT_EQ(sock.repaired, unsigned{PSP_RESTORED});
  EXPECT_EQ(sock.epoch, kEpoch + 1);
  EXPECT_EQ(sock.netns, kNetns);
  EXPECT_EQ(sock.rx.spi, kRx.spi);
  EXPECT_EQ(sock.peer_tx + sock.over + sock.psp_start_valid, 0u);
}

TEST(RxAttach, CountsWhatIsQueuedAsClear) {
  psp_sock sock = in_state(PSP_STATE_NONE);
  psp_tcp tcp = established();
  psp_rx_begin(&sock, tcp.rcv_nxt);
  EXPECT_EQ(sock.state, unsigned{PSP_STATE_RX});
  EXPECT_EQ(sock.clear_end, PSP_CLEAR_END | 1000);
  tcp.queue = true;
  tcp.queue_end = 1300;
  EXPECT_EQ(psp_rx_settle(&sock, &tcp), 0);
  EXPECT_EQ(sock.clear_end, PSP_CLEAR_END | 1300) << "out of order";
}

TEST(RecordClear, KeepsTheFurthestEndAlsoAcrossTheEndOfTheNumbers) {
  psp_sock sock{};
  for (const psp_u32 end : {0xffffff00u, 0xfffffe00u, 0x10u, 0x8u}) psp_record_clear(&sock, end);
  EXPECT_EQ(sock.clear_end, PSP_CLEAR_END | 0x10);
}

// --- tx-assoc -------------------------------------------------------------------------------

int settle(psp_sock& sock, const psp_tcp& tcp) {
  psp_tx_begin(&sock);
  EXPECT_EQ(sock.pending_tx, 1u);
  const int result = psp_tx_settle(&sock, &tcp, 0x4711, 12, 1);
  EXPECT_EQ(sock.pending_tx, 0u) << "the door is never left closed";
  return result;
}

TEST(TxAttach, IsRefusedWithoutAnRxKeyAndWhereThereIsATxKey) {
  const psp_sock none = in_state(PSP_STATE_NONE), rx = in_state(PSP_STATE_RX),
                 tx = in_state(PSP_STATE_TX);
  EXPECT_EQ(psp_tx_refused(&rx, kEpoch, PSP_TCP_ESTABLISHED, false), 0);
  EXPECT_EQ(psp_tx_refused(&rx, kEpoch, PSP_TCP_FIN_WAIT1, false), -ENOTCONN);
  EXPECT_EQ(psp_tx_refused(&rx, kEpoch + 1, PSP_TCP_ESTABLISHED, false), -ENOENT);
  EXPECT_EQ(psp_tx_refused(&none, kEpoch, PSP_TCP_ESTABLISHED, false), -ENOENT);
  EXPECT_EQ(psp_tx_refused(nullptr, kEpoch, PSP_TCP_ESTABLISHED, false), -ENOENT);
  EXPECT_EQ(psp_tx_refused(&tx, kEpoch, PSP_TCP_ESTABLISHED, false), -EALREADY);
}

TEST(TxAttach, LatchesWhereClearEndsOnBothSides) {
  psp_sock sock = in_state(PSP_STATE_RX);
  psp_tcp tcp = established();
  tcp.write_seq = 2600;
  EXPECT_EQ(settle(sock, tcp), 0);
  EXPECT_EQ(sock.state, unsigned{PSP_STATE_TX});
  EXPECT_EQ(sock.upgrade_rcv_nxt, 1000u);
  EXPECT_EQ(sock.clear_boundary, 2600u);
  EXPECT_EQ(sock.clear_done, 0u) << "600 octets are not acknowledged";
  EXPECT_EQ(sock.tx_spi, 0x4711u);
  EXPECT_EQ(sock.tx_handle, 12u);
  EXPECT_EQ(sock.tuple_noted, 1u);
}

TEST(TxAttach, LeadsToFullAtOnceIfThePeerHasSentPsp) {
  psp_sock sock = in_state(PSP_STATE_RX);
  const psp_segment segment = data(1000, 0);
  psp_note_psp(&sock, &segment);
  EXPECT_EQ(sock.state, unsigned{PSP_STATE_RX});
  EXPECT_EQ(settle(sock, established()), 0);
  EXPECT_EQ(sock.state, unsigned{PSP_STATE_FULL});
  EXPECT_EQ(sock.clear_done, 1u);
}

TEST(TxAttach, IsRefusedWhileClearDataWaits) {
  psp_tcp unread = established(), queued = established();
  unread.copied_seq = 990;
  queued.queue = true;
  queued.queue_end = 1200;
  for (const psp_tcp& tcp : {unread, queued}) {
    psp_sock sock = in_state(PSP_STATE_RX);
    EXPECT_EQ(settle(sock, tcp), -EBUSY);
    EXPECT_EQ(sock.state, unsigned{PSP_STATE_RX});
  }
  psp_sock recorded = in_state(PSP_STATE_RX);
  psp_record_clear(&recorded, 1001);
  EXPECT_EQ(settle(recorded, established()), -EBUSY) << "on its way to the queue";
}

TEST(TxAttach, DoesNotTakeSealedDataThatWaitsForClear) {
  psp_sock sock = in_state(PSP_STATE_RX);
  const psp_segment segment = data(990, 10);
  psp_note_psp(&sock, &segment);
  psp_tcp tcp = established();
  tcp.copied_seq = 990;
  tcp.queue = true;
  EXPECT_EQ(settle(sock, tcp), 0);
}

TEST(TxAttach, IsRefusedWhileAnUrgentPointerIsAhead) {
  psp_tcp tcp = established();
  tcp.urgent = true;
  tcp.urgent_seq = 1000;
  psp_sock sock = in_state(PSP_STATE_RX);
  EXPECT_EQ(settle(sock, tcp), -EBUSY);
  tcp.urgent_inline = true;
  EXPECT_EQ(settle(sock, tcp), 0) << "it takes nothing out of the stream";
  tcp.urgent_inline = false;
  tcp.urgent_seq = 999;
  sock = in_state(PSP_STATE_RX);
  EXPECT_EQ(settle(sock, tcp), 0) << "read already";
}

TEST(TxAttach, LooksAtNoQueueWhereThereIsNoConnectionYet) {
  psp_sock sock = in_state(PSP_STATE_RX);
  psp_tcp tcp{};
  tcp.state = PSP_TCP_CLOSE;
  tcp.rcv_nxt = 7;
  EXPECT_EQ(settle(sock, tcp), 0);
}

// --- what comes -----------------------------------------------------------------------------

TEST(Classify, TellsDataControlFinAndPspApart) {
  const auto event = [](const psp_segment& segment, bool verified = false) {
    return psp_classify(&segment, verified);
  };
  EXPECT_EQ(event(data(1, 1)), unsigned{PSP_RX_CLEAR_DATA});
  EXPECT_EQ(event(flags("S")), unsigned{PSP_RX_CLEAR_DATA});
  EXPECT_EQ(event(flags("AU")), unsigned{PSP_RX_CLEAR_DATA});
  EXPECT_EQ(event(flags("FA")), unsigned{PSP_RX_CLEAR_FIN});
  EXPECT_EQ(event(flags("A")), unsigned{PSP_RX_CLEAR_CONTROL});
  EXPECT_EQ(event(flags("R")), unsigned{PSP_RX_CLEAR_CONTROL});
  EXPECT_EQ(event(flags("R"), true), unsigned{PSP_RX_PSP_MATCH});
}

TEST(Verdict, IsTheTablesAndADropOutsideOfIt) {
  for (unsigned state = 0; state < PSP_STATES; ++state)
    for (unsigned event = 0; event < PSP_RX_EVENTS; ++event)
      EXPECT_EQ(psp_rx_verdict(state, event), psp_rx_table[state][event]);
  EXPECT_EQ(psp_rx_verdict(PSP_STATES, 0), unsigned{PSP_RX_DROP});
  EXPECT_EQ(psp_rx_verdict(0xffffffff, PSP_RX_PSP_MATCH), unsigned{PSP_RX_DROP});
}

psp_u32 judge(const psp_sock& sock, const psp_segment& segment, bool verified = false) {
  return psp_rx_judge(&sock, sock.state, psp_classify(&segment, verified), &segment, verified);
}

TEST(Judge, TakesAClearFinOnlyAtTheLatch) {
  psp_sock sock = in_state(PSP_STATE_TX);
  sock.upgrade_rcv_nxt = 1000;
  EXPECT_NE(judge(sock, flags("FA", 1000)), unsigned{PSP_RX_DROP});
  EXPECT_EQ(judge(sock, flags("FA", 999)), unsigned{PSP_RX_DROP});
  EXPECT_EQ(judge(sock, flags("FA", 1001)), unsigned{PSP_RX_DROP});
  EXPECT_NE(judge(sock, flags("A", 1)), unsigned{PSP_RX_DROP}) << "an ACK with any number";
}

TEST(Judge, LetsInNoClearDataWhileTxAssocLooks) {
  psp_sock sock = in_state(PSP_STATE_RX);
  EXPECT_NE(judge(sock, data(1000, 5)), unsigned{PSP_RX_DROP});
  psp_tx_begin(&sock);
  EXPECT_EQ(judge(sock, data(1000, 5)), unsigned{PSP_RX_DROP});
  EXPECT_EQ(judge(sock, flags("FA")), unsigned{PSP_RX_DROP});
  EXPECT_NE(judge(sock, flags("A")), unsigned{PSP_RX_DROP});
  EXPECT_NE(judge(sock, data(1000, 5), true), unsigned{PSP_RX_DROP}) << "sealed";
}

TEST(NoteClear, RecordsWhereItEnds) {
  psp_sock sock = in_state(PSP_STATE_RX);
  const psp_tcp tcp = established();
  psp_segment segment = data(1000, 20);
  segment.fin = true;
  EXPECT_TRUE(psp_note_clear(&sock, &tcp, &segment));
  EXPECT_EQ(sock.clear_end, PSP_CLEAR_END | 1021);
  segment = flags("AU", 1000);
  segment.urgent = 1100;
  EXPECT_TRUE(psp_note_clear(&sock, &tcp, &segment));
  EXPECT_EQ(sock.clear_end, PSP_CLEAR_END | 1100) << "as far as the pointer reaches";
}

TEST(NoteClear, LeavesOutWhatWasReadAndRefusesWhatEndsBehindTheWindow) {
  psp_sock sock = in_state(PSP_STATE_RX);
  const psp_tcp tcp = established();
  const psp_segment old = data(900, 100), inside = data(1400, 100), beyond = data(1400, 101);
  EXPECT_TRUE(psp_note_clear(&sock, &tcp, &old));
  EXPECT_EQ(sock.clear_end, 0u);
  EXPECT_FALSE(psp_note_clear(&sock, &tcp, &beyond));
  EXPECT_TRUE(psp_note_clear(&sock, &tcp, &inside));
}

TEST(NoteClear, NothingOfASynStaysInAnEstablishedConnection) {
  psp_sock sock = in_state(PSP_STATE_RX);
  const psp_tcp tcp = established();
  psp_segment syn = flags("SA", 1200);
  syn.payload = 10;
  EXPECT_TRUE(psp_note_clear(&sock, &tcp, &syn));
  EXPECT_EQ(sock.clear_end, 0u);
}

TEST(NoteClear, OfAConnectionThatOnlyBeginsABareSynPasses) {
  psp_sock sock = in_state(PSP_STATE_RX);
  psp_tcp tcp{};
  tcp.state = PSP_TCP_SYN_SENT;
  psp_segment syn = flags("SA");
  EXPECT_TRUE(psp_note_clear(&sock, &tcp, &syn));
  syn.payload = 1;
  EXPECT_FALSE(psp_note_clear(&sock, &tcp, &syn));
  const psp_segment ack = flags("A"), urgent = flags("SU"), fin = flags("SF");
  for (const psp_segment& segment : {ack, urgent, fin})
    EXPECT_FALSE(psp_note_clear(&sock, &tcp, &segment));
}

// Of a segment and tx-assoc on two processors one sees the other, whoever is first.
TEST(NoteClear, LosesAgainstATxAssocThatHasClosedTheDoor) {
  const psp_tcp tcp = established();
  const psp_segment segment = data(1000, 5);
  psp_sock sock = in_state(PSP_STATE_RX);
  EXPECT_NE(judge(sock, segment), unsigned{PSP_RX_DROP}) << "judged before";
  psp_tx_begin(&sock);
  EXPECT_FALSE(psp_note_clear(&sock, &tcp, &segment)) << "and noted after";
  EXPECT_EQ(psp_tx_settle(&sock, &tcp, 1, 1, 0), -EBUSY) << "its record is seen";

  sock = in_state(PSP_STATE_RX);
  psp_tx_begin(&sock);
  EXPECT_EQ(psp_tx_settle(&sock, &tcp, 1, 1, 0), 0) << "nothing was recorded";
  EXPECT_FALSE(psp_note_clear(&sock, &tcp, &segment)) << "the state is another by now";
}

TEST(NotePsp, MakesTxFullAndLeavesRxAndFullAlone) {
  const psp_segment segment = data(1000, 5);
  for (const auto& [from, to] : {std::pair{PSP_STATE_RX, PSP_STATE_RX},
                                 {PSP_STATE_TX, PSP_STATE_FULL},
                                 {PSP_STATE_FULL, PSP_STATE_FULL}}) {
    psp_sock sock = in_state(from);
    psp_note_psp(&sock, &segment);
    EXPECT_EQ(sock.state, static_cast<unsigned>(to));
    EXPECT_EQ(sock.peer_tx, 1u);
  }
}

TEST(NotePsp, RemembersWhereSealedDataBegins) {
  psp_sock sock = in_state(PSP_STATE_RX);
  for (const auto& [seq, payload] : {std::pair{1200u, 5u}, {1100u, 5u}, {1300u, 5u}, {1000u, 0u}}) {
    const psp_segment segment = data(seq, payload);
    psp_note_psp(&sock, &segment);
  }
  EXPECT_EQ(sock.psp_start_valid, 1u);
  EXPECT_EQ(sock.psp_start, 1100u);
}

// --- the end of a connection ----------------------------------------------------------------

struct EndRow {
  const char* what;
  psp_u32 tcp_state;
  const char* letters;
  psp_u32 seq, ack_seq;
  bool verified, ends;
};

// Received up to 1000, window 500; sent and written up to 2000.
constexpr EndRow kEnds[] = {
    {"a RST at rcv_nxt", PSP_TCP_ESTABLISHED, "R", 1000, 0, false, true},
    {"a RST elsewhere in the window", PSP_TCP_ESTABLISHED, "R", 1001, 0, false, false},
    {"a sealed one there", PSP_TCP_ESTABLISHED, "R", 1001, 0, true, true},
    {"a sealed one at the end of the window", PSP_TCP_ESTABLISHED, "R", 1500, 0, true, true},
    {"a sealed one behind it", PSP_TCP_ESTABLISHED, "R", 1501, 0, true, false},
    {"a sealed one of before", PSP_TCP_ESTABLISHED, "R", 999, 0, true, false},
    {"an ACK", PSP_TCP_ESTABLISHED, "A", 1000, 2000, true, false},
    {"the peer's FIN alone", PSP_TCP_ESTABLISHED, "FA", 1000, 2000, true, false},
    {"the peer's FIN after ours", PSP_TCP_FIN_WAIT2, "FA", 1000, 2000, false, true},
    {"the same before ours is acknowledged", PSP_TCP_FIN_WAIT1, "FA", 1000, 1999, false, true},
    {"one that is not next", PSP_TCP_FIN_WAIT2, "FA", 1400, 2000, false, false},
    {"a sealed one that is not next", PSP_TCP_FIN_WAIT2, "FA", 1400, 2000, true, true},
    {"the ACK of our FIN, the peer's first", PSP_TCP_LAST_ACK, "A", 1000, 2000, false, true},
    {"an ACK of less", PSP_TCP_LAST_ACK, "A", 1000, 1999, false, false},
    {"the ACK of crossing FINs", PSP_TCP_CLOSING, "A", 1000, 2000, false, true},
    {"a RST in that state goes by its number", PSP_TCP_LAST_ACK, "RA", 990, 2000, false, false},
    {"a refused connect", PSP_TCP_SYN_SENT, "RA", 0, 2000, false, true},
    {"a RST that acknowledges another SYN", PSP_TCP_SYN_SENT, "RA", 0, 1999, false, false},
    {"a RST without ACK", PSP_TCP_SYN_SENT, "R", 1000, 2000, false, false},
};

TEST(Ends, IsSeenAsTcpSeesIt) {
  for (const EndRow& row : kEnds) {
    psp_tcp tcp = established();
    tcp.state = row.tcp_state;
    const psp_segment segment = flags(row.letters, row.seq, row.ack_seq);
    EXPECT_EQ(psp_ends(&tcp, &segment, row.verified), row.ends) << row.what;
    EXPECT_TRUE(psp_may_end(row.tcp_state, &segment) || !row.ends) << row.what;
  }
}

TEST(Ends, ASocketThatSendsMoreGoesOn) {
  const psp_segment payload = data(2000, 1), ack = flags("A"), fin = flags("FA"), rst = flags("R"),
                    syn = flags("S");
  EXPECT_TRUE(psp_goes_on(&payload) && psp_goes_on(&rst) && psp_goes_on(&syn));
  EXPECT_FALSE(psp_goes_on(&ack) || psp_goes_on(&fin));
}

TEST(Begin, NothingOfAnEarlierConnectionsNumbersHolds) {
  psp_sock rx = in_state(PSP_STATE_RX), tx = in_state(PSP_STATE_TX);
  rx.clear_end = PSP_CLEAR_END | 1;
  rx.psp_start_valid = 1;
  psp_begin(&rx);
  EXPECT_EQ(rx.clear_end + rx.psp_start_valid, 0u);
  tx.tuple_noted = 1;
  psp_begin(&tx);
  EXPECT_EQ(tx.clear_done, 1u) << "all of it is sealed";
  EXPECT_EQ(tx.tuple_noted, 0u);
}

// --- what goes ------------------------------------------------------------------------------

TEST(TxForm, CutsAtTheClearBoundary) {
  psp_sock sock = in_state(PSP_STATE_TX);
  sock.clear_boundary = 2000;
  const auto form = [&](const psp_segment& segment) { return psp_tx_form(&sock, &segment); };
  EXPECT_EQ(form(data(1900, 100)), unsigned{PSP_TX_CLEAR});
  EXPECT_EQ(form(data(1900, 101)), unsigned{PSP_TX_SPAN});
  EXPECT_EQ(form(data(2000, 1)), unsigned{PSP_TX_SEALED});
  EXPECT_EQ(form(flags("A", 1900)), unsigned{PSP_TX_SEALED}) << "no octet of before";
  psp_segment fin = data(1900, 100);
  fin.fin = true;
  EXPECT_EQ(form(fin), unsigned{PSP_TX_SPAN}) << "the FIN is new";
  EXPECT_FALSE(psp_all_acknowledged(&sock, 1999));
  EXPECT_TRUE(psp_all_acknowledged(&sock, 2000));
}

TEST(TxForm, TellsWhatWasSentBefore) {
  psp_segment segment = data(1900, 100);
  EXPECT_TRUE(psp_is_again(2000, &segment));
  EXPECT_FALSE(psp_is_again(1999, &segment));
  segment.fin = true;
  EXPECT_FALSE(psp_is_again(2000, &segment));
}

// --- connections whose socket has gone -------------------------------------------------------

TEST(Departed, OnlyWhatTheKernelItselfSendsIsBare) {
  const psp_segment ack = flags("A"), rst = flags("R"), fin = flags("FA"), payload = data(1, 1);
  EXPECT_TRUE(psp_is_bare(&ack) && psp_is_bare(&rst));
  EXPECT_FALSE(psp_is_bare(&fin) || psp_is_bare(&payload));
}

TEST(Departed, RefusesLateClearSegmentsAsTheStateDid) {
  const psp_segment ack = flags("A"), fin = flags("FA"), syn = flags("S"), payload = data(1, 1);
  EXPECT_TRUE(psp_is_refused_late(&syn, false) && psp_is_refused_late(&payload, false));
  EXPECT_FALSE(psp_is_refused_late(&ack, false) || psp_is_refused_late(&fin, false));
  EXPECT_TRUE(psp_is_refused_late(&ack, true)) << "it was PSP Full";
}

TEST(Departed, ALaterConnectionBeginsWithABareSynAheadOrWithATimestamp) {
  const psp_segment ahead = flags("S", 1001), not_ahead = flags("S", 1000);
  EXPECT_TRUE(psp_begins(&ahead, 1000, false));
  EXPECT_FALSE(psp_begins(&not_ahead, 1000, false));
  EXPECT_TRUE(psp_begins(&not_ahead, 1000, true));
  for (const char* letters : {"SA", "SR", "SF", "A"}) {
    const psp_segment other = flags(letters, 1001);
    EXPECT_FALSE(psp_begins(&other, 1000, true)) << letters;
  }
}

TEST(Blocked, IsAnotherPspdsAssociationThatSealsOrWasAboutTo) {
  psp_sock sock = in_state(PSP_STATE_RX);
  EXPECT_FALSE(psp_blocked(&sock, kEpoch + 1));
  sock.pending_tx = 1;
  EXPECT_TRUE(psp_blocked(&sock, kEpoch + 1));
  sock = in_state(PSP_STATE_FULL);
  EXPECT_TRUE(psp_blocked(&sock, kEpoch + 1));
  EXPECT_FALSE(psp_blocked(&sock, kEpoch));
}

}  // namespace
