// SPDX-License-Identifier: Apache-2.0
//
// Captures that are made here are read by this layer's Splitter and by libpcap. Splitter and writer
// share their numbers and could be wrong together; libpcap knows nothing of either and has the last
// word on link type, snap length, time and content. What it does not show of a file (comments,
// directions, counts) is not checked here.
#include "pcap/capture_writer.hh"

#include <fstream>
#include <gtest/gtest.h>
#include <pcap/pcap.h>

#include "test_support.hh"

namespace psp::pcap {
namespace {

using test::Octets;
using test::octets_of;

Buffer capture() {
  Buffer out;
  begin_capture({.name = "eth0", .filter = "udp", .program = "test", .snap_length = 100}, out);
  const Octets first = octets_of(61), second = octets_of(100);
  add_packet({5'000'000'123, Direction::kIn, first, 61, "a comment"}, out);
  add_packet({6'000'000'000, Direction::kOut, second, 1500}, out);
  end_capture(7'000'000'000, {.received = 3, .dropped = 1}, out);
  return out;
}

TEST(CaptureWriter, WritesWhatTheSplitterReads) {
  const Buffer file = capture();
  Splitter splitter;
  std::vector<Record> records;
  EXPECT_EQ(splitter.split(file.span(), true, records), file.size());
  EXPECT_EQ(splitter.damaged(), "");
  ASSERT_EQ(records.size(), 5u);
  EXPECT_EQ(records[0].kind, Record::Kind::kFileHeader);
  EXPECT_EQ(records[1].kind, Record::Kind::kInterface);
  ASSERT_EQ(records[2].kind, Record::Kind::kPacket);
  const auto first = records[2].packet(file.span());
  EXPECT_EQ(Octets(first.begin(), first.end()), octets_of(61));
  EXPECT_EQ(records[3].captured, 100u);
  EXPECT_EQ(records[3].original, 1500u);
  EXPECT_EQ(records[4].kind, Record::Kind::kOther);
}

TEST(CaptureWriter, WritesWhatLibpcapReads) {
  const std::string path = testing::TempDir() + "capture_writer_test.pcapng";
  const Buffer made = capture();
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(made.data()), static_cast<std::streamsize>(made.size()));
  char error[PCAP_ERRBUF_SIZE] = "";
  pcap_t* file =
      pcap_open_offline_with_tstamp_precision(path.c_str(), PCAP_TSTAMP_PRECISION_NANO, error);
  ASSERT_NE(file, nullptr) << error;
  EXPECT_EQ(pcap_datalink(file), DLT_EN10MB);
  EXPECT_EQ(pcap_snapshot(file), 100);
  pcap_pkthdr* header = nullptr;
  const u_char* octets = nullptr;
  ASSERT_EQ(pcap_next_ex(file, &header, &octets), 1);
  EXPECT_EQ(header->ts.tv_sec, 5);
  EXPECT_EQ(header->ts.tv_usec, 123);
  EXPECT_EQ(Octets(octets, octets + header->caplen), octets_of(61));
  ASSERT_EQ(pcap_next_ex(file, &header, &octets), 1);
  EXPECT_EQ(header->len, 1500u);
  EXPECT_EQ(pcap_next_ex(file, &header, &octets), PCAP_ERROR_BREAK);
  pcap_close(file);
}

}  // namespace
}  // namespace psp::pcap
