// SPDX-License-Identifier: Apache-2.0
//
// The committed corpus against this implementation: every case through both crypto backends, every
// PSP datagram through the engine of the device, every class of case there at all, and the same
// corpus again from the same seed.
#include "corpus.hh"

#include <cstring>
#include <fstream>
#include <gtest/gtest.h>
#include <iterator>
#include <map>

#include "../src/programs/psp-pcap/explain.hh"
#include "device/software_driver.hh"
#include "wire/tunnel.hh"

namespace psp::conformance {
namespace {

std::string read_file(const std::string& name) {
  std::ifstream stream(std::string(PSP_SOURCE_DIR "/conformance/") + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

const std::vector<Case>& corpus() {
  static const std::vector<Case> cases = read_json(read_file("corpus.json"));
  return cases;
}

std::vector<const crypto::Backend*> backends() {
  std::vector<const crypto::Backend*> all = {&crypto::openssl_backend()};
  if (crypto::ipsec_mb_backend()) all.push_back(crypto::ipsec_mb_backend());
  return all;
}

std::string backend_name(const testing::TestParamInfo<const crypto::Backend*>& info) {
  return info.param->name() == "ipsec-mb" ? "IpsecMb" : "OpenSsl";
}

class Corpus : public testing::TestWithParam<const crypto::Backend*> {
 protected:
  void SetUp() override { ASSERT_GT(corpus().size(), 4000u); }
};
INSTANTIATE_TEST_SUITE_P(All, Corpus, testing::ValuesIn(backends()), backend_name);

TEST_P(Corpus, IsOpenedAndDroppedAsItSays) {
  Keys keys(*GetParam());
  for (const Case& one : corpus()) {
    const auto opened = receive(keys, one.packet);
    if (one.kind == Case::Kind::kDrop)
      EXPECT_EQ(opened, std::unexpected(one.reason)) << one.name;
    else
      EXPECT_EQ(opened, one.clear) << one.name;
  }
}

TEST_P(Corpus, IsSealedBitForBit) {
  Keys keys(*GetParam());
  for (const Case& one : corpus()) {
    if (one.kind == Case::Kind::kSeal) {
      EXPECT_EQ(seal(keys, one), one.packet) << one.name;
    }
  }
}

TEST_P(Corpus, IsMadeAgainFromItsSeed) {
  Keys keys(*GetParam());
  EXPECT_EQ(to_json(keys, make_cases(keys, kDefaultSeed), kDefaultSeed), read_file("corpus.json"));
}

// The engine of the device, with the device keys of the corpus in place of random ones.
TEST_P(Corpus, GoesThroughTheEngineOfTheDevice) {
  int made = 0;
  device::IvAllocator ivs([] { return std::uint64_t{1}; });
  device::SoftwareDriver driver(
      {.backend = GetParam(), .ivs = &ivs, .random = [&](std::span<std::uint8_t> out) {
         if (out.size() != 32) return crypto::random_bytes(out);  // where SPIs begin
         const auto key = from_hex(kDeviceKeyHex[made++ == 0 ? 0 : 1]);
         ASSERT_EQ(out.size(), key.size());
         std::ranges::copy(key, out.begin());
       }});
  driver.key_rotate(1);  // the second place has no live key before
  driver.enable(VersionSet::all());
  const auto engine = driver.make_engine();
  std::size_t opened = 0, dropped = 0;
  for (const Case& one : corpus()) {
    const auto ip = wire::parse_ip(one.packet);
    if (!ip || one.or_ignore) continue;  // no PSP datagram gets that far
    const auto datagram = std::span(one.packet)
                              .first(ip->total_length)
                              .subspan(std::size_t{ip->header_length} + kUdpHeader);
    Octets out(datagram.size());
    const auto meta = engine->open(datagram, out.data());
    const bool after_icv = one.reason == Drop::BAD_INNER || one.reason == Drop::BAD_ECN;
    if (one.kind == Case::Kind::kDrop && !after_icv) {
      ++dropped;
      ASSERT_FALSE(meta) << one.name;
      // This device has given no SPI out, and tells so.
      EXPECT_EQ(meta.error(), one.reason == Drop::AUTH_FAIL ? Drop::UNKNOWN_KEY : one.reason)
          << one.name;
    } else {
      ++opened;
      EXPECT_TRUE(meta) << one.name;
    }
  }
  EXPECT_GT(opened, 900u);
  EXPECT_GT(dropped, 3000u);
}

// is_segment: what is inside is TCP in transport mode, with a whole header.
bool is_segment(const pcap_tool::Frame& frame, const Octets& clear) {
  const std::size_t at = frame.ip.header_length;
  if (frame.psp.header.next_header != 6 || clear.size() < at + 20) return false;
  const std::size_t header = clear[at + 12] / 16 * 4u;
  return header >= 20 && at + header <= clear.size();
}

// What psp-pcap explains is what the device does: it carries TCP in transport mode, and leaves to
// the stack what its classifier does not take for PSP.
TEST_P(Corpus, IsExplainedAsTheDeviceJudgesIt) {
  using Verdict = pcap_tool::Explanation::Verdict;
  pcap_tool::CaptureKeys ring(*GetParam());
  for (std::uint8_t index = 0; index < 2; ++index) {
    pcap::KeyEntry entry{.kind = pcap::KeyEntry::Kind::kDevice, .index = index};
    entry.key.assign(from_hex(kDeviceKeyHex[index]));
    ring.add(std::move(entry));
  }
  pcap_tool::Opener opener(ring, crypto::EcnAtExit::kMerge);
  pcap_tool::Explainer explainer(opener, VersionSet::all());
  for (const Case& one : corpus()) {
    SCOPED_TRACE(one.name);
    pcap::Record record;
    record.captured = record.original = static_cast<std::uint32_t>(one.packet.size());
    record.link_type = pcap::kLinkRaw;
    const auto frame = pcap_tool::look(record, one.packet, pcap::Reach::kTunnels);
    std::vector<pcap_tool::Explanation> explanations;
    explainer.explain(frame, [&](const pcap_tool::Frame&, const pcap_tool::Explanation& said) {
      explanations.push_back(said);
    });
    ASSERT_EQ(explanations.size(), 1u) << "nothing here is several datagrams";
    const auto& explanation = explanations[0];
    if (one.or_ignore && explanation.verdict == Verdict::kPass) continue;
    if (one.kind != Case::Kind::kDrop && frame.psp.header.drop_after_sampling) {
      EXPECT_EQ(explanation.reason, Drop::SAMPLED) << "it opens, and its sender wants no more";
      continue;
    }
    if (one.kind != Case::Kind::kDrop && is_segment(frame, one.clear)) {
      EXPECT_EQ(explanation.verdict, Verdict::kDeliver);
      EXPECT_EQ(Octets(explainer.clear().begin(), explainer.clear().end()), one.clear);
      continue;
    }
    const bool opens = one.kind != Case::Kind::kDrop || one.reason == Drop::BAD_ECN;
    EXPECT_EQ(explanation.verdict, Verdict::kDrop);
    EXPECT_EQ(explanation.reason, opens ? Drop::BAD_INNER : one.reason);
  }
}

TEST(CorpusContent, HasEveryClassOfCase) {
  std::map<std::string, int> seen;
  for (const Case& one : corpus()) {
    if (one.kind == Case::Kind::kDrop) {
      ++seen["drop " + std::string(name(one.reason))];
      continue;
    }
    if (one.kind == Case::Kind::kOpen) {
      ++seen["open"];
      continue;
    }
    ++seen["version " + std::to_string(static_cast<int>(one.version))];
    ++seen["inner " + std::to_string(one.clear[0] >> 4) + " outer " +
           std::to_string(one.packet[0] >> 4) + (one.tunnel ? " tunnel" : "")];
    ++seen["phase " + std::to_string(one.spi.phase())];
    ++seen["extension " + std::to_string(one.extension.size()) + (one.cookie ? " vc" : "")];
    if (one.packet.size() > 8000) ++seen["jumbo"];
  }
  for (const char* wanted : {"version 0",
                             "version 1",
                             "version 2",
                             "version 3",
                             "inner 4 outer 4",
                             "inner 6 outer 6",
                             "inner 4 outer 4 tunnel",
                             "inner 4 outer 6 tunnel",
                             "inner 6 outer 4 tunnel",
                             "inner 6 outer 6 tunnel",
                             "phase 0",
                             "phase 1",
                             "extension 0",
                             "extension 8 vc",
                             "extension 24 vc",
                             "extension 16",
                             "extension 2032 vc",
                             "jumbo",
                             "open",
                             "drop TRUNCATED",
                             "drop BAD_IP",
                             "drop BAD_LENGTH",
                             "drop BAD_HEADER",
                             "drop BAD_CRYPT_OFFSET",
                             "drop BAD_VERSION",
                             "drop BAD_SPI",
                             "drop AUTH_FAIL",
                             "drop BAD_INNER",
                             "drop FRAGMENT",
                             "drop BAD_ECN"})
    EXPECT_GT(seen[wanted], 0) << wanted;
}

}  // namespace
}  // namespace psp::conformance
