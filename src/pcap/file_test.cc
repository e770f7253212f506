// SPDX-License-Identifier: Apache-2.0
//
// Files through Reader and Writer: larger than a batch, with a record larger than a batch, and
// those that are none. On real files in a directory of the test's own; compressed ones are made
// with zlib as gzip does, whole, cut and with a wrong checksum. What is read is compared with what
// was put in, packet by packet. That another owner's file takes no secret needs root and is passed
// over without. Standard input and pipes are not tried here.
#include "pcap/file.hh"

#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include "test_support.hh"

namespace psp::pcap {
namespace {

using test::FileMaker;
using test::Octets;
using test::octets_of;
using testing::HasSubstr;

class FileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "psp-pcap-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::string write(const Octets& octets) {
    const std::string path = directory_ / "file";
    auto writer = Writer::open(path, -1);
    EXPECT_TRUE(writer && writer->write(octets) && writer->close());
    return path;
  }
  std::filesystem::path directory_;
};

TEST_F(FileTest, ReadsAFileOfManyBatches) {
  FileMaker maker;
  maker.section().interface();
  std::vector<Octets> packets;
  for (std::size_t i = 0; i < 3000; ++i) packets.push_back(octets_of(i, 3));
  for (const auto& packet : packets) maker.enhanced(packet);
  maker.block(0xbad, FileMaker().octets(Octets(4u << 20)));  // larger than a batch
  maker.enhanced(octets_of(3));
  packets.push_back(octets_of(3));
  auto reader = Reader::open(write(maker.made));
  ASSERT_TRUE(reader) << reader.error();
  EXPECT_EQ(reader->size(), maker.made.size());
  Batch batch;
  std::size_t batches = 0;
  std::vector<Octets> found;
  std::size_t octets = 0;
  while (*reader->next(batch)) {
    ++batches;
    for (const Record& record : batch.records) {
      octets += record.size;
      if (record.kind != Record::Kind::kPacket) continue;
      const auto packet = record.packet(batch.octets.span());
      found.emplace_back(packet.begin(), packet.end());
    }
  }
  EXPECT_EQ(found, packets);
  EXPECT_EQ(octets, maker.made.size());
  EXPECT_GT(batches, 5u);
  EXPECT_LT(batch.octets.capacity(), 16u << 20);
  EXPECT_EQ(reader->damaged(), "");
}

// gzip is what the program of that name makes of octets.
Octets gzip(const Octets& octets) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  Octets out(deflateBound(&stream, octets.size()));
  stream.next_in = const_cast<Bytef*>(octets.data());
  stream.avail_in = static_cast<uInt>(octets.size());
  stream.next_out = out.data();
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// packets_in counts those of a file, to its end.
std::size_t packets_in(Reader& reader) {
  Batch batch;
  std::size_t packets = 0;
  while (reader.next(batch).value_or(false))
    for (const Record& record : batch.records) packets += record.kind == Record::Kind::kPacket;
  return packets;
}

TEST_F(FileTest, ReadsWhatGzipCompressed) {
  FileMaker maker;
  maker.pcap_header();
  for (std::size_t i = 0; i < 3000; ++i) maker.pcap_packet(octets_of(i));
  const Octets& whole = maker.made;
  auto reader = Reader::open(write(gzip(whole)));
  ASSERT_TRUE(reader) << reader.error();
  EXPECT_EQ(reader->size(), 0u) << "not known before";
  EXPECT_EQ(packets_in(*reader), 3000u);
  EXPECT_EQ(reader->damaged(), "");
  // As `cat a.gz b.gz` makes it: a capture in two pieces.
  const auto middle = whole.begin() + 99'999;
  Octets both = gzip({whole.begin(), middle});
  const Octets second = gzip({middle, whole.end()});
  both.insert(both.end(), second.begin(), second.end());
  auto joined = Reader::open(write(both));
  EXPECT_EQ(packets_in(*joined), 3000u);
  EXPECT_EQ(joined->damaged(), "");
}

TEST_F(FileTest, TellsOfDamageInWhatGzipCompressedBehindWhatIsGood) {
  FileMaker maker;
  maker.pcap_header();
  for (std::size_t i = 0; i < 100; ++i) maker.pcap_packet(octets_of(1000, std::uint8_t(i)));
  const Octets good = gzip(maker.made);
  const Octets cut(good.begin(), good.end() - 9);
  auto reader = Reader::open(write(cut));
  EXPECT_GE(packets_in(*reader), 99u);
  EXPECT_THAT(reader->damaged(), HasSubstr("ends inside its compressed data"));
  Octets wrong = good;
  wrong[wrong.size() - 8] ^= 1;  // its checksum
  auto other = Reader::open(write(wrong));
  packets_in(*other);
  EXPECT_THAT(other->damaged(), HasSubstr("compressed data is damaged"));
  auto none = Reader::open(write({0x1f, 0x8b, 8, 0}));
  EXPECT_EQ(packets_in(*none), 0u);
  EXPECT_THAT(none->damaged(), HasSubstr("ends inside its compressed data"));
}

TEST_F(FileTest, SaysWhatIsWrongWithAFile) {
  EXPECT_THAT(Reader::open(directory_ / "none").error(), HasSubstr("No such file"));
  EXPECT_THAT(Reader::open(directory_).error(), HasSubstr("directory"));
  auto reader = Reader::open(write(octets_of(50)));
  Batch batch;
  EXPECT_FALSE(*reader->next(batch));
  EXPECT_THAT(reader->damaged(), HasSubstr("not a pcap"));
  auto empty = Reader::open(write({}));
  EXPECT_FALSE(*empty->next(batch));
  EXPECT_THAT(empty->damaged(), HasSubstr("empty"));
}

TEST_F(FileTest, DoesNotWriteOverWhatItReads) {
  const auto path = write(FileMaker().pcap_header().made);
  const auto reader = Reader::open(path);
  EXPECT_THAT(Writer::open(path, reader->fd()).error(), HasSubstr("to be read"));
  EXPECT_EQ(std::filesystem::file_size(path), 24u);
}

TEST_F(FileTest, ASecretGoesIntoNoFileThatOthersNamedOrOwn) {
  const std::string path = write(octets_of(50)), link = directory_ / "link";
  std::filesystem::create_symlink(path, link);
  EXPECT_FALSE(Writer::open(link, -1, true));
  EXPECT_EQ(std::filesystem::file_size(path), 50u);
  auto writer = Writer::open(path, -1, true);
  ASSERT_TRUE(writer) << writer.error();
  EXPECT_EQ(std::filesystem::file_size(path), 0u);
  EXPECT_EQ(std::filesystem::status(path).permissions(), std::filesystem::perms(0600));
  if (::chown(path.c_str(), 65534, 65534) != 0) return;  // not root: no other owner to be had
  EXPECT_THAT(Writer::open(path, -1, true).error(), HasSubstr("belongs to user 65534"));
}

TEST_F(FileTest, ReportsAFullDisk) {
  auto writer = Writer::open("/dev/full", -1);
  ASSERT_TRUE(writer);
  EXPECT_THAT(writer->write(octets_of(5)).error(), HasSubstr("No space"));
}

TEST_F(FileTest, ReadsTextUpToALimit) {
  const auto path = write(octets_of(1000));
  EXPECT_EQ(read_text(path, 1000)->size(), 1000u);
  EXPECT_THAT(read_text(path, 999).error(), HasSubstr("999"));
}

}  // namespace
}  // namespace psp::pcap
