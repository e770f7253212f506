// SPDX-License-Identifier: Apache-2.0
//
// The C interface, psp/psp.h, against a Server: what it does, and structs of other sizes than
// today's. The structs lie in memory filled with a pattern, so that one octet too many shows; older
// and newer ones are made by their size alone. The Server runs in a thread
// (client_test_support.hh). That a C compiler takes the header, and a C program links:
// c_header_test.c. Programs of older releases themselves are not run here.
#include <cstddef>
#include <cstring>
#include <gtest/gtest.h>

#include <psp/psp.h>

#include "client_test_support.hh"

extern "C" int psp_c_header_test(psp_error* err);

namespace psp::netlink {
namespace {

using testing::Daemon;
using testing::TcpPair;

class CApi : public ::testing::Test {
 protected:
  void SetUp() override { ::setenv("PSP_SOCKET", daemon_.name().c_str(), 1); }
  void TearDown() override { ::unsetenv("PSP_SOCKET"); }
  Daemon daemon_;
  psp_error error_ = PSP_ERROR_INIT;
};

TEST_F(CApi, SecuresASocketWithTwoCalls) {
  TcpPair tcp;
  psp_key rx, tx = {.spi = 9, .key_len = 16, .key = {1, 2, 3}};
  ASSERT_EQ(psp_rx_assoc(tcp.near.get(), PSP_VERSION_AES_GMAC_256, &rx, &error_), 0) << error_.text;
  EXPECT_EQ(rx.spi, 0x101u);
  EXPECT_EQ(rx.key_len, 32u);
  EXPECT_EQ(rx.key[31], 31);
  EXPECT_EQ(psp_tx_assoc(tcp.near.get(), PSP_VERSION_AES_GMAC_256, &tx, &error_), -EINVAL);
  EXPECT_STREQ(error_.text, "incorrect key length");
  EXPECT_STREQ(error_.attr, ".tx-key.key");
  tx.key_len = 32;
  EXPECT_EQ(psp_tx_assoc(tcp.near.get(), PSP_VERSION_AES_GMAC_256, &tx, nullptr), 0);
  EXPECT_EQ(psp_tx_assoc(tcp.near.get(), PSP_VERSION_AES_GMAC_256, &tx, &error_), -EBUSY);
  EXPECT_STREQ(error_.text, "Tx key already set");
  EXPECT_STREQ(error_.attr, "");
  tx.key_len = 33;
  EXPECT_EQ(psp_tx_assoc(tcp.near.get(), PSP_VERSION_AES_GMAC_256, &tx, &error_), -EINVAL);
  EXPECT_EQ(psp_rx_assoc(tcp.near.get(), 4, &rx, &error_), -ERANGE);
  EXPECT_STREQ(error_.attr, ".version");
  psp_key_wipe(&rx);
  EXPECT_EQ(rx.spi, 0u);
  EXPECT_EQ(rx.key[31], 0);
}

TEST_F(CApi, ManagesDevices) {
  psp_device device = PSP_DEVICE_INIT;
  EXPECT_EQ(psp_dev_set(1, 0x3, &error_), 0);
  EXPECT_EQ(psp_dev_list(nullptr, 0, &error_), 1);
  EXPECT_EQ(psp_dev_list(&device, 1, &error_), 1);
  EXPECT_EQ(device.id, 1u);
  EXPECT_EQ(device.ifindex, 7u);
  EXPECT_EQ(device.versions_cap, 0xfu);
  EXPECT_EQ(device.versions_ena, 0x3u);
  EXPECT_EQ(device.associated, 0u);
  EXPECT_EQ(device.by_association, 0u);
  EXPECT_EQ(psp_dev_assoc(1, 50, 3, &error_), 0);
  EXPECT_EQ(psp_dev_assoc(1, 50, -1, &error_), 0) << "of the caller's own namespace";
  EXPECT_EQ(psp_dev_assoc(1, 50, 3, &error_), -EBUSY);
  EXPECT_STREQ(error_.text, "Device already associated with a PSP device");
  EXPECT_EQ(psp_dev_list(&device, 1, &error_), 1);
  EXPECT_EQ(device.associated, 2u);
  EXPECT_EQ(psp_dev_disassoc(1, 51, 3, &error_), -ENODEV);
  EXPECT_STREQ(error_.attr, ".ifindex");
  EXPECT_EQ(psp_dev_disassoc(1, 50, 99, &error_), -EINVAL);
  EXPECT_STREQ(error_.attr, ".nsid");
  EXPECT_EQ(psp_dev_disassoc(1, 50, 3, &error_), 0);
  EXPECT_EQ(psp_key_rotate(1, &error_), 0);
  psp_stats stats = PSP_STATS_INIT;
  EXPECT_EQ(psp_get_stats(1, &stats, &error_), 0);
  EXPECT_EQ(stats.key_rotations, 1u);
  EXPECT_EQ(psp_get_stats(2, &stats, &error_), -ENODEV);
  EXPECT_STREQ(error_.text, "get-stats: No such device");
}

// Untouched fills a struct with a pattern and says how much of that is left at its end.
template <typename T>
struct Untouched {
  T value;
  explicit Untouched(std::size_t size) {
    std::memset(static_cast<void*>(&value), 0x5a, sizeof value);
    value.size = size;
  }
  std::size_t written() const {
    const auto* octets = reinterpret_cast<const unsigned char*>(&value);
    std::size_t end = sizeof value;
    while (end > sizeof value.size && octets[end - 1] == 0x5a) end--;
    return end;
  }
};

TEST_F(CApi, AnOlderSmallerStructIsFilledNoFurtherThanItsSize) {
  for (const std::size_t size : {offsetof(psp_stats, rx_packets), offsetof(psp_stats, tx_error)}) {
    Untouched<psp_stats> stats(size);
    EXPECT_EQ(psp_get_stats(1, &stats.value, &error_), 0);
    EXPECT_EQ(stats.written(), size);
    EXPECT_EQ(stats.value.size, size);
    EXPECT_EQ(stats.value.dev_id, 1u);
  }
  Untouched<psp_device> device(offsetof(psp_device, versions_ena) + 4);
  EXPECT_EQ(psp_dev_list(&device.value, 1, &error_), 1);
  EXPECT_EQ(device.written(), offsetof(psp_device, versions_ena) + 4);
  EXPECT_EQ(device.value.ifindex, 7u);
  Untouched<psp_error> error(offsetof(psp_error, attr));
  EXPECT_EQ(psp_key_rotate(9, &error.value), -ENODEV);
  EXPECT_EQ(error.written(), sizeof error.value.size) << "a text without its end";
}

TEST_F(CApi, AStructOfALaterVersionIsFilledAsFarAsItIsKnown) {
  struct Later {
    psp_stats known;
    std::uint64_t news[2];
  };
  union {
    Later later = {.known = {}, .news = {7, 8}};
    psp_stats stats;
  } of;
  of.stats.size = sizeof of.later;
  EXPECT_EQ(psp_get_stats(1, &of.stats, &error_), 0);
  EXPECT_EQ(of.stats.dev_id, 1u);
  EXPECT_EQ(of.later.news[0], 7u);
}

TEST_F(CApi, AStructWithoutItsSizeIsRefused) {
  Untouched<psp_stats> stats(0);
  EXPECT_EQ(psp_get_stats(1, &stats.value, &error_), -EINVAL);
  EXPECT_STREQ(error_.text, "psp_stats: its size is not set (PSP_STATS_INIT)");
  EXPECT_EQ(stats.written(), sizeof stats.value.size);
  for (const std::size_t size : {std::size_t{0}, sizeof(std::size_t), sizeof(psp_device) + 1}) {
    Untouched<psp_device> device(size);
    EXPECT_EQ(psp_dev_list(&device.value, 1, &error_), -EINVAL);
    EXPECT_EQ(device.written(), sizeof device.value.size);
  }
  Untouched<psp_error> error(0);
  EXPECT_EQ(psp_key_rotate(9, &error.value), -ENODEV);
  EXPECT_EQ(error.written(), sizeof error.value.size);
}

TEST_F(CApi, IsCallableFromC) { EXPECT_EQ(psp_c_header_test(&error_), -EBADF); }

}  // namespace
}  // namespace psp::netlink
