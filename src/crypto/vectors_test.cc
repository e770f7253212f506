// SPDX-License-Identifier: Apache-2.0
//
// The reference implementation's packets and keys (PSP_VECTORS_DIR): each encrypted file opened to
// its clear twin and produced again bit for bit, each derived key, and the file with a flipped bit
// refused. Skipped, with the name of what is missing, where the directory is not there.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <pcap/pcap.h>
#include <sstream>

#include "crypto/seal.hh"
#include "wire/bytes.hh"

#include "test_support.hh"

namespace psp::crypto {
namespace {

using test::from_hex;
using test::Octets;

constexpr std::size_t kEthernetHeader = 14;
constexpr std::size_t kFilesPerMode = 26;
const std::filesystem::path kVectors = PSP_VECTORS_DIR;

using Row = std::map<std::string, std::string>;

// read_table reads a tab-separated file whose first line names the columns.
std::vector<Row> read_table(const std::string& file) {
  const auto split = [](const std::string& line) {
    std::vector<std::string> fields;
    std::istringstream stream(line);
    for (std::string field; std::getline(stream, field, '\t');) fields.push_back(field);
    return fields;
  };
  std::ifstream stream(kVectors / file);
  std::string line;
  std::getline(stream, line);
  const auto names = split(line);
  std::vector<Row> rows;
  while (std::getline(stream, line)) {
    const auto fields = split(line);
    Row row;
    for (std::size_t i = 0; i < std::min(names.size(), fields.size()); ++i)
      row[names[i]] = fields[i];
    rows.push_back(row);
  }
  return rows;
}

std::uint64_t number(const std::string& text) { return std::stoull(text, nullptr, 0); }

std::vector<Octets> read_frames(const std::string& file) {
  char error[PCAP_ERRBUF_SIZE];
  const std::unique_ptr<pcap_t, decltype(&pcap_close)> pcap(
      pcap_open_offline((kVectors / file).c_str(), error), &pcap_close);
  std::vector<Octets> frames;
  if (!pcap) {
    ADD_FAILURE() << error;
    return frames;
  }
  pcap_pkthdr* header;
  const u_char* octets;
  while (pcap_next_ex(pcap.get(), &header, &octets) == 1)
    frames.emplace_back(octets, octets + header->caplen);
  return frames;
}

std::span<const std::uint8_t> ip_packet(const Octets& frame) {
  return std::span(frame).subspan(kEthernetHeader);
}

// read_device_key reads one of the two keys at the top of a configuration file.
DeviceKey read_device_key(const std::string& file, std::size_t index) {
  std::ifstream stream(kVectors / file);
  std::string line;
  for (std::size_t i = 0; i <= index; ++i) std::getline(stream, line);
  std::erase_if(line, [](char c) { return !std::isxdigit(static_cast<unsigned char>(c)); });
  return DeviceKey(from_hex(line));
}

// reference_source_port is the reference's choice: source XOR destination of the inner TCP or UDP.
std::uint16_t reference_source_port(std::span<const std::uint8_t> clear) {
  const auto ip = wire::parse_ip(clear);
  const std::uint8_t* l4 = clear.data() + ip->header_length;
  return wire::load_be<std::uint16_t>(l4) ^ wire::load_be<std::uint16_t>(l4 + 2);
}

// Pair is an encrypted file, its clear twin and the key between them.
struct Pair {
  Row settings;
  Version version;
  std::vector<Octets> encrypted;
  std::vector<Octets> clear;
  std::unique_ptr<Aead> aead;
};

Pair read_pair(const Row& settings, const Backend& backend) {
  Pair pair{.settings = settings,
            .version = *to_version(static_cast<std::uint32_t>(number(settings.at("psp_version")))),
            .encrypted = read_frames(settings.at("encrypted_file")),
            .clear = read_frames(settings.at("clear_file")),
            .aead = backend.make_aead()};
  const Spi spi{static_cast<std::uint32_t>(number(settings.at("spi")))};
  SaKey key;
  backend.make_kdf(read_device_key(settings.at("cfg"), spi.phase()))
      ->derive(pair.version, spi, key);
  EXPECT_TRUE(std::ranges::equal(key.span(), from_hex(settings.at("derived_key"))));
  pair.aead->rekey(pair.version, key.span());
  return pair;
}

// options_of is how the reference sealed packet `i` of a file.
wire::EncapOptions options_of(const Pair& pair, std::size_t i) {
  wire::EncapOptions options;
  options.version = pair.version;
  options.spi = {static_cast<std::uint32_t>(number(pair.settings.at("spi")))};
  options.iv = number(pair.settings.at("iv_first")) + i;
  options.crypt_offset = {static_cast<std::uint8_t>(number(pair.settings.at("crypt_off_units")))};
  if (pair.settings.at("vc") == "vc") options.cookie = 0;
  options.source_port = reference_source_port(ip_packet(pair.clear[i]));
  return options;
}

std::expected<Octets, Drop> opened(Aead& aead, std::span<const std::uint8_t> packet) {
  const auto parsed = wire::parse_packet(packet);
  if (!parsed) return std::unexpected(parsed.error());
  Octets out(packet.size());
  const auto size = open_packet(aead, *parsed, packet, out);
  if (!size) return std::unexpected(size.error());
  out.resize(*size);
  return out;
}

class VectorsTest : public testing::TestWithParam<const Backend*> {
 protected:
  void SetUp() override {
    for (const char* file : {"manifest.tsv", "packets.tsv", "kdf.tsv", "encrypted", "cleartext"})
      if (!std::filesystem::exists(kVectors / file))
        GTEST_SKIP() << "no reference vectors: " << kVectors / file
                     << " is missing (set PSP_VECTORS_DIR)";
  }

  // for_each_pair calls `check` with every pair of that mode and expects to see all of them.
  template <typename Check>
  void for_each_pair(const std::string& mode, Check check) {
    std::size_t seen = 0;
    for (const Row& settings : read_table("manifest.tsv")) {
      if (settings.at("mode") != mode) continue;
      SCOPED_TRACE(settings.at("encrypted_file"));
      Pair pair = read_pair(settings, *GetParam());
      ASSERT_EQ(pair.encrypted.size(), number(settings.at("packets")));
      ASSERT_FALSE(pair.encrypted.empty());
      ASSERT_EQ(pair.encrypted.size(), pair.clear.size());
      ASSERT_NO_FATAL_FAILURE(check(pair));
      ++seen;
    }
    EXPECT_EQ(seen, kFilesPerMode);
  }
};
INSTANTIATE_TEST_SUITE_P(All, VectorsTest, testing::ValuesIn(test::backends()), test::backend_name);

TEST_P(VectorsTest, DerivesEveryKey) {
  const auto rows = read_table("kdf.tsv");
  EXPECT_EQ(rows.size(), 48u);
  for (const Row& row : rows) {
    const Spi spi{static_cast<std::uint32_t>(number(row.at("spi")))};
    const auto version = *to_version(static_cast<std::uint32_t>(number(row.at("version"))));
    ASSERT_EQ(spi.phase(), number(row.at("phase")));
    const DeviceKey device_key(from_hex(row.at(spi.phase() ? "device_key1" : "device_key0")));
    SaKey key;
    GetParam()->make_kdf(device_key)->derive(version, spi, key);
    EXPECT_TRUE(std::ranges::equal(key.span(), from_hex(row.at("derived_key")))) << row.at("spi");
  }
}

TEST_P(VectorsTest, ReadsEveryHeaderAsTheReferenceDoes) {
  const auto rows = read_table("packets.tsv");
  EXPECT_EQ(rows.size(), 52u);
  for (const Row& row : rows) {
    SCOPED_TRACE(row.at("encrypted_file"));
    const auto frame = read_frames(row.at("encrypted_file")).at(number(row.at("index")));
    const auto packet = wire::parse_packet(ip_packet(frame));
    ASSERT_TRUE(packet);
    EXPECT_EQ(packet->ip.header_length + kEthernetHeader, number(row.at("udp_offset")));
    EXPECT_EQ(packet->header.next_header, number(row.at("next_hdr")));
    EXPECT_EQ(packet->header.ext_length, number(row.at("hdr_ext_len")));
    EXPECT_EQ(packet->header.crypt_offset.units, number(row.at("crypt_off_byte")));
    EXPECT_EQ(packet->header.spi.value, number(row.at("spi")));
    EXPECT_EQ(packet->header.iv, number(row.at("iv")));
    const std::size_t aad = kPspBaseHeader + packet->header.crypt_offset.octets();
    EXPECT_EQ(aad, number(row.at("aad_len")));
    EXPECT_EQ(packet->icv_offset - packet->psp_offset - aad, number(row.at("cipher_len")));
    const auto icv = ip_packet(frame).subspan(packet->icv_offset, kIcv);
    EXPECT_TRUE(std::ranges::equal(icv, from_hex(row.at("icv"))));
  }
}

TEST_P(VectorsTest, OpensEveryTransportFileToItsClearTwin) {
  for_each_pair("transport", [](Pair& pair) {
    for (std::size_t i = 0; i < pair.encrypted.size(); ++i) {
      const auto clear = ip_packet(pair.clear[i]);
      EXPECT_EQ(opened(*pair.aead, ip_packet(pair.encrypted[i])),
                Octets(clear.begin(), clear.end()));
    }
  });
}

TEST_P(VectorsTest, ProducesEveryTransportFileBitForBit) {
  for_each_pair("transport", [](Pair& pair) {
    for (std::size_t i = 0; i < pair.encrypted.size(); ++i) {
      const auto clear = ip_packet(pair.clear[i]);
      const auto options = options_of(pair, i);
      Octets out(wire::sealed_size(clear.size(), options.cookie.has_value()));
      ASSERT_EQ(seal_packet(*pair.aead, options, clear, out), out.size());
      const auto expected = ip_packet(pair.encrypted[i]);
      EXPECT_EQ(out, Octets(expected.begin(), expected.end()));
    }
  });
}

TEST_P(VectorsTest, OpensEveryTunnelFileToItsClearTwin) {
  for_each_pair("tunnel", [](Pair& pair) {
    for (std::size_t i = 0; i < pair.encrypted.size(); ++i) {
      const auto in = ip_packet(pair.encrypted[i]);
      const auto packet = wire::parse_packet(in);
      ASSERT_TRUE(packet);
      ASSERT_TRUE(wire::is_tunnel(packet->header.next_header));
      Octets out(in.size());
      const auto size = open_tunnel_packet(*pair.aead, *packet, in, out, EcnAtExit::kMerge);
      ASSERT_TRUE(size);
      out.resize(*size);
      const auto clear = ip_packet(pair.clear[i]);
      EXPECT_EQ(out, Octets(clear.begin(), clear.end()));
    }
  });
}

TEST_P(VectorsTest, ProducesEveryTunnelFileBitForBit) {
  for_each_pair("tunnel", [](Pair& pair) {
    for (std::size_t i = 0; i < pair.encrypted.size(); ++i) {
      const auto clear = ip_packet(pair.clear[i]);
      const auto options = options_of(pair, i);
      const auto outer = wire::outer_ip_of(clear, {});
      ASSERT_TRUE(outer);
      Octets out(wire::sealed_size(clear.size(), options.cookie.has_value()) +
                 outer->header_length());
      ASSERT_EQ(seal_tunnel_packet(*pair.aead, options, *outer, clear, out), out.size());
      const auto expected = ip_packet(pair.encrypted[i]);
      EXPECT_EQ(out, Octets(expected.begin(), expected.end()));
    }
  });
}

TEST_P(VectorsTest, OpensTheDatagramsOfEveryTunnelFile) {
  for_each_pair("tunnel", [](Pair& pair) {
    for (std::size_t i = 0; i < pair.encrypted.size(); ++i) {
      const auto outer = ip_packet(pair.encrypted[i]);
      const auto packet = wire::parse_packet(outer);
      ASSERT_TRUE(packet);
      const auto datagram =
          outer.subspan(packet->psp_offset, packet->icv_offset + kIcv - packet->psp_offset);
      Octets tail(datagram.size() - kPspBaseHeader - kIcv);
      ASSERT_TRUE(open_datagram(*pair.aead, pair.version, packet->header, datagram, tail.data()));
      const auto inner = std::span(tail).subspan(packet->header.size() - kPspBaseHeader);
      EXPECT_TRUE(std::ranges::equal(inner, ip_packet(pair.clear[i])));
    }
  });
}

TEST_P(VectorsTest, ChecksTheIcvAlsoOfAnEmptyCiphertext) {
  std::size_t empty = 0;
  for (const char* mode : {"transport", "tunnel"}) {
    for_each_pair(mode, [&](Pair& pair) {
      const auto good = ip_packet(pair.encrypted[0]);
      const auto packet = wire::parse_packet(good);
      ASSERT_TRUE(packet);
      const std::size_t clear = kPspBaseHeader + packet->header.crypt_offset.octets();
      empty += packet->psp_offset + clear == packet->icv_offset;
      for (const std::size_t bit : {std::size_t{0}, 8 * kIcv - 1}) {
        Octets bad(good.begin(), good.end());
        bad[packet->icv_offset + bit / 8] ^= static_cast<std::uint8_t>(1u << bit % 8);
        EXPECT_EQ(opened(*pair.aead, bad), std::unexpected(Drop::AUTH_FAIL));
      }
    });
  }
  EXPECT_EQ(empty, 4u);  // both families, both modes
}

TEST_P(VectorsTest, RefusesTheFileWithAFlippedReservedBit) {
  const char* file = "negative/v4_transport_crypt_off_128_rbit_flipped.pcap";
  const char* good_file = "encrypted/v4_cleartext__encrypt_transport_crypt_off_128.pcap";
  if (!std::filesystem::exists(kVectors / file)) GTEST_SKIP() << file << " is missing";
  for (const Row& settings : read_table("manifest.tsv")) {
    if (settings.at("encrypted_file") != good_file) continue;
    Pair pair = read_pair(settings, *GetParam());
    const auto frames = read_frames(file);
    ASSERT_EQ(frames.size(), 1u);
    EXPECT_EQ(opened(*pair.aead, ip_packet(frames[0])), std::unexpected(Drop::AUTH_FAIL));
    return;
  }
  FAIL() << good_file << " is not in the manifest";
}

}  // namespace
}  // namespace psp::crypto
