// SPDX-License-Identifier: Apache-2.0
//
// The probe out and in again, that no device can take it for one of its own packets, and that
// nothing else is taken for a probe. Every field is compared after the way through octets, at
// several sizes; the PSP header is read with the parser of real packets; then each octet that makes
// it a probe is spoilt in turn. Who gets an answer, and how often: datapath/probe_answer_test.cc.
#include "wire/probe.hh"

#include <algorithm>
#include <gtest/gtest.h>
#include <vector>

#include "wire/header.hh"

namespace psp::wire {
namespace {

Probe example(bool answer) {
  Probe probe;
  probe.answer = answer;
  probe.wanted = 1472;
  for (std::uint8_t i = 0; i < 16; ++i) {
    probe.nonce[i] = static_cast<std::uint8_t>(0x10 + i);
    if (!answer) continue;
    probe.source[i] = static_cast<std::uint8_t>(0x20 + i);
    probe.destination[i] = static_cast<std::uint8_t>(0x30 + i);
  }
  if (!answer) return probe;
  probe.received = 1400;
  probe.enabled = VersionSet::all();
  probe.mtu = 9000;
  return probe;
}

std::vector<std::uint8_t> written(const Probe& probe, std::size_t size = kProbeSize) {
  std::vector<std::uint8_t> octets(size, 0xee);
  write_probe(octets, probe);
  return octets;
}

TEST(Probe, ComesOutAsItWentIn) {
  for (const bool answer : {false, true})
    for (const std::size_t size : {kProbeSize, kProbeSize + 1, std::size_t{1472}}) {
      const auto octets = written(example(answer), size);
      const auto read = parse_probe(octets);
      ASSERT_TRUE(read);
      EXPECT_EQ(read->answer, answer);
      EXPECT_EQ(read->wanted, 1472);
      EXPECT_EQ(read->nonce, example(answer).nonce);
      EXPECT_EQ(read->received, example(answer).received);
      EXPECT_EQ(read->enabled, example(answer).enabled);
      EXPECT_EQ(read->mtu, example(answer).mtu);
      EXPECT_EQ(read->source, example(answer).source);
      EXPECT_EQ(read->destination, example(answer).destination);
      EXPECT_TRUE(std::all_of(octets.end() - 16, octets.end(), [](auto o) { return o == 0; }));
    }
}

TEST(Probe, IsPspWithAnSpiThatNoKeyHasAndAVersionThatThereIsNot) {
  const auto header = parse_header(written(example(false)));
  ASSERT_TRUE(header);
  EXPECT_FALSE(header->spi.valid());
  EXPECT_FALSE(header->version());
  EXPECT_FALSE(is_probe({}));
}

TEST(Probe, IsNothingElse) {
  const auto good = written(example(false));
  EXPECT_FALSE(parse_probe(std::span(good).first(kProbeSize - 1)));
  // The PSP header but for the IV, then the mark, the form and the kind.
  for (const std::size_t at : {0, 1, 3, 4, 7, 16, 23, 24, 25}) {
    auto other = good;
    other[at] ^= 0x40;
    EXPECT_FALSE(parse_probe(other)) << at;
  }
}

}  // namespace
}  // namespace psp::wire
