// SPDX-License-Identifier: Apache-2.0
//
// Key logs and configuration files: what is read, and that an error names the line and not the key.
// Every bad line stands behind a good one, so that its number counts. Configurations are also the
// 15 of the reference implementation (PSP_VECTORS_DIR), all of which must be read; skipped where
// they are not there. Whether the keys open anything: crypto/vectors_test.cc and the tests of
// psp-pcap.
#include "pcap/keys.hh"

#include <algorithm>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pcap/file.hh"

namespace psp::pcap {
namespace {

using testing::HasSubstr;
using testing::Not;

const std::string kKey16 = "000102030405060708090a0b0c0d0e0f";
const std::string kKey32 = kKey16 + kKey16;

std::string keys_of_reference() {
  std::string text;
  for (int key = 0; key < 2; ++key) {
    for (int i = 0; i < 32; ++i) text += "3" + std::to_string(i % 10) + " ";
    text += "\n";
  }
  return text;
}

TEST(KeyLog, ReadsBothLabelsAndPassesOverOthers) {
  const auto log = parse_key_log(
      "# a comment\n\nCLIENT_RANDOM 12 34\r\n"
      "PSP_SA 0 9a345678 " +
      kKey16 +
      "\n"
      "PSP_SA hdr0-aes-gcm-256 0x1 " +
      kKey32 +
      " 2001:db8::1\r\n"
      "PSP_DEVICE_KEY 1 " +
      kKey32 +
      " 192.0.2.1 more to come\n"
      "PSP_SA 2 00000007 " +
      kKey16 + " -");
  ASSERT_TRUE(log) << log.error();
  ASSERT_EQ(log->size(), 4u);
  EXPECT_EQ(log->at(0).spi.value, 0x9a345678u);
  EXPECT_EQ(log->at(0).key.size(), 16u);
  EXPECT_FALSE(log->at(0).destination);
  EXPECT_EQ(log->at(1).version, Version::kAesGcm256);
  EXPECT_EQ(to_text(*log->at(1).destination), "2001:db8::1");
  EXPECT_EQ(log->at(2).kind, KeyEntry::Kind::kDevice);
  EXPECT_EQ(log->at(2).index, 1);
  EXPECT_EQ(to_text(*log->at(2).destination), "192.0.2.1");
  EXPECT_FALSE(log->at(3).destination);
}

TEST(KeyLog, WritesWhatItReads) {
  for (const std::string& line :
       {"PSP_SA 3 00000001 " + kKey32 + "\n", "PSP_SA 0 ffffffff " + kKey16 + " 10.0.0.1\n",
        "PSP_DEVICE_KEY 0 " + kKey32 + "\n"})
    EXPECT_EQ(key_log_line(parse_key_log(line)->at(0)), line);
}

TEST(KeyLog, NamesTheLineAndNotTheKey) {
  for (const std::string& bad :
       {"PSP_SA 4 1 " + kKey16, "PSP_SA 0 123456789 " + kKey16, "PSP_SA 0 1 " + kKey32,
        "PSP_SA 1 1 " + kKey16, "PSP_SA 0 1 " + kKey16 + "0", std::string("PSP_SA 0 1"),
        "PSP_SA 0 1 " + kKey16 + " 1.2.3", "PSP_SA 0 1 g" + kKey16.substr(1),
        "PSP_DEVICE_KEY 2 " + kKey32, "PSP_DEVICE_KEY 0 " + kKey16}) {
    const auto log = parse_key_log("PSP_SA 0 1 " + kKey16 + "\n" + bad + "\n");
    ASSERT_FALSE(log) << bad;
    EXPECT_THAT(log.error(), HasSubstr("line 2"));
    EXPECT_THAT(log.error(), Not(HasSubstr("0001")));
  }
}

TEST(Configuration, ReadsAFileForEncryption) {
  const auto text = keys_of_reference() + "9A345678\ntunnel\naes-gcm-256\n1\n6\n11\nvc\nrest";
  const auto cfg = parse_configuration(text, true);
  ASSERT_TRUE(cfg) << cfg.error();
  EXPECT_EQ(cfg->device_keys[1].data()[31], 0x31);
  EXPECT_EQ(cfg->sealing->spi.value, 0x9a345678u);
  EXPECT_TRUE(cfg->sealing->tunnel);
  EXPECT_EQ(cfg->sealing->version, Version::kAesGcm256);
  EXPECT_EQ(cfg->sealing->transport_offset.units, 1);
  EXPECT_EQ(cfg->sealing->ipv4_offset.units, 6);
  EXPECT_EQ(cfg->sealing->ipv6_offset.units, 11);
  EXPECT_TRUE(cfg->sealing->cookie);
  EXPECT_FALSE(parse_configuration(text, false)->sealing);
}

TEST(Configuration, TakesTheKeysAloneForDecryption) {
  EXPECT_TRUE(parse_configuration(keys_of_reference(), false));
  EXPECT_TRUE(parse_configuration(kKey32 + " " + kKey32, false));
  EXPECT_THAT(parse_configuration(keys_of_reference(), true).error(), HasSubstr("SPI"));
  EXPECT_THAT(parse_configuration(kKey32 + " " + kKey16, false).error(), HasSubstr("device key 1"));
}

TEST(Configuration, RefusesWhatCannotBe) {
  const auto error_of = [](const std::string& rest) {
    const auto cfg = parse_configuration(keys_of_reference() + rest, true);
    return cfg ? "" : cfg.error();
  };
  EXPECT_EQ(error_of("1 transport aes-gcm-128 63 0 0 no-vc"), "");
  EXPECT_THAT(error_of("80000000 transport aes-gcm-128 0 0 0 vc"), HasSubstr("reserved"));
  EXPECT_THAT(error_of("123456789 transport aes-gcm-128 0 0 0 vc"), HasSubstr("SPI"));
  EXPECT_THAT(error_of("1 trunk aes-gcm-128 0 0 0 vc"), HasSubstr("transport"));
  EXPECT_THAT(error_of("1 transport 0 0 0 0 vc"), HasSubstr("algorithm"));
  EXPECT_THAT(error_of("1 transport aes-gcm-128 64 0 0 vc"), HasSubstr("64"));
  EXPECT_THAT(error_of("1 transport aes-gcm-128 0 0 -1 vc"), HasSubstr("IPv6"));
  EXPECT_THAT(error_of("1 transport aes-gcm-128 0 0 0"), HasSubstr("vc"));
}

TEST(Configuration, ReadsEveryFileOfTheReference) {
  const std::filesystem::path directory = std::filesystem::path(PSP_VECTORS_DIR) / "cfg";
  if (!std::filesystem::exists(directory)) GTEST_SKIP() << directory << " is missing";
  std::size_t files = 0;
  for (const auto& file : std::filesystem::directory_iterator(directory)) {
    const auto text = read_text(file.path(), kMaxKeyFile);
    ASSERT_TRUE(text) << text.error();
    const bool sealing = file.path().filename() != "decrypt.cfg";
    EXPECT_TRUE(parse_configuration(*text, sealing)) << file.path();
    ++files;
  }
  EXPECT_EQ(files, 15u);
}

TEST(KeyFile, HoldsOneKey) {
  EXPECT_EQ(parse_key(kKey16 + "\n")->size(), 16u);
  EXPECT_EQ(parse_key("00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f " + kKey16)->size(), 32u);
  for (const std::string& bad : {std::string(), kKey16 + "00", kKey32 + "00", kKey16 + " x"})
    EXPECT_FALSE(parse_key(bad)) << bad;
}

}  // namespace
}  // namespace psp::pcap
