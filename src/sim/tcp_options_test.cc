// SPDX-License-Identifier: Apache-2.0
//
// What SYNs agree on, timestamps, SACK and a path that shrinks: the model of TCP over a line of its
// own (line.hh), whose server offers all. Options are read as they were written, in the form that
// Linux gives them. Which options a client offers is drawn, so the first seed that fits is taken.
#include "tcp_options.hh"

#include <cerrno>
#include <gtest/gtest.h>
#include <vector>

#include "line.hh"

namespace psp::sim {
namespace {

const Options kAll{
    .mss = 1460, .sack_permitted = true, .scales = true, .scale = 7, .timestamps = true};

// AgreedLine is one whose client has offered all that the server does.
struct AgreedLine : Line {
  AgreedLine() : Line(kAll) {}
  bool agrees() const { return server->agreed.sack && server->agreed.timestamps; }
};

// agreed is the first line, by the chance of its client, with SACK and timestamps.
std::unique_ptr<AgreedLine> agreed() {
  for (std::uint64_t seed = 1;; ++seed) {
    auto line = std::make_unique<AgreedLine>();
    line->random = Random(seed);
    line->connect();
    if (line->agrees()) return line;
  }
}

TEST(TcpOptionsTest, AreReadAsTheyWereWritten) {
  Options ack{.timestamps = true, .value = 1, .echo = 2, .blocks = 3};
  ack.sack = {SackBlock{1, 2}, {3, 4}, {5, 6}, {}};
  const Options only{.mss = 536, .sack_permitted = true};
  for (const Options& options : {kAll, ack, only, Options{}}) {
    std::vector<std::uint8_t> octets(size_of(options));
    EXPECT_LE(octets.size(), 40u);
    EXPECT_EQ(octets.size() % 4, 0u);
    write_options(options, octets);
    EXPECT_EQ(parse_options(octets), options);
  }
}

TEST(TcpOptionsTest, WhatIsCutShortIsNotHeard) {
  std::vector<std::uint8_t> octets(size_of(kAll));
  write_options(kAll, octets);
  for (std::size_t size = 0; size < octets.size(); ++size)
    EXPECT_NE(parse_options(std::span(octets).first(size)), kAll);
}

TEST(TcpOptionsTest, OnlyWhatBothOfferIsAgreedOn) {
  const Options none{.mss = 900};
  const Agreed agreed = agree(kAll, none);
  EXPECT_EQ(agreed.mss, 900);
  EXPECT_FALSE(agreed.sack || agreed.timestamps);
  EXPECT_EQ(agreed.receive_scale, 0);
  EXPECT_EQ(agree(none, kAll).send_scale, 0);
  EXPECT_EQ(agree(kAll, kAll).send_scale, 7);
}

TEST(TcpOptionsTest, TimestampsMakeSegmentsSmaller) {
  const auto line = agreed();
  EXPECT_EQ(line->client->maximum_segment(), 1448u);
  EXPECT_EQ(line->sent.back().options.timestamps, true);
}

TEST(TcpOptionsTest, AnOldTimestampIsRefusedAndAnswered) {
  const auto line = agreed();
  Segment old{
      .tuple = line->client->tuple, .seq = line->server->rcv_nxt, .ack_seq = line->server->snd_nxt};
  old.ack = true;
  old.payload = {1, 2, 3};
  old.options = {.timestamps = true, .value = line->server->recent - 1000};
  const std::size_t before = line->sent.size();
  line->server->receive(old);
  EXPECT_EQ(line->server->readable(), 0u);
  EXPECT_EQ(line->sent.size(), before + 1);
}

TEST(TcpOptionsTest, OnlyTheHoleIsSentAgain) {
  const auto line = agreed();
  unsigned number = 0;
  line->lose = [&number](const Segment& segment) {
    return !segment.payload.empty() && number++ == 0;
  };
  for (int i = 0; i < 6; ++i) line->client->write(100);
  line->sent.clear();
  line->run(100 * kMillisecond);  // less than the first timeout
  EXPECT_EQ(line->receive_all(), 600u);
  std::size_t octets = 0, blocks = 0;
  for (const Segment& segment : line->sent) {
    octets += segment.payload.size();
    blocks += segment.options.blocks;
  }
  EXPECT_LE(octets, 100u);
  EXPECT_GT(blocks, 0u);
}

TEST(TcpOptionsTest, WhatComesTwiceIsReported) {
  const auto line = agreed();
  line->client->write(100);
  const Segment first = line->sent.back();
  line->run();
  line->sent.clear();
  line->server->receive(first);
  ASSERT_FALSE(line->sent.empty());
  const Options& options = line->sent.back().options;
  ASSERT_EQ(options.blocks, 1);
  EXPECT_EQ(options.sack[0], (SackBlock{first.seq, first.end()}));
}

TEST(TcpOptionsTest, WhatIsTooBigGoesAgainInSmallerSegments) {
  const auto line = agreed();
  line->lose = [](const Segment& segment) {
    return std::max<std::size_t>(segment.gso_size, segment.payload.size()) > 1000;
  };
  line->client->write(1400);
  line->hosts[0].path = 1000;
  line->client->path_shrank();
  EXPECT_EQ(line->client->maximum_segment(), 948u);
  line->run(20 * kMillisecond);
  line->lose = {};
  line->run();
  EXPECT_EQ(line->receive_all(), 1400u);
}

TEST(TcpOptionsTest, AnErrorEndsOnlyWhatIsNotConnected) {
  const auto line = agreed();
  line->client->unreachable(ECONNREFUSED);
  EXPECT_FALSE(line->client->is_over());
  auto socket = std::make_shared<Tcp>(line->hosts[0], 3);
  socket->connect(Tuple{});
  socket->unreachable(ECONNREFUSED);
  EXPECT_EQ(socket->error, ECONNREFUSED);
}

}  // namespace
}  // namespace psp::sim
