// SPDX-License-Identifier: Apache-2.0
//
// What psp_ingress does by the socket of a packet: opened segments pass only to the socket whose
// association they were opened under, and ICMP about a PSP packet becomes ICMP about the TCP
// segment inside, if there is such a connection.
#include <time.h>

#include "wire/checksum.hh"

#include "programs_fixture.hh"

namespace psp::kernel {
namespace {

class DeliverTest : public ConnectedTest {
 protected:
  static Row dropped(const char* what, Octets in, Drop reason) {
    return {.what = what,
            .program = "psp_ingress",
            .in = std::move(in),
            .verdict = kShot,
            .mark = Mark::kOurs,
            .counted = reason};
  }
};

// At the end of the walk, TC_ACT_OK: nobody behind may wipe the proof.
TEST_P(DeliverTest, AMatchingSegmentPassesWithoutItsTag) {
  associate();
  const Octets in = opened(1, 3, kSpi);
  Octets untagged = in;
  std::ranges::copy(kNoMac, untagged.begin() + kSourceMac);
  check({.what = "as the association has it",
         .program = "psp_ingress",
         .in = in,
         .verdict = TC_ACT_OK,
         .out = untagged,
         .mark = Mark::kOurs});
}

TEST_P(DeliverTest, AnySegmentThatDiffersIsDropped) {
  associate();
  check(dropped("another version", opened(0, 3, kSpi), Drop::POLICY_MISMATCH));
  check(dropped("another generation", opened(1, 4, kSpi), Drop::POLICY_MISMATCH));
  check(dropped("another phase of the SPI", opened(1, 3, kSpi ^ 1u << 31), Drop::POLICY_MISMATCH));
  check(dropped("another SPI", opened(1, 3, kSpi + 1), Drop::POLICY_MISMATCH));
}

TEST_P(DeliverTest, AnotherDevicesDaemonsOrNamespacesAssociationDoesNotMatch) {
  const auto check_with = [this](const char* what, void (*change)(psp_sock&)) {
    associate(change);
    check(dropped(what, opened(1, 3, kSpi), Drop::POLICY_MISMATCH));
  };
  check_with("another device's", [](psp_sock& sock) { sock.rx.dev_id = kDevId + 1; });
  check_with("another pspd's", [](psp_sock& sock) { sock.epoch++; });
  check_with("another namespace's", [](psp_sock& sock) { sock.netns++; });
}

TEST_P(DeliverTest, AnAssociationDiesAtTheSecondRotationForGood) {
  associate([](psp_sock& sock) { sock.rx.rotation = 5; });
  for (const std::uint32_t alive : {5u, 6u}) {
    ASSERT_TRUE(programs_->set_rotation(alive));
    EXPECT_EQ(deliver().verdict, TC_ACT_OK) << alive;
  }
  // 128 later the generation is the same again.
  for (const std::uint32_t dead : {7u, 5u + 128, 6u + 128, 4u}) {
    ASSERT_TRUE(programs_->set_rotation(dead));
    EXPECT_EQ(deliver().verdict, kShot) << dead;
  }
  EXPECT_EQ(drops(Drop::POLICY_MISMATCH), 4u);
}

TEST_P(DeliverTest, ASocketWithoutAssociationGetsNothing) {
  check(dropped("no association", opened(1, 3, kSpi), Drop::POLICY_NO_ASSOC));
  flow_.local_port++;
  check(dropped("no socket, or the listener", opened(1, 3, kSpi), Drop::POLICY_NO_ASSOC));
}

TEST_P(DeliverTest, WithoutTheMarkNothingIsVerified) {
  associate();
  for (const Mark mark : {Mark::kNone, Mark::kAnother})
    check({.what = "a tag without the mark: not even looked at",
           .program = "psp_ingress",
           .in = opened(1, 3, kSpi),
           .verdict = kNext,
           .mark = mark,
           .mark_out = mark});
}

// too_big is an ICMP message that quotes a PSP packet of the flow, from its local end, with `spi`.
Octets too_big(unsigned family, std::uint32_t spi, std::uint16_t mtu, unsigned age_s = 1) {
  Octets quoted = psp_packet(family);
  quoted.erase(quoted.begin(), quoted.begin() + 14);
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  const std::size_t psp = (family == 4 ? 20 : 40) + 8;
  wire::store_be(&quoted[psp + 4], spi);
  wire::store_be(&quoted[psp + 8],
                 (static_cast<std::uint64_t>(now.tv_sec) - age_s) * 1'000'000'000'000u);
  Octets frame = ethernet(family);
  append_ip(frame, family, family == 4 ? 1 : 58, 8 + quoted.size());
  const std::size_t at = frame.size();
  frame.resize(at + 8);
  frame[at] = family == 4 ? 3 : 2;
  frame[at + 1] = family == 4 ? 4 : 0;
  wire::store_be(&frame[at + 6], mtu);
  frame.insert(frame.end(), quoted.begin(), quoted.end());
  // Any sum will do: what counts is that it stays as right or wrong as it was.
  const std::uint64_t sum = wire::checksum_add(0, std::span(frame).subspan(at));
  wire::store_be(&frame[at + 2], static_cast<std::uint16_t>(~wire::checksum_fold(sum)));
  return frame;
}

class TooBigTest : public ConnectedTest {
 protected:
  static constexpr std::uint32_t kTxSpi = 0x00c0ffee;

  static Row left_alone(std::string what, Octets in) {
    return {
        .what = std::move(what), .program = "psp_ingress", .in = std::move(in), .verdict = kNext};
  }

  void connect_by_spi(std::uint64_t netns = here_) {
    associate([](psp_sock& sock) { sock.state = PSP_STATE_TX; });
    psp_tx_spi key{};
    psp_tuple tuple{};
    key.family = tuple.family = GetParam();
    key.netns = tuple.netns = netns;
    key.spi = htonl(kTxSpi);
    if (GetParam() == 4)
      wire::store_be<std::uint32_t>(key.remote, INADDR_LOOPBACK);
    else
      key.remote[15] = 1;
    std::copy_n(key.remote, 16, tuple.local);
    std::copy_n(key.remote, 16, tuple.remote);
    tuple.local_port = htons(flow_.local_port);
    tuple.remote_port = htons(flow_.remote_port);
    ASSERT_EQ(bpf_map_update_elem(shared_->maps().by_tx_spi, &key, &tuple, BPF_ANY), 0);
  }
};

TEST_P(TooBigTest, SpeaksOfTheTcpSegmentInside) {
  connect_by_spi();
  const Octets frame = too_big(GetParam(), kTxSpi, 1400);
  const Outcome outcome = run("psp_ingress", frame);
  EXPECT_EQ(outcome.verdict, kNext);
  const std::size_t icmp = 14 + (GetParam() == 4 ? 20 : 40), quoted = icmp + 8;
  const std::size_t l4 = quoted + (GetParam() == 4 ? 20 : 40);
  EXPECT_EQ(outcome.frame[quoted + (GetParam() == 4 ? 9 : 6)], 6) << "TCP";
  EXPECT_EQ(wire::load_be<std::uint16_t>(&outcome.frame[l4]), flow_.local_port);
  EXPECT_EQ(wire::load_be<std::uint16_t>(&outcome.frame[l4 + 2]), flow_.remote_port);
  EXPECT_EQ(wire::load_be<std::uint16_t>(&outcome.frame[icmp + 6]), 1400) << "the MTU stays";
  EXPECT_EQ(wire::checksum_fold(wire::checksum_add(0, std::span(outcome.frame).subspan(icmp))),
            0xffff);
}

TEST_P(TooBigTest, IsLeftAloneIfTheSpiIsNobodys) {
  connect_by_spi();
  check(left_alone("nobody's SPI", too_big(GetParam(), kTxSpi + 1, 1400)));
}

TEST_P(TooBigTest, IsLeftAloneIfTheSpiIsAnotherNamespaces) {
  connect_by_spi(here_ + 1);
  check(left_alone("another namespace's SPI", too_big(GetParam(), kTxSpi, 1400)));
}

TEST_P(TooBigTest, IsLeftAloneIfItQuotesNoRecentPacket) {
  connect_by_spi();
  for (const unsigned age_s : {62u, 3600u, 0u - 2u})
    check(left_alone(fmt::format("a packet of {} s ago", static_cast<int>(age_s)),
                     too_big(GetParam(), kTxSpi, 1400, age_s)));
}

TEST_P(TooBigTest, IsLeftAloneIfTheSocketIsNotSecured) {
  connect_by_spi();
  associate([](psp_sock& sock) { sock.state = PSP_STATE_RX; });
  check(left_alone("a socket in clear", too_big(GetParam(), kTxSpi, 1400)));
}

TEST_P(TooBigTest, SurvivesEveryTruncation) {
  connect_by_spi();
  const Octets frame = too_big(GetParam(), kTxSpi, 1400);
  for (std::size_t size = GetParam() == 4 ? 34 : 54; size < frame.size(); size++)
    EXPECT_EQ(
        run("psp_ingress", Octets(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(size)))
            .verdict,
        kNext)
        << size;
}

INSTANTIATE_TEST_SUITE_P(Families, TooBigTest, testing::Values(4u, 6u),
                         [](const auto& family) { return fmt::format("IPv{}", family.param); });
INSTANTIATE_TEST_SUITE_P(Families, DeliverTest, testing::Values(4u, 6u),
                         [](const auto& family) { return fmt::format("IPv{}", family.param); });

}  // namespace
}  // namespace psp::kernel
