// SPDX-License-Identifier: Apache-2.0
//
// The model of TCP by itself: two sockets over a line that a test can do with what it likes. Each
// octet that is read is compared with what the stream has at its place; time is virtual, so
// timeouts cost none.
//
// Shown is what the runs rely on: order, losses, windows, ends, resets, and that a forged octet
// that comes first is read. No programs run here and nothing is sealed. That Linux does the same is
// by reading (docs/simulation.md).
#include "tcp.hh"

#include <algorithm>
#include <cerrno>
#include <gtest/gtest.h>

#include "line.hh"

namespace psp::sim {
namespace {

// Connected is a line whose server offers nothing.
struct Connected : Line {
  Connected() { connect(); }
};

// segment_of begins where the client's stream does.
Segment segment_of(const Line& line, std::size_t size, bool fin) {
  Segment segment{.tuple = line.client->tuple, .seq = line.client->iss + 1};
  segment.ack_seq = line.server->snd_nxt;
  segment.ack = true;
  segment.fin = fin;
  segment.window = 60000;
  segment.payload.resize(size);
  return segment;
}

TEST(TcpTest, Connects) {
  const Connected line;
  EXPECT_EQ(line.client->state, unsigned{PSP_TCP_ESTABLISHED});
  EXPECT_EQ(line.client->snd_nxt, line.server->rcv_nxt);
}

TEST(TcpTest, DeliversWhatIsWrittenInOrder) {
  Connected line;
  EXPECT_EQ(line.client->write(50000), 50000u);
  line.run();
  EXPECT_EQ(line.receive_all(), 50000u);
  EXPECT_EQ(line.client->snd_una, line.client->write_seq);
}

TEST(TcpTest, SendsAgainWhatWasLost) {
  Connected line;
  unsigned number = 0;
  line.lose = [&number](const Segment& segment) {
    return !segment.payload.empty() && number++ % 3 == 0;
  };
  line.client->write(30000);
  line.run();
  EXPECT_EQ(line.receive_all(), 30000u);
}

TEST(TcpTest, AThirdDuplicateAckMakesItSendAtOnce) {
  Connected line;
  line.client->write(1000);
  line.run();
  line.receive_all();
  unsigned number = 0;
  line.lose = [&number](const Segment& segment) {
    return !segment.payload.empty() && number++ == 0;
  };
  for (int i = 0; i < 6; ++i) line.client->write(100);
  line.run(100 * kMillisecond);  // less than the first timeout
  EXPECT_EQ(line.receive_all(), 600u);
}

TEST(TcpTest, GivesUpWhenNobodyAnswers) {
  Connected line;
  line.lose = [](const Segment&) { return true; };
  line.client->write(1);
  line.run(100 * kSecond);
  EXPECT_EQ(line.client->error, ETIMEDOUT);
  EXPECT_EQ(line.hosts[0].unhashed, 1);
}

TEST(TcpTest, AWindowThatIsFullOpensAgain) {
  Connected line;
  line.client->write(150000);
  line.run();
  std::size_t all = 0;
  for (int i = 0; i < 20; ++i) {
    all += line.receive_all();
    line.run();
  }
  EXPECT_EQ(all, 150000u);
}

TEST(TcpTest, BothSayFinAndOneIsLeftInTimeWait) {
  Connected line;
  line.client->write(10);
  line.client->shutdown();
  line.run();
  EXPECT_EQ(line.receive_all(), 10u);
  EXPECT_TRUE(line.server->at_end());
  line.server->close();
  line.run();
  EXPECT_EQ(line.hosts[0].time_waits, std::vector<unsigned>{PSP_TCP_TIME_WAIT});
  EXPECT_TRUE(line.hosts[1].time_waits.empty());
  EXPECT_EQ(line.hosts[1].ended, 1);
}

TEST(TcpTest, AnOrphanInFinWait2IsATimeWaitToo) {
  Connected line;
  line.client->close();
  line.run();
  EXPECT_EQ(line.hosts[0].time_waits, std::vector<unsigned>{PSP_TCP_FIN_WAIT2});
}

TEST(TcpTest, WhoClosesWithoutReadingResets) {
  Connected line;
  line.client->write(10);
  line.run();
  line.server->close();
  line.run();
  EXPECT_EQ(line.client->error, ECONNRESET);
  EXPECT_TRUE(line.client->is_over());
}

TEST(TcpTest, AResetCountsOnlyAtTheRightPlace) {
  Connected line;
  Segment reset{.tuple = line.client->tuple, .seq = line.server->rcv_nxt + 1};
  reset.rst = true;
  line.server->receive(reset);
  EXPECT_FALSE(line.server->is_over());
  reset.seq = line.server->rcv_nxt;
  line.server->receive(reset);
  EXPECT_TRUE(line.server->is_over());
}

TEST(TcpTest, TheFirstCopyOfAnOctetStands) {
  Connected line;
  Segment ahead{.tuple = line.client->tuple,
                .seq = line.server->rcv_nxt + 5,
                .ack_seq = line.server->snd_nxt};
  ahead.ack = true;
  ahead.payload = {9, 9, 9};
  line.server->receive(ahead);
  line.client->write(10);
  line.run();
  const Octets read = line.server->read(100);
  ASSERT_EQ(read.size(), 10u);
  for (std::uint32_t i = 0; i < 10; ++i)
    EXPECT_EQ(read[i], i >= 5 && i < 8 ? 9 : content_octet(1, i));
}

TEST(TcpTest, NothingComesBehindAFin) {
  Connected line;
  Segment fin{
      .tuple = line.client->tuple, .seq = line.server->rcv_nxt, .ack_seq = line.server->snd_nxt};
  fin.ack = fin.fin = true;
  line.server->receive(fin);
  line.client->write(10);
  line.run(kSecond);
  EXPECT_EQ(line.server->readable(), 0u);
  EXPECT_TRUE(line.server->at_end());
}

TEST(TcpTest, ADisconnectedSocketConnectsAgain) {
  Connected line;
  const Tuple tuple = line.client->tuple;
  line.client->disconnect();
  EXPECT_TRUE(line.client->is_over());
  EXPECT_EQ(line.hosts[0].ended, 0) << "its application has it still";
  line.client->connect(tuple);
  line.run();
  EXPECT_EQ(line.client->state, unsigned{PSP_TCP_ESTABLISHED});
}

TEST(TcpTest, WhatTheApplicationSaysIsSentAndTheStreamAroundIt) {
  Connected line;
  line.client->write(5);
  line.run();
  EXPECT_EQ(line.receive_all(), 5u);
  const Octets said = {'s', 'a', 'i', 'd'};
  line.client->write(said);
  line.run();
  EXPECT_EQ(line.server->peek(100), said);
  EXPECT_EQ(line.server->read(100), said);
  line.client->write(2000);
  line.run();
  EXPECT_EQ(line.receive_all(), 2000u);
}

TEST(TcpTest, WhatTheApplicationSaysIsSentAgainAsItWas) {
  Connected line;
  const Octets said(3000, 'x');
  unsigned lost = 0;
  line.lose = [&](const Segment& segment) { return !segment.payload.empty() && ++lost < 4; };
  line.client->write(said);
  line.run();
  EXPECT_EQ(line.server->read(5000), said);
}

TEST(TcpTest, ByNagleASmallSegmentWaitsForTheAckOfAnother) {
  Connected line;
  line.client->nagle = true;
  line.client->write(10);
  line.client->write(10);
  line.client->write(10);
  line.sent.clear();
  line.run();
  EXPECT_EQ(std::ranges::count_if(line.sent, [](const Segment& s) { return !s.payload.empty(); }),
            1)
      << "two in one, behind the first";
  EXPECT_EQ(line.receive_all(), 30u);
}

TEST(TcpTest, AFinAloneHasNoPush) {
  Connected line;
  line.client->shutdown();
  ASSERT_TRUE(line.sent.back().fin);
  EXPECT_FALSE(line.sent.back().psh);
}

TEST(TcpTest, AnOrphanTakesAFinThatAcknowledgesItsOwn) {
  Connected line;
  line.lose = [](const Segment&) { return true; };
  line.server->close();
  Segment fin = segment_of(line, 0, true);
  fin.ack_seq = line.server->snd_nxt;
  line.arrive(1, fin);
  EXPECT_EQ(line.hosts[1].time_waits, std::vector<unsigned>{PSP_TCP_TIME_WAIT});
  EXPECT_EQ(line.sent.back().ack_seq, fin.end());
}

TEST(TcpTest, AnOrphanThatTheRestOfAStreamDoesNotReachEnds) {
  Connected line;
  line.lose = [](const Segment&) { return true; };
  line.server->close();
  Segment fin = segment_of(line, 0, true);
  fin.ack_seq = line.server->snd_nxt;
  fin.seq += 100;  // what is before it is lost
  line.arrive(1, fin);
  EXPECT_FALSE(line.server->is_over());
  line.run(61 * kSecond);
  EXPECT_TRUE(line.server->is_over());
}

TEST(TcpTest, DataThatRunsOverTheEndIsRefusedByNoSocket) {
  Connected line;
  line.arrive(1, segment_of(line, 0, true));
  ASSERT_TRUE(line.server->at_end());
  line.sent.clear();
  line.arrive(1, segment_of(line, 10, false));
  EXPECT_TRUE(line.server->is_over());
  ASSERT_EQ(line.sent.size(), 1u);
  EXPECT_TRUE(line.sent[0].rst && !line.sent[0].ack);
}

}  // namespace
}  // namespace psp::sim
