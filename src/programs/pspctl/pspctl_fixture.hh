// SPDX-License-Identifier: Apache-2.0
//
// For tests: pspctl from argv to octets on stdout and stderr, against the real server of the psp
// family. Device 1 is on "lo", since that netdev is everywhere ifindex 1; device 2 is on a netdev
// that is not there.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "device/state_table.h"

#include "command.hh"
#include "fake_pspd.hh"

namespace psp::ctl {

struct Result {
  ExitStatus status;
  std::string out, err;
};

// Given is what a run finds: octets on the standard input, a terminal that shows colour.
struct Given {
  std::string in;
  bool colour = false;
};

// call runs pspctl as main() would.
inline Result call(const std::vector<std::string>& arguments, const Given& given = {}) {
  char *out = nullptr, *err = nullptr;
  std::size_t out_size = 0, err_size = 0;
  Environment environment;
  environment.in = fmemopen(const_cast<char*>(given.in.data()), given.in.size(), "r");
  environment.colour = given.colour;
  environment.out = open_memstream(&out, &out_size);
  environment.err = open_memstream(&err, &err_size);
  environment.now = [] {
    return std::chrono::system_clock::time_point(std::chrono::microseconds(1700000000000042));
  };
  Result result;
  result.status = run(arguments, environment);
  if (environment.in != nullptr) std::fclose(environment.in);
  std::fclose(environment.out);
  std::fclose(environment.err);
  result.out.assign(out, out_size);
  result.err.assign(err, err_size);
  std::free(out);
  std::free(err);
  return result;
}

class Pspctl : public ::testing::Test {
 protected:
  Pspctl() {
    pspd.core.add_device({0, 1}, "lo", VersionSet::all(), pspd.driver).value();
    pspd.core.add_device({0, 424242}, "gone0", VersionSet{0x3}, pspd.second_driver).value();
    pspd.core.set_versions(1, VersionSet{0x3}).value();
    pspd.driver.counters = {.rx_packets = 5,
                            .rx_bytes = 1ull << 40,
                            .rx_auth_fail = 1,
                            .rx_error = 2,
                            .rx_bad = 3,
                            .tx_packets = 7,
                            .tx_bytes = 99,
                            .tx_error = 4};
    pspd.info.version = "0.1.0";
    pspd.info.crypto_backend = "openssl";
    pspd.info.pid = 42;
    pspd.info.devices = {{.id = 1,
                          .ifname = "lo",
                          .tap = "psp0",
                          .mtu = 1500,
                          .generation = 3,
                          .spi_remaining = 1u << 30,
                          .drops = {{"AUTH_FAIL", 1}, {"POLICY_CLEAR", 9}}}};
    pspd.assocs = {association_v4(), association_v6()};
  }

  static AssocInfo association_v4() {
    AssocInfo assoc;
    assoc.cookie = 77;
    assoc.ifname = "lo";
    assoc.family = 4;
    assoc.local_address = "192.0.2.1";
    assoc.peer_address = "192.0.2.2";
    assoc.local_port = 40000;
    assoc.peer_port = 7000;
    assoc.state = PSP_STATE_FULL;
    assoc.tcp_state = "established";
    assoc.rx = {.spi = 0x80000001, .rotation = 0, .dev_id = 1, .generation = 2, .version = 1};
    assoc.stale = true;
    assoc.tx_spi = Spi{0x2a};
    assoc.rx_packets = 10;
    assoc.rx_bytes = 11;
    assoc.tx_packets = 12;
    assoc.tx_bytes = 1ull << 33;
    assoc.rx_drops = 14;
    return assoc;
  }
  static AssocInfo association_v6() {
    AssocInfo assoc;
    assoc.cookie = 78;
    assoc.ifname = "gone0";
    assoc.family = 6;
    assoc.local_address = "2001:db8::1";
    assoc.peer_address = "2001:db8::2";
    assoc.local_port = 40001;
    assoc.peer_port = 7000;
    assoc.state = PSP_STATE_RX;
    assoc.tcp_state = "established";
    assoc.rx.spi = 2;
    assoc.rx.dev_id = 2;
    return assoc;
  }

  Result call_pspd(std::vector<std::string> arguments, const Given& given = {}) {
    arguments.insert(arguments.begin(), {"--socket", pspd.address});
    return call(arguments, given);
  }

  // text and json expect success and silence on stderr.
  std::string text(std::vector<std::string> arguments) {
    Result result = call_pspd(std::move(arguments));
    EXPECT_EQ(result.status, ExitStatus::kOk);
    EXPECT_EQ(result.err, "");
    return result.out;
  }
  nlohmann::ordered_json json(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "-j");
    return nlohmann::ordered_json::parse(text(std::move(arguments)));
  }

  // fails expects a failure with exactly this on stderr and nothing on stdout.
  void fails(std::vector<std::string> arguments, ExitStatus status, const std::string& error) {
    const Result result = call_pspd(std::move(arguments));
    EXPECT_EQ(result.status, status);
    EXPECT_EQ(result.err, "pspctl: error: " + error + "\n");
    EXPECT_EQ(result.out, "");
  }

  FakePspd pspd;
};

}  // namespace psp::ctl
