// SPDX-License-Identifier: Apache-2.0
//
// get-stats is exact: a known exchange, and one packet of each bad class. A packet must count once
// and in one counter; the others are compared too, and must be as before.
//
// What is sent is counted against the cable, over the whole life of pspd, since TCP repeats what it
// likes. Octets are those from behind the IV to the ICV, as the specification counts. Which counter
// a class belongs to is the specification's word. The reasons that pspd has beside the counters are
// in state_table_test.cc.
#include <gtest/gtest.h>

#include "wire/bytes.hh"
#include "wire/packet.hh"

#include "puppet.hh"

namespace psp::lab {
namespace {

class Statistics : public PuppetTest {
 protected:
  void SetUp() override {
    PuppetTest::SetUp();
    if (IsSkipped()) return;
    puppet_.emplace(*lab_, GetParam(), PSP_STATE_FULL);
    before_ = lab_->stats(From::kA);
  }
  void TearDown() override { puppet_.reset(); }

  Octets good() const {
    const Segment data = {
        .seq = puppet_->seq(), .ack = puppet_->ack(), .payload = random_octets(100)};
    return seal(clear_packet(puppet_->flow(), From::kB, data), with(kVersion, puppet_->rx()));
  }
  std::size_t psp_at() const {
    return (puppet_->flow().family == 4 ? kIpv4Header : kIpv6Header) + kUdpHeader;
  }
  // shortened cuts the packet and makes the IP and UDP lengths agree with that.
  Octets shortened(std::size_t size) const {
    Octets packet = good();
    packet.resize(size);
    const std::size_t ip = psp_at() - kUdpHeader;
    wire::set_ip_payload(packet,
                         {.family = static_cast<std::uint8_t>(puppet_->flow().family),
                          .header_length = static_cast<std::uint16_t>(ip)},
                         size - ip, wire::kProtocolUdp);
    wire::store_be(packet.data() + ip + 4, static_cast<std::uint16_t>(size - ip));
    return packet;
  }

  // expect_only: `counter` is one more than before, all the others of receive as before.
  void expect_only(std::uint64_t StatsInfo::*counter) {
    EXPECT_TRUE(eventually([&] { return lab_->stats(From::kA).*counter == before_.*counter + 1; }));
    const StatsInfo now = lab_->stats(From::kA);
    for (auto other : {&StatsInfo::rx_packets, &StatsInfo::rx_bytes, &StatsInfo::rx_auth_fail,
                       &StatsInfo::rx_error, &StatsInfo::rx_bad}) {
      EXPECT_EQ(now.*other, before_.*other + (other == counter ? 1 : 0));
    }
    EXPECT_EQ(pending(puppet_->fd()), Octets());
  }

  std::optional<Puppet> puppet_;
  StatsInfo before_;
};

TEST_P(Statistics, CountPacketsAndOctetsOfAKnownExchange) {
  constexpr std::size_t kTcpHeader = 20, kSizes[] = {1, 100, 1000};
  std::uint32_t at = 0;
  for (const std::size_t size : kSizes) {
    puppet_->send_sealed(
        {.seq = puppet_->seq(at), .ack = puppet_->ack(), .payload = random_octets(size)});
    at += static_cast<std::uint32_t>(size);
  }
  EXPECT_EQ(receive(puppet_->fd(), at).size(), at);
  // From behind the IV to the ICV: what is inside.
  const StatsInfo now = lab_->stats(From::kA);
  EXPECT_EQ(now.rx_packets, before_.rx_packets + std::size(kSizes));
  EXPECT_EQ(now.rx_bytes, before_.rx_bytes + at + std::size(kSizes) * kTcpHeader);
  EXPECT_EQ(now.rx_auth_fail + now.rx_error + now.rx_bad,
            before_.rx_auth_fail + before_.rx_error + before_.rx_bad);
  const auto info = lab_->association(From::kA, puppet_->fd());
  ASSERT_TRUE(info);
  EXPECT_EQ(info->rx_packets, 1 + std::size(kSizes));  // and the one that made it FULL
  EXPECT_EQ(info->rx_bytes, at);
}

// All that this pspd ever sealed: sockets of earlier tests may still be sending.
TEST_P(Statistics, CountWhatIsSentAsTheWireSeesIt) {
  send_all(puppet_->fd(), random_octets(50'000));
  EXPECT_TRUE(puppet_->sealed_by_a(
      0, [](const Segment& segment) { return segment.payload.size() > 1000; }));
  StatsInfo now;
  std::uint64_t packets = 0, octets = 0;
  EXPECT_TRUE(eventually([&] {
    packets = octets = 0;
    for (const Seen& seen : cable().since(0)) {
      if (seen.from != From::kA || !seen.psp) continue;
      const std::size_t ip = seen.octets[0] >> 4 == 4 ? kIpv4Header : kIpv6Header;
      packets++;
      octets += seen.size - ip - kTransportOverhead;
    }
    now = lab_->stats(From::kA);
    return now.tx_packets == packets && now.tx_bytes == octets;
  })) << packets
      << " packets, " << octets << " octets; counted " << now.tx_packets << ", " << now.tx_bytes;
  EXPECT_EQ(now.tx_error, 0u);
}

TEST_P(Statistics, CountAWrongIcvAsAuthFail) {
  Octets packet = good();
  packet.back() ^= 0x80;
  puppet_->send_packet(packet);
  expect_only(&StatsInfo::rx_auth_fail);
}

TEST_P(Statistics, CountAChangedPayloadAsAuthFail) {
  Octets packet = good();
  packet[psp_at() + kPspBaseHeader + 30] ^= 1;
  puppet_->send_packet(packet);
  expect_only(&StatsInfo::rx_auth_fail);
}

TEST_P(Statistics, CountATruncatedPacketAsError) {
  puppet_->send_packet(shortened(psp_at() + kPspBaseHeader + kIcv - 1));
  expect_only(&StatsInfo::rx_error);
}

TEST_P(Statistics, CountALengthThatDoesNotAgreeAsError) {
  Octets packet = good();
  wire::store_be(packet.data() + psp_at() - kUdpHeader + 4,
                 static_cast<std::uint16_t>(packet.size()));
  puppet_->send_packet(packet);
  expect_only(&StatsInfo::rx_error);
}

TEST_P(Statistics, CountAMissingFixedBitAsError) {
  Octets packet = good();
  packet[psp_at() + 3] &= 0xfe;
  puppet_->send_packet(packet);
  expect_only(&StatsInfo::rx_error);
}

TEST_P(Statistics, CountACryptOffsetBeyondTheEndAsError) {
  Octets packet = shortened(psp_at() + kPspBaseHeader + 20 + kIcv);
  packet[psp_at() + 2] |= 63;
  puppet_->send_packet(packet);
  expect_only(&StatsInfo::rx_error);
}

TEST_P(Statistics, CountAReservedSpiAsBad) {
  for (const std::uint32_t spi : {0u, Spi::kPhaseBit}) {
    Octets packet = good();
    wire::store_be(packet.data() + psp_at() + 4, spi);
    puppet_->send_packet(packet);
    expect_only(&StatsInfo::rx_bad);
    before_ = lab_->stats(From::kA);
  }
}

TEST_P(Statistics, CountAnUnknownVersionAsBad) {
  for (std::uint8_t version = 4; version < 16; version++) {
    Octets packet = good();
    packet[psp_at() + 3] = static_cast<std::uint8_t>(version << 2 | 1);
    puppet_->send_packet(packet);
    expect_only(&StatsInfo::rx_bad);
    before_ = lab_->stats(From::kA);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Statistics, testing::Values(Kind::kIpv4, Kind::kIpv6),
                         kind_param);

}  // namespace
}  // namespace psp::lab
