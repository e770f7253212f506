// SPDX-License-Identifier: Apache-2.0
//
// Records of both formats: found whichever way the file is cut into pieces, written again as they
// were or with other packets, read by libpcap afterwards; broken ones passed over, damage named.
// Files are made by hand (test_support.hh) in both byte orders. What is to come back unchanged is
// compared octet by octet; for changed ones libpcap is a second opinion. Arbitrary octets are for
// fuzz/pcap_fuzz.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <memory>
#include <pcap/pcap.h>

#include "test_support.hh"

namespace psp::pcap {
namespace {

using test::FileMaker;
using test::Octets;
using test::octets_of;
using testing::HasSubstr;

struct Found {
  std::vector<Record> records;
  std::vector<Octets> packets;
  std::vector<std::uint64_t> broken;
  std::string damaged;
};

Found split_all(const Octets& file) {
  Splitter splitter;
  Found found;
  splitter.split(file, true, found.records);
  for (const Record& record : found.records) {
    if (record.kind == Record::Kind::kPacket) {
      const auto packet = record.packet(file);
      found.packets.emplace_back(packet.begin(), packet.end());
    }
    if (record.kind == Record::Kind::kBroken) found.broken.push_back(record.number);
  }
  found.damaged = splitter.damaged();
  return found;
}

// rewritten passes a file through a Rewriter; `change` says what each packet becomes.
template <typename Change>
Octets rewritten(const Octets& file, Rewriter::Options options, Change change) {
  Splitter splitter;
  std::vector<Record> records;
  splitter.split(file, true, records);
  Rewriter rewriter(options);
  Buffer out;
  for (const Record& record : records) {
    if (record.kind != Record::Kind::kPacket) {
      rewriter.copy(file, record, out);
      continue;
    }
    const Octets packet = change(record.packet(file));
    std::uint8_t* to = rewriter.begin(record, packet.size() + 10, out);
    std::copy(packet.begin(), packet.end(), to);
    rewriter.end(file, record, packet.size(), out);
  }
  return {out.data(), out.data() + out.size()};
}

Octets longer(std::span<const std::uint8_t> packet) {
  Octets all(packet.begin(), packet.end());
  all.insert(all.end(), {0xaa, 0xbb, 0xcc});
  return all;
}

// read_by_libpcap: a second opinion on a file.
std::vector<Octets> read_by_libpcap(const Octets& file) {
  std::FILE* stream = fmemopen(const_cast<std::uint8_t*>(file.data()), file.size(), "rb");
  char error[PCAP_ERRBUF_SIZE];
  const std::unique_ptr<pcap_t, decltype(&pcap_close)> pcap(pcap_fopen_offline(stream, error),
                                                            &pcap_close);
  std::vector<Octets> packets;
  if (!pcap) {
    ADD_FAILURE() << error;
    return packets;
  }
  pcap_pkthdr* header;
  const u_char* octets;
  int got;
  while ((got = pcap_next_ex(pcap.get(), &header, &octets)) == 1)
    packets.emplace_back(octets, octets + header->caplen);
  EXPECT_EQ(got, PCAP_ERROR_BREAK) << pcap_geterr(pcap.get());
  return packets;
}

Octets pcap_file(bool swapped, std::uint32_t magic = 0xa1b2c3d4) {
  return FileMaker(swapped)
      .pcap_header(kLinkEthernet, 100, magic)
      .pcap_packet(octets_of(60))
      .pcap_packet({})
      .pcap_packet(octets_of(33, 9))
      .made;
}

// A comment and a hash of the packet as it was.
Octets some_options(bool swapped) {
  return FileMaker(swapped)
      .u16(1)
      .u16(2)
      .octets({'h', 'i', 0, 0})
      .u16(3)
      .u16(5)
      .octets({2, 1, 2, 3, 4, 0, 0, 0})
      .u16(0)
      .u16(0)
      .made;
}

Octets pcapng_file(bool swapped) {
  FileMaker maker(swapped);
  maker.section().interface(kLinkEthernet, 100).interface(kLinkRaw);
  maker.block(0xbad, FileMaker(swapped).u32(42));  // nobody knows it
  maker.enhanced(octets_of(61), some_options(swapped)).enhanced({}, {}, 1);
  maker.block(3, FileMaker(swapped).u32(5).octets(octets_of(5)).pad());
  maker.block(
      2, FileMaker(swapped).u16(1).u16(0).u32(1).u32(2).u32(9).u32(9).octets(octets_of(9)).pad());
  maker.section().interface(kLinkIpv4).enhanced(octets_of(7));
  return maker.made;
}

TEST(Splitter, FindsTheRecordsOfBothFormatsAndByteOrders) {
  for (const bool swapped : {false, true}) {
    for (const std::uint32_t magic : {0xa1b2c3d4u, 0xa1b23c4du}) {
      const auto found = split_all(pcap_file(swapped, magic));
      EXPECT_EQ(found.damaged, "");
      EXPECT_EQ(found.packets, (std::vector<Octets>{octets_of(60), {}, octets_of(33, 9)}));
      EXPECT_EQ(found.records.back().number, 3u);
      EXPECT_EQ(found.records.back().link_type, kLinkEthernet);
      EXPECT_EQ(found.records.back().nanoseconds, magic == 0xa1b23c4d);
    }
    const auto found = split_all(pcapng_file(swapped));
    EXPECT_EQ(found.damaged, "");
    EXPECT_EQ(found.packets,
              (std::vector<Octets>{octets_of(61), {}, octets_of(5), octets_of(9), octets_of(7)}));
    std::vector<std::uint32_t> links;
    for (const auto& record : found.records)
      if (record.kind == Record::Kind::kPacket) links.push_back(record.link_type);
    EXPECT_EQ(links, (std::vector<std::uint32_t>{kLinkEthernet, kLinkRaw, kLinkEthernet, kLinkRaw,
                                                 kLinkIpv4}));
  }
}

TEST(Splitter, FindsTheSameWhereverTheFileIsCut) {
  for (const Octets& file : {pcap_file(false), pcapng_file(true)}) {
    const auto whole = split_all(file);
    for (std::size_t piece = 1; piece < file.size(); ++piece) {
      Splitter splitter;
      std::vector<Octets> packets;
      Octets waiting;
      for (std::size_t at = 0; at < file.size(); at += piece) {
        const std::size_t end = std::min(at + piece, file.size());
        waiting.insert(waiting.end(), file.begin() + static_cast<std::ptrdiff_t>(at),
                       file.begin() + static_cast<std::ptrdiff_t>(end));
        std::vector<Record> records;
        const std::size_t used = splitter.split(waiting, end == file.size(), records);
        for (const Record& record : records)
          if (record.kind == Record::Kind::kPacket) {
            const auto packet = record.packet(waiting);
            packets.emplace_back(packet.begin(), packet.end());
          }
        waiting.erase(waiting.begin(), waiting.begin() + static_cast<std::ptrdiff_t>(used));
      }
      ASSERT_EQ(packets, whole.packets) << "pieces of " << piece;
      ASSERT_EQ(splitter.damaged(), "");
    }
  }
}

TEST(Splitter, NamesTheRecordInWhichTheFileEnds) {
  for (const Octets& file : {pcap_file(false), pcapng_file(false)}) {
    const auto whole = split_all(file);
    std::vector<std::size_t> ends;
    for (const Record& record : whole.records) ends.push_back(record.at + record.size);
    for (std::size_t size = 0; size < file.size(); ++size) {
      const auto found =
          split_all({file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size)});
      if (std::ranges::find(ends, size) != ends.end()) {
        EXPECT_EQ(found.broken.size(), 0u) << size;
        EXPECT_EQ(found.damaged, "") << size;
      } else if (size < ends.front()) {
        EXPECT_NE(found.damaged, "") << size;
      } else {
        EXPECT_EQ(found.broken, std::vector<std::uint64_t>{found.packets.size() + 1}) << size;
      }
    }
  }
}

TEST(Splitter, PassesOverBrokenPacketsOfPcapng) {
  FileMaker maker;
  maker.section()
      .interface()
      .enhanced(octets_of(20))
      .enhanced(octets_of(20))
      .enhanced(octets_of(4));
  auto lying = maker.made;
  // The second packet says it has more octets than its block.
  lying[28 + 20 + 52 + 20] = 200;
  const auto found = split_all(lying);
  EXPECT_EQ(found.packets.size(), 2u);
  EXPECT_EQ(found.broken, std::vector<std::uint64_t>{2});
  EXPECT_EQ(found.damaged, "");

  FileMaker other;
  other.section().enhanced(octets_of(4)).block(3, FileMaker().u32(4)).block(6, FileMaker().u32(0));
  other.interface().enhanced(octets_of(4), {}, 1).enhanced(octets_of(4));
  const auto more = split_all(other.made);
  EXPECT_EQ(more.broken, (std::vector<std::uint64_t>{1, 2, 3, 4}));
  EXPECT_EQ(more.packets.size(), 1u);
}

TEST(Splitter, NamesWhatEndsTheReading) {
  auto file = pcap_file(false);
  file[24 + 16 + 60 + 11] = 0x7f;  // the second packet claims 2 GB
  const auto found = split_all(file);
  EXPECT_EQ(found.packets.size(), 1u);
  EXPECT_THAT(found.damaged, HasSubstr("packet 2: its record claims 2130706432 octets"));

  EXPECT_THAT(split_all({}).damaged, HasSubstr("empty"));
  EXPECT_THAT(split_all(octets_of(100)).damaged, HasSubstr("not a pcap"));
  EXPECT_THAT(split_all(FileMaker().u32(0xa1b2c3d4).u16(3).octets(octets_of(30)).made).damaged,
              HasSubstr("version 3"));
  for (const std::uint32_t size : {0u, 8u, 13u, 0x7fff'fff0u, ~0u}) {
    FileMaker maker;
    maker.section().u32(6).u32(size).octets(octets_of(40));
    EXPECT_THAT(split_all(maker.made).damaged, HasSubstr("claims")) << size;
  }
  FileMaker differ;
  differ.section().u32(5).u32(16).u32(0).u32(20);
  EXPECT_THAT(split_all(differ.made).damaged, HasSubstr("two lengths"));
}

TEST(Rewriter, WritesWhatItReadIfNothingChanges) {
  const auto same = [](std::span<const std::uint8_t> p) { return Octets(p.begin(), p.end()); };
  for (const bool swapped : {false, true}) {
    EXPECT_EQ(rewritten(pcap_file(swapped), {}, same), pcap_file(swapped));
    EXPECT_EQ(rewritten(pcap_file(swapped, 0xa1b23c4d), {}, same), pcap_file(swapped, 0xa1b23c4d));
    FileMaker without_hash(swapped);
    without_hash.section().interface().enhanced(
        octets_of(61),
        FileMaker(swapped).u16(1).u16(2).octets({'h', 'i', 0, 0}).u16(0).u16(0).made);
    FileMaker with_hash(swapped);
    with_hash.section().interface().enhanced(octets_of(61), some_options(swapped));
    EXPECT_EQ(rewritten(with_hash.made, {}, same), without_hash.made);
  }
}

TEST(Rewriter, WritesPacketsOfOtherLengths) {
  for (const bool swapped : {false, true}) {
    for (const Octets& file : {pcap_file(swapped), pcapng_file(swapped)}) {
      const auto before = split_all(file);
      const auto out = rewritten(file, {.growth = 8}, longer);
      const auto after = split_all(out);
      EXPECT_EQ(after.damaged, "");
      EXPECT_EQ(after.records.size(), before.records.size());
      ASSERT_EQ(after.packets.size(), before.packets.size());
      for (std::size_t i = 0; i < before.packets.size(); ++i)
        EXPECT_EQ(after.packets[i], longer(before.packets[i]));
    }
    EXPECT_EQ(read_by_libpcap(rewritten(pcap_file(swapped), {.growth = 8}, longer)),
              split_all(rewritten(pcap_file(swapped), {}, longer)).packets);
    // libpcap reads only one link type.
    FileMaker one(swapped);
    one.section().interface(kLinkEthernet, 100).enhanced(octets_of(61), some_options(swapped));
    one.block(3, FileMaker(swapped).u32(5).octets(octets_of(5)).pad()).enhanced(octets_of(98));
    EXPECT_EQ(
        read_by_libpcap(rewritten(one.made, {.growth = 8}, longer)),
        (std::vector<Octets>{longer(octets_of(61)), longer(octets_of(5)), longer(octets_of(98))}));
  }
}

TEST(Rewriter, RaisesSnapLengthsOnlyWhereItMust) {
  for (const bool swapped : {false, true}) {
    const auto snap = [&](std::uint32_t before) {
      const auto out =
          rewritten(FileMaker(swapped).pcap_header(1, before).made, {.growth = 88}, longer);
      return out == FileMaker(swapped).pcap_header(1, before).made        ? before
             : out == FileMaker(swapped).pcap_header(1, before + 88).made ? before + 88
                                                                          : ~0u;
    };
    EXPECT_EQ(snap(0), 0u);
    EXPECT_EQ(snap(96), 184u);
    EXPECT_EQ(snap(262144), 262144u);
    EXPECT_EQ(rewritten(FileMaker(swapped).section().interface(1, 96).made, {.growth = 88}, longer),
              FileMaker(swapped).section().interface(1, 184).made);
  }
}

TEST(Rewriter, WritesTheHeaderOfTheReference) {
  for (const bool swapped : {false, true}) {
    for (const std::uint32_t magic : {0xa1b2c3d4u, 0xa1b23c4du}) {
      FileMaker in(swapped);
      in.pcap_header(kLinkEthernet, 262144, magic).pcap_packet(octets_of(10));
      FileMaker expected;
      expected.pcap_header(kLinkEthernet, 9014).u32(1000);
      expected.u32(magic == 0xa1b2c3d4 ? 999'999 : 999)
          .u32(13)
          .u32(13)
          .octets(longer(octets_of(10)));
      EXPECT_EQ(rewritten(in.made, {.reference = true}, longer), expected.made);
    }
  }
  const auto raw = FileMaker().pcap_header(kLinkRaw, 77).made;
  EXPECT_EQ(rewritten(raw, {.reference = true}, longer), raw);
}

TEST(Rewriter, ForgetsAPacketThatWasNotEnded) {
  const auto file = FileMaker().pcap_header().pcap_packet(octets_of(10)).made;
  Splitter splitter;
  std::vector<Record> records;
  splitter.split(file, true, records);
  Rewriter rewriter({});
  Buffer out;
  rewriter.copy(file, records[0], out);
  rewriter.begin(records[1], 100, out);
  rewriter.copy(file, records[1], out);
  EXPECT_EQ(Octets(out.data(), out.data() + out.size()), file);
}

}  // namespace
}  // namespace psp::pcap
