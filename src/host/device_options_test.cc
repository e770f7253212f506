// SPDX-License-Identifier: Apache-2.0
//
// What is refused before anything of the host is touched, and what devices are made with if nothing
// is. Nothing here needs root: the options are plain values, and no device is made.
//
// That a worker runs where it was told to, and seals with that backend, is not shown here.
#include "device_options.hh"

#include <gtest/gtest.h>
#include <sched.h>

namespace psp::host {
namespace {

class DeviceOptionsTest : public testing::Test {
 protected:
  std::expected<kernel::HostDeviceOptions, std::string> make() {
    return device_options(settings_, ivs_);
  }
  Settings settings_;
  device::IvAllocator ivs_{[] { return std::uint64_t{1}; }};
};

TEST_F(DeviceOptionsTest, AreThoseOfTheSettings) {
  settings_.crypto = "openssl";
  settings_.workers = 3;
  settings_.rx_cache = 7;
  settings_.busy_poll_us = 20;
  settings_.udp_checksum = false;
  const auto options = make();
  ASSERT_TRUE(options) << options.error();
  EXPECT_EQ(options->driver.backend->name(), "openssl");
  EXPECT_EQ(options->driver.ivs, &ivs_);
  EXPECT_EQ(options->driver.rx_cache_entries, 7u);
  EXPECT_EQ(options->workers, 3u);
  EXPECT_EQ(options->busy_poll_us, 20u);
  EXPECT_FALSE(options->tx.udp_checksum);
  EXPECT_LT(options->tx.port_first, options->tx.port_last);
}

TEST_F(DeviceOptionsTest, EachHasPortsOfItsOwn) {
  const auto one = make(), other = make();
  ASSERT_TRUE(one && other);
  EXPECT_NE(std::memcmp(&one->tx.port_key, &other->tx.port_key, sizeof one->tx.port_key), 0);
}

TEST_F(DeviceOptionsTest, ABackendThatIsNotThereIsAnError) {
  settings_.crypto = "rot13";
  const auto options = make();
  ASSERT_FALSE(options);
  EXPECT_NE(options.error().find("no crypto backend 'rot13'"), std::string::npos);
}

TEST_F(DeviceOptionsTest, AProcessorThatIsNotOursIsAnError) {
  settings_.cpus = {CPU_SETSIZE - 1};
  const auto options = make();
  ASSERT_FALSE(options);
  EXPECT_NE(options.error().find("processor 1023 is none that pspd may run on"), std::string::npos);
}

}  // namespace
}  // namespace psp::host
