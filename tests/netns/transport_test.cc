// SPDX-License-Identifier: Apache-2.0
//
// What an application and the wire see of a secured connection between two hosts: MSS, packet
// sizes, contents. By MTU, with and without segmentation offload, and by all four versions.
//
// The oracle is what was written, and the cable: no packet is larger than the MTU, the largest is
// exactly that, and nothing is in clear but under the versions that do not encrypt. TCP_MAXSEG
// falls by 40 at tx-assoc, not before. Speed is not looked at (bench).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <thread>
#include <tuple>

#include "lab.hh"

namespace psp::lab {
namespace {

constexpr int kOverhead = 40;

// stream sends `data` from one socket to the other, by a thread, and returns what arrives.
Octets stream(int from, int to, const Octets& data, std::size_t piece) {
  std::thread sender([&] {
    for (std::size_t at = 0; at < data.size(); at += piece)
      send_all(from,
               {data.begin() + static_cast<std::ptrdiff_t>(at),
                data.begin() + static_cast<std::ptrdiff_t>(std::min(at + piece, data.size()))});
  });
  Octets got = receive(to, data.size());
  sender.join();
  return got;
}

struct Shape {
  unsigned mtu;
  bool tso;
};

using Param = std::tuple<Shape, Kind>;

class Transport : public testing::TestWithParam<Param> {
 protected:
  static void SetUpTestSuite() {
    if (missing()) return;
    lab_ = std::make_unique<Lab>();
    lab_->start(From::kA);
    lab_->start(From::kB);
  }
  static void TearDownTestSuite() { lab_.reset(); }

  void SetUp() override {
    PSP_NEEDS_LAB();
    const auto& [shape, kind] = GetParam();
    lab_->set_mtu(shape.mtu);
    for (const From side : {From::kA, From::kB}) {
      set_feature(lab_->ns(side), "eth0", "tso", shape.tso);
      set_feature(lab_->ns(side), "eth0", "gso", shape.tso);
    }
  }
  Kind kind() const { return std::get<Kind>(GetParam()); }
  std::size_t mtu() const { return std::get<Shape>(GetParam()).mtu; }

  void expect_whole_and_sealed(const Connection& connection, std::size_t mark) {
    std::size_t sealed = 0;
    for (const Seen& seen : lab_->cable().since(mark)) {
      EXPECT_LE(seen.size, mtu());
      EXPECT_FALSE(of_flow(seen, connection.flow)) << "clear text";
      sealed += seen.psp;
    }
    EXPECT_GT(sealed, 0u);
  }

  static inline std::unique_ptr<Lab> lab_;
};

TEST_P(Transport, LowersTheMssByFortyAtTxAssocOnly) {
  auto connection = lab_->connect(kind());
  Client a = lab_->client(From::kA), b = lab_->client(From::kB);
  const int a_before = maxseg(connection.a.get()), b_before = maxseg(connection.b.get());
  const auto a_rx = a.rx_assoc(connection.a.get(), Version::kAesGcm128);
  const auto b_rx = b.rx_assoc(connection.b.get(), Version::kAesGcm128);
  ASSERT_TRUE(a_rx && b_rx);
  EXPECT_EQ(maxseg(connection.a.get()), a_before);
  EXPECT_EQ(maxseg(connection.b.get()), b_before);
  ASSERT_TRUE(a.tx_assoc(connection.a.get(), Version::kAesGcm128, b_rx->rx));
  ASSERT_TRUE(b.tx_assoc(connection.b.get(), Version::kAesGcm128, a_rx->rx));
  EXPECT_EQ(maxseg(connection.a.get()), a_before - kOverhead);
  EXPECT_EQ(maxseg(connection.b.get()), b_before - kOverhead);
}

TEST_P(Transport, CarriesBulkBothWaysInPacketsThatFitTheMtu) {
  auto connection = lab_->connect(kind());
  secure(*lab_, connection, Version::kAesGcm256);
  const std::size_t mark = lab_->cable().mark();
  const Octets data = random_octets(2 << 20);
  EXPECT_TRUE(stream(connection.a.get(), connection.b.get(), data, 1 << 18) == data);
  EXPECT_TRUE(stream(connection.b.get(), connection.a.get(), data, 1 << 18) == data);
  expect_whole_and_sealed(connection, mark);
}

TEST_P(Transport, CarriesSingleOctetsAndOddPieces) {
  auto connection = lab_->connect(kind());
  secure(*lab_, connection);
  const std::size_t mark = lab_->cable().mark();
  const Octets single = random_octets(300), odd = random_octets(100'003);
  EXPECT_TRUE(stream(connection.a.get(), connection.b.get(), single, 1) == single);
  EXPECT_TRUE(stream(connection.a.get(), connection.b.get(), odd, 1009) == odd);
  EXPECT_TRUE(stream(connection.b.get(), connection.a.get(), odd, 4093) == odd);
  expect_whole_and_sealed(connection, mark);
}

TEST_P(Transport, UsesTheWholeMtu) {
  auto connection = lab_->connect(kind());
  secure(*lab_, connection);
  const std::size_t mark = lab_->cable().mark();
  const Octets data = random_octets(1 << 20);
  EXPECT_TRUE(stream(connection.a.get(), connection.b.get(), data, 1 << 18) == data);
  std::size_t biggest = 0;
  for (const Seen& seen : lab_->cable().since(mark)) biggest = std::max(biggest, seen.size);
  EXPECT_EQ(biggest, mtu());
}

std::string shape_name(const testing::TestParamInfo<Param>& info) {
  const auto& [shape, kind] = info.param;
  return "Mtu" + std::to_string(shape.mtu) + (shape.tso ? "Tso" : "NoTso") + kind_name(kind);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Transport,
                         testing::Combine(testing::Values(Shape{1500, true}, Shape{1500, false},
                                                          Shape{1280, true}, Shape{9000, true}),
                                          testing::Values(Kind::kIpv4, Kind::kIpv6,
                                                          Kind::kIpv4Mapped)),
                         shape_name);

// Versions: each of the four on one connection, both ways.
class EachVersion : public testing::TestWithParam<std::tuple<Version, Kind>> {
 protected:
  static void SetUpTestSuite() {
    if (missing()) return;
    lab_ = std::make_unique<Lab>();
    lab_->start(From::kA);
    lab_->start(From::kB);
  }
  static void TearDownTestSuite() { lab_.reset(); }
  static inline std::unique_ptr<Lab> lab_;
};

TEST_P(EachVersion, CarriesOctetsBothWays) {
  PSP_NEEDS_LAB();
  const auto& [version, kind] = GetParam();
  Lab& lab = *lab_;
  auto connection = lab.connect(kind);
  const std::size_t mark = lab.cable().mark();
  secure(lab, connection, version);
  const Octets data = random_octets(100'000);
  EXPECT_TRUE(stream(connection.a.get(), connection.b.get(), data, 10'000) == data);
  EXPECT_TRUE(stream(connection.b.get(), connection.a.get(), data, 10'000) == data);
  bool readable = false;
  for (const Seen& seen : lab.cable().since(mark)) {
    EXPECT_FALSE(of_flow(seen, connection.flow));
    readable = readable || holds_part(seen.octets, {data.begin(), data.begin() + 1024});
  }
  EXPECT_EQ(readable, !encrypts(version));
}

INSTANTIATE_TEST_SUITE_P(All, EachVersion,
                         testing::Combine(testing::Values(Version::kAesGcm128, Version::kAesGcm256,
                                                          Version::kAesGmac128,
                                                          Version::kAesGmac256),
                                          testing::Values(Kind::kIpv4, Kind::kIpv6)));

}  // namespace
}  // namespace psp::lab
