// SPDX-License-Identifier: Apache-2.0
//
// psp-pcap and the reference's files: bit for bit, with each backend. Google's reference
// implementation made them, so here softpsp is compared with somebody else's work and not with
// itself.
//
// 52 captures are sealed and opened, by the configuration files that came with them; one with a
// flipped bit must not open. They cover versions 0 and 1; for 2 and 3 there are no vectors of
// others. Without the files (PSP_VECTORS_DIR) the tests are skipped.
#include <gmock/gmock.h>
#include <sstream>

#include "crypto/aead.hh"

#include "test_support.hh"

namespace psp::pcap_tool {
namespace {

using namespace test;
using testing::HasSubstr;

const std::filesystem::path kVectors = PSP_VECTORS_DIR;

struct Row {
  std::string encrypted, clear, cfg;
};

std::vector<Row> manifest() {
  std::ifstream stream(kVectors / "manifest.tsv");
  std::string line;
  std::getline(stream, line);
  std::vector<Row> rows;
  while (std::getline(stream, line)) {
    std::istringstream fields(line);
    Row row;
    std::getline(fields, row.encrypted, '\t');
    std::getline(fields, row.clear, '\t');
    std::getline(fields, row.cfg, '\t');
    rows.push_back(row);
  }
  return rows;
}

std::string backends() { return crypto::ipsec_mb_backend() ? "ipsec-mb openssl" : "openssl"; }

class ReferenceTest : public ToolTest {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kVectors / "manifest.tsv"))
      GTEST_SKIP() << "no reference vectors: " << kVectors << " is missing (set PSP_VECTORS_DIR)";
    ToolTest::SetUp();
  }
};

TEST_F(ReferenceTest, EncryptsEveryFileBitForBit) {
  const auto rows = manifest();
  ASSERT_EQ(rows.size(), 52u);
  std::istringstream names(backends());
  for (std::string backend; names >> backend;) {
    for (const Row& row : rows) {
      const auto result = run({"encrypt", "--backend", backend, "--cfg", kVectors / row.cfg, "-r",
                               kVectors / row.clear, "-w", path("out")});
      ASSERT_EQ(result.status, 0) << result.err;
      EXPECT_EQ(read_file(path("out")), read_file(kVectors / row.encrypted)) << row.encrypted;
    }
  }
}

TEST_F(ReferenceTest, DecryptsEveryFileToItsClearTwin) {
  std::istringstream names(backends());
  for (std::string backend; names >> backend;) {
    for (const Row& row : manifest()) {
      const auto result =
          run({"decrypt", "--backend", backend, "--cfg", kVectors / "cfg/decrypt.cfg", "-r",
               kVectors / row.encrypted, "-w", path("out")});
      ASSERT_EQ(result.status, 0) << result.err;
      auto expected = read_file(kVectors / row.clear);
      expected[16] = 0x36, expected[17] = 0x23;  // snap length 9014: the reference's decryptor
      EXPECT_EQ(read_file(path("out")), expected) << row.encrypted;
    }
  }
}

TEST_F(ReferenceTest, TakesEveryConfigurationForDecryptionToo) {
  for (const Row& row : manifest())
    EXPECT_EQ(run({"check", "--cfg", kVectors / row.cfg, "-r", kVectors / row.encrypted}).status,
              0);
}

TEST_F(ReferenceTest, RefusesTheFileWithAFlippedReservedBit) {
  const auto result =
      run({"decrypt", "--cfg", kVectors / "cfg/decrypt.cfg", "-r",
           kVectors / "negative/v4_transport_crypt_off_128_rbit_flipped.pcap", "-w", path("out")});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, HasSubstr("packet 1: AUTH_FAIL: ICV does not match"));
  EXPECT_TRUE(packets_of(read_file(path("out"))).empty());
}

}  // namespace
}  // namespace psp::pcap_tool
