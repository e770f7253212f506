// SPDX-License-Identifier: Apache-2.0
//
// What is kept of a packet, how many are kept, and how many are taken in a second. The time is
// given: no test waits for it. A flood must cost no more than its first packets, and a new second
// must be open to what comes then. Workers that offer at the same time are not tried here. What of
// a packet is offered: datapath/rx_path_test.cc and tx_path_test.cc.
#include "device/packet_log.hh"

#include <gtest/gtest.h>

namespace psp::device {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
using Octets = std::vector<std::uint8_t>;

TEST(PacketLog, KeepsWhatItIsGiven) {
  PacketLog log;
  const Octets head = {1, 2}, rest = {3, 4, 5};
  log.offer(7 * kSecond, PacketPath::kReceive, Drop::AUTH_FAIL, 5, head, rest);
  log.offer(8 * kSecond, PacketPath::kTransmit, std::nullopt, 2, head, {});
  const auto packets = log.packets();
  ASSERT_EQ(packets.size(), 2u);
  EXPECT_EQ(packets[0].number, 1u);
  EXPECT_EQ(packets[0].nanoseconds, 7 * kSecond);
  EXPECT_EQ(packets[0].reason, Drop::AUTH_FAIL);
  EXPECT_EQ(packets[0].octets, (Octets{1, 2, 3, 4, 5}));
  EXPECT_EQ(packets[1].path, PacketPath::kTransmit);
  EXPECT_FALSE(packets[1].reason);
}

TEST(PacketLog, KeepsTheBeginningOfALongPacket) {
  PacketLog log;
  const Octets packet(5000, 7);
  log.offer(0, PacketPath::kReceive, Drop::AUTH_FAIL, 5028, std::span(packet).first(28), packet);
  log.offer(0, PacketPath::kTransmit, Drop::TX_TOO_BIG, 5000, std::span(packet).first(40), {});
  const auto packets = log.packets();
  EXPECT_EQ(packets[0].octets.size(), PacketLog::kOctets);
  EXPECT_EQ(packets[0].length, 5028u);
  EXPECT_EQ(packets[1].octets.size(), 40u);
  EXPECT_EQ(packets[1].length, 5000u);
}

TEST(PacketLog, TakesOnlySoManyInASecond) {
  PacketLog log;
  const Octets packet = {1};
  for (int i = 0; i < 100'000; ++i)
    log.offer(5 * kSecond + 1, PacketPath::kReceive, Drop::AUTH_FAIL, 1, packet, {});
  EXPECT_EQ(log.packets().back().number, PacketLog::kPerSecond);
  log.offer(6 * kSecond, PacketPath::kReceive, Drop::BAD_SPI, 1, packet, {});
  const auto packets = log.packets();
  EXPECT_EQ(packets.size(), PacketLog::kPackets) << "the newest";
  EXPECT_EQ(packets.back().reason, Drop::BAD_SPI);
  EXPECT_EQ(packets.back().number, PacketLog::kPerSecond + 1);
}

}  // namespace
}  // namespace psp::device
