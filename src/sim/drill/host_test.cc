// SPDX-License-Identifier: Apache-2.0
//
// The host of psp-drill --model by itself: what it answers, and that nothing but requests moves it.
// What it does right as a host is shown by the scripts of tests/drill.
//
// A script that fails must fail by the host's fault: so time and chance are looked at here.
#include "drill/host.hh"

#include <gtest/gtest.h>

namespace psp::sim {
namespace {

using Json = DrillHost::Json;

Json begin(DrillHost& host, unsigned seed = 1) {
  return host.answer({{"op", "begin"}, {"mtu", 1500}, {"pspd", Json::array()}, {"seed", seed}});
}

Json connect(DrillHost& host) {
  return host.answer({{"op", "connect"},
                      {"name", "a"},
                      {"family", 4},
                      {"address", "10.99.0.1"},
                      {"port", 1000},
                      {"peer", "10.99.0.2"},
                      {"peer_port", 2000},
                      {"options", Json::array()}});
}

TEST(DrillHostTest, SendsWhatTheApplicationCauses) {
  DrillHost host;
  ASSERT_TRUE(begin(host).contains("ok"));
  EXPECT_EQ(connect(host)["ok"], 1000);
  const Json got = host.answer({{"op", "receive"}, {"timeout", 0}});
  EXPECT_EQ(got["ok"][1].get<std::string>().substr(0, 2), "45") << got;
  EXPECT_TRUE(host.answer({{"op", "receive"}, {"timeout", 0.5}})["ok"].is_null());
}

TEST(DrillHostTest, TimeGoesOnWhereARequestWaitsAndAMillisecondACall) {
  DrillHost host;
  const double start = begin(host)["now"];
  EXPECT_NEAR(host.answer({{"op", "receive"}, {"timeout", 0.25}})["now"], start + 0.25, 1e-6);
  EXPECT_NEAR(host.answer({{"op", "devices"}})["now"], start + 0.251, 1e-6);
}

TEST(DrillHostTest, SaysWhatItDoesNotHave) {
  DrillHost host;
  begin(host);
  connect(host);
  EXPECT_EQ(host.answer({{"op", "sing"}})["lacks"], "sing");
  const Json set = {{"op", "setsockopt"}, {"name", "a"}, {"option", "SO_KEEPALIVE"}, {"value", 1}};
  EXPECT_EQ(host.answer(set)["lacks"], "SO_KEEPALIVE");
}

TEST(DrillHostTest, SaysWhoIsRefusedAsTheCoreDoes) {
  DrillHost host;
  begin(host);
  connect(host);
  const Json answer = host.answer({{"op", "tx_assoc"},
                                   {"name", "a"},
                                   {"version", 0},
                                   {"device", nullptr},
                                   {"spi", 1},
                                   {"key", "000102030405060708090a0b0c0d0e0f"}});
  EXPECT_EQ(answer["errno"], EINVAL);
  EXPECT_EQ(answer["text"], "Socket has no Rx key");
}

TEST(DrillHostTest, TheSameSeedIsTheSameRun) {
  std::string sent[2];
  for (std::string& packet : sent) {
    DrillHost host;
    begin(host, 7);
    connect(host);
    packet = host.answer({{"op", "receive"}, {"timeout", 0}})["ok"].dump();
  }
  EXPECT_EQ(sent[0], sent[1]);
}

}  // namespace
}  // namespace psp::sim
