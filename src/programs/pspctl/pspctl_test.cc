// SPDX-License-Identifier: Apache-2.0
//
// What each noun of pspctl prints and how it fails. Output is compared octet for octet, as text and
// as JSON, since scripts read it: a test that fails here is an interface that has changed.
//
// Commands run in this process against the real server over a core with fake drivers (FakePspd): no
// root, no packets. Each exit status has its test. pspctl against a real pspd is in tests/netns.
#include <fstream>
#include <future>

#include "wire/drop.hh"

#include "pspctl_fixture.hh"

namespace psp::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST_F(Pspctl, ShowsDevicesForPeople) {
  pspd.start();
  const std::string expected =
      "1: lo: ifindex 1\n"
      "    psp-versions-cap hdr0-aes-gcm-128 hdr0-aes-gcm-256 hdr0-aes-gmac-128 hdr0-aes-gmac-256\n"
      "    psp-versions-ena hdr0-aes-gcm-128 hdr0-aes-gcm-256\n"
      "2: if424242: ifindex 424242\n"
      "    psp-versions-cap hdr0-aes-gcm-128 hdr0-aes-gcm-256\n"
      "    psp-versions-ena none\n";
  EXPECT_EQ(text({"dev", "show"}), expected);
  EXPECT_EQ(text({"dev"}), expected);
  EXPECT_EQ(text({}), expected);
}

TEST_F(Pspctl, ShowsDevicesAsJson) {
  pspd.start();
  EXPECT_EQ(text({"-j", "dev", "show", "lo"}),
            R"([{"id":1,"ifname":"lo","ifindex":1,)"
            R"("psp-versions-cap":["hdr0-aes-gcm-128","hdr0-aes-gcm-256","hdr0-aes-gmac-128",)"
            R"("hdr0-aes-gmac-256"],"psp-versions-ena":["hdr0-aes-gcm-128","hdr0-aes-gcm-256"]}])"
            "\n");
  const auto second = json({"dev", "show", "id", "2"});
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(second[0]["psp-versions-ena"], nlohmann::json::array());
  EXPECT_THAT(text({"-jp", "dev"}), StartsWith("[\n    {\n        \"id\": 1,\n"));
}

TEST_F(Pspctl, ShowsWhatPspdKnowsOfADevice) {
  pspd.start();
  EXPECT_THAT(
      text({"-d", "dev", "show", "lo"}),
      HasSubstr(
          "\n    tap psp0 mtu 1500 generation 3 spi-remaining 1073741824 refused 0 repairs 0\n"));
  const auto device = json({"-s", "-d", "dev", "show", "dev", "lo"})[0];
  EXPECT_EQ(device["tap"], "psp0");
  EXPECT_EQ(device["spi-remaining"], 1u << 30);
  EXPECT_EQ(device["stats"]["rx-auth-fail"], 1);
  EXPECT_EQ(device["stats"]["drops"]["POLICY_CLEAR"], 9);
}

TEST_F(Pspctl, SetsVersionsByNameShortNameAndNumber) {
  pspd.start();
  EXPECT_EQ(
      text({"dev", "set", "dev", "lo", "psp-versions-ena", "hdr0-aes-gcm-128,aes-gmac-256,1"}), "");
  EXPECT_EQ(
      json({"dev", "show", "lo"})[0]["psp-versions-ena"],
      (std::vector<std::string>{"hdr0-aes-gcm-128", "hdr0-aes-gcm-256", "hdr0-aes-gmac-256"}));
  EXPECT_EQ(text({"-j", "dev", "set", "id", "2", "psp-versions-ena", "all"}), "[]\n");
  EXPECT_EQ(json({"dev", "show", "id", "2"})[0]["psp-versions-ena"].size(), 2u);
  EXPECT_EQ(text({"dev", "set", "lo", "psp-versions-ena", "none"}), "");
  EXPECT_EQ(json({"dev", "show", "lo"})[0]["psp-versions-ena"].size(), 0u);
}

TEST_F(Pspctl, ShowsStatisticsForPeople) {
  pspd.start();
  EXPECT_EQ(text({"stats", "show", "lo"}),
            "1: lo:\n"
            "    key-rotations                      0\n"
            "    stale-events                       0\n"
            "    rx-packets                         5\n"
            "    rx-bytes               1099511627776\n"
            "    rx-auth-fail                       1\n"
            "    rx-error                           2\n"
            "    rx-bad                             3\n"
            "    tx-packets                         7\n"
            "    tx-bytes                          99\n"
            "    tx-error                           4\n");
  EXPECT_THAT(text({"-s", "stats", "show", "lo"}),
              HasSubstr("    drops\n"
                        "      AUTH_FAIL                        1\n"
                        "      POLICY_CLEAR                     9\n"));
}

TEST_F(Pspctl, ShowsStatisticsAsJson) {
  pspd.start();
  EXPECT_EQ(text({"-j", "stats", "show", "id", "1"}),
            R"([{"dev-id":1,"ifname":"lo","key-rotations":0,"stale-events":0,"rx-packets":5,)"
            R"("rx-bytes":1099511627776,"rx-auth-fail":1,"rx-error":2,"rx-bad":3,"tx-packets":7,)"
            R"("tx-bytes":99,"tx-error":4}])"
            "\n");
  EXPECT_EQ(json({"stats"}).size(), 2u);
}

TEST_F(Pspctl, ShowsConnectionsForPeople) {
  pspd.start();
  EXPECT_EQ(text({"assoc", "show"}),
            "192.0.2.1:40000 -> 192.0.2.2:7000: state full tcp-state established stale\n"
            "    dev-id 1 ifname lo version hdr0-aes-gcm-256 generation 2\n"
            "    rx-spi 0x80000001 rx-packets 10 rx-bytes 11 rx-drops 14\n"
            "    tx-spi 0x0000002a tx-packets 12 tx-bytes 8589934592\n"
            "[2001:db8::1]:40001 -> [2001:db8::2]:7000: state rx tcp-state established\n"
            "    dev-id 2 ifname gone0 version hdr0-aes-gcm-128 generation 0\n"
            "    rx-spi 0x00000002 rx-packets 0 rx-bytes 0 rx-drops 0\n"
            "    tx-spi none tx-packets 0 tx-bytes 0\n");
}

TEST_F(Pspctl, ShowsConnectionsAsJson) {
  pspd.start();
  EXPECT_EQ(text({"-j", "-d", "assoc", "show", "state", "full"}),
            R"([{"family":"inet","local-address":"192.0.2.1","local-port":40000,)"
            R"("peer-address":"192.0.2.2","peer-port":7000,"state":"full",)"
            R"("tcp-state":"established","stale":true,"dev-id":1,"ifname":"lo",)"
            R"("version":"hdr0-aes-gcm-256","generation":2,"rx-spi":2147483649,"rx-packets":10,)"
            R"("rx-bytes":11,"rx-drops":14,"tx-spi":42,"tx-packets":12,"tx-bytes":8589934592,)"
            R"("cookie":77}])"
            "\n");
  const auto of_second = json({"assoc", "show", "dev", "id", "2"});
  ASSERT_EQ(of_second.size(), 1u);
  EXPECT_FALSE(of_second[0].contains("tx-spi"));
  EXPECT_EQ(json({"assoc", "show", "state", "tx", "dev", "lo"}).size(), 0u);
}

TEST_F(Pspctl, RotatesAKey) {
  pspd.start();
  EXPECT_EQ(text({"key", "rotate", "lo"}), "");
  EXPECT_EQ(text({"-j", "key", "rotate", "id", "1"}), "[]\n");
  EXPECT_EQ(json({"stats", "show", "lo"})[0]["key-rotations"], 2);
}

TEST_F(Pspctl, MonitorsOneLineAnEvent) {
  pspd.start();
  auto monitor = std::async(std::launch::async, [this] {
    return call_pspd({"-t", "monitor", "count", "2"});
  });
  pspd.wait_for_member();
  text({"key", "rotate", "lo"});
  text({"dev", "set", "lo", "psp-versions-ena", "0"});
  const Result result = monitor.get();
  EXPECT_EQ(result.status, ExitStatus::kOk);
  EXPECT_EQ(result.out,
            "[2023-11-14T22:13:20.000042Z] key-rotate-ntf 1:\n"
            "[2023-11-14T22:13:20.000042Z] dev-change-ntf 1: lo: ifindex 1 psp-versions-cap "
            "hdr0-aes-gcm-128 hdr0-aes-gcm-256 hdr0-aes-gmac-128 hdr0-aes-gmac-256 "
            "psp-versions-ena hdr0-aes-gcm-128\n");
}

TEST_F(Pspctl, MonitorsOneGroupAsJsonLines) {
  pspd.start();
  auto monitor = std::async(std::launch::async, [this] {
    return call_pspd({"-j", "monitor", "mgmt", "count", "2"});
  });
  pspd.wait_for_member();
  text({"key", "rotate", "lo"});  // not of this group
  text({"dev", "set", "id", "2", "psp-versions-ena", "none"});
  text({"dev", "set", "id", "2", "psp-versions-ena", "1"});
  const std::string head =
      R"({"name":"dev-change-ntf","id":2,"ifname":"if424242","ifindex":424242,)"
      R"("psp-versions-cap":["hdr0-aes-gcm-128","hdr0-aes-gcm-256"],"psp-versions-ena":)";
  EXPECT_EQ(monitor.get().out, head + "[]}\n" + head + "[\"hdr0-aes-gcm-256\"]}\n");
}

TEST_F(Pspctl, GivesTheServersWordsForARefusal) {
  pspd.start();
  fails({"dev", "set", "id", "2", "psp-versions-ena", "2"}, ExitStatus::kFailed,
        "dev set id 2: Requested PSP versions not supported by the device");
  fails({"dev", "show", "id", "9"}, ExitStatus::kFailed, "dev show id 9: No such device");
  fails({"key", "rotate", "no-such0"}, ExitStatus::kFailed,
        "key rotate no-such0: no such network interface");
}

TEST(Refusal, NamesTheAttribute) {
  ClientError error;
  error.sys_errno = EINVAL;
  error.text = "Device id vs socket mismatch";
  error.bad_attribute = ".dev-id";
  EXPECT_EQ(refused("rx-assoc", error).error().message,
            "rx-assoc: Device id vs socket mismatch (bad attribute .dev-id)");
  error = {};
  error.sys_errno = EINVAL;
  error.missing_attribute = ".version";
  EXPECT_EQ(refused("rx-assoc", error).error().message,
            "rx-assoc: Invalid argument (missing attribute .version)");
}

TEST_F(Pspctl, ExitsWithFiveWithoutPermission) {
  pspd.net_admin = false;
  pspd.start();
  fails({"key", "rotate", "lo"}, ExitStatus::kPermission, "key rotate lo: Operation not permitted");
  fails({"dev", "set", "lo", "psp-versions-ena", "all"}, ExitStatus::kPermission,
        "dev set lo: Operation not permitted");
  EXPECT_EQ(call_pspd({"dev", "show"}).status, ExitStatus::kOk);
}

TEST_F(Pspctl, ExitsWithFourIfNotSupported) {
  pspd.with_inspector = false;
  pspd.start();
  fails({"assoc", "show"}, ExitStatus::kNotSupported, "assoc show: Operation not supported");
}

TEST_F(Pspctl, ExitsWithThreeIfNobodyAnswers) {  // never started
  const Result result = call_pspd({"dev", "show"});
  EXPECT_EQ(result.status, ExitStatus::kUnreachable);
  EXPECT_THAT(result.err, StartsWith("pspctl: error: connect: "));
  EXPECT_THAT(result.err, HasSubstr(pspd.address));
  EXPECT_EQ(result.out, "");
}

TEST_F(Pspctl, ExitsWithThreeIfPspdEnds) {
  auto dying = std::make_unique<FakePspd>();
  dying->start();
  auto monitor = std::async(std::launch::async, [address = dying->address] {
    return call({"--socket", address, "monitor"});
  });
  dying->wait_for_member();
  dying.reset();
  EXPECT_EQ(monitor.get().status, ExitStatus::kUnreachable);
}

TEST_F(Pspctl, ExitsWithTwoForUsage) {
  fails({"frob"}, ExitStatus::kUsage, "\"frob\" is no noun of pspctl; see pspctl --help");
  fails({"dev", "frob"}, ExitStatus::kUsage,
        "dev: \"frob\" is no verb of it (show, set, assoc, disassoc)");
  fails({"key"}, ExitStatus::kUsage, "key: VERB is missing (rotate)");
  fails({"key", "rotate"}, ExitStatus::kUsage, "IFNAME (or \"id N\") is missing");
  fails({"dev", "show", "lo", "lo"}, ExitStatus::kUsage, "\"lo\" is not expected here");
  fails({"dev", "show", "id", "0"}, ExitStatus::kUsage, "\"0\" is no device id");
  fails({"dev", "set", "lo"}, ExitStatus::kUsage,
        "dev set: nothing to set (psp-versions-ena LIST is missing)");
  fails({"dev", "set", "lo", "mtu", "9"}, ExitStatus::kUsage,
        "dev set: \"mtu\" cannot be set (psp-versions-ena can)");
  fails({"assoc", "show", "state", "none"}, ExitStatus::kUsage,
        "\"none\" is no state (rx, tx, full)");
  fails({"monitor", "count", "0"}, ExitStatus::kUsage, "\"0\" is no count");
  fails({"dev", "show", "--peer", "h"}, ExitStatus::kUsage, "--peer is for doctor only");
  EXPECT_EQ(call({"--frob"}).status, ExitStatus::kUsage);
  EXPECT_EQ(call({"dev", "set", "lo", "psp-versions-ena", "4"}).status, ExitStatus::kUsage);
  EXPECT_EQ(call({"dev", "set", "lo", "psp-versions-ena", "0,"}).status, ExitStatus::kUsage);
}

TEST(Help, FitsAScreenAndExistsForEachNoun) {
  for (const auto& arguments :
       std::vector<std::vector<std::string>>{{"--help"}, {"-h"}, {"help"}}) {
    const Result result = call(arguments);
    EXPECT_EQ(result.status, ExitStatus::kOk);
    EXPECT_LE(std::ranges::count(result.out, '\n'), 24);
    EXPECT_THAT(result.out, StartsWith("Usage: pspctl "));
  }
  for (const std::string noun : {"dev", "key", "assoc", "stats", "monitor", "doctor", "netlink"}) {
    const Result result = call({noun, "help"});
    EXPECT_EQ(result.status, ExitStatus::kOk);
    EXPECT_THAT(result.out, StartsWith("Usage: pspctl " + noun));
    EXPECT_EQ(call({noun, "--help"}).out, result.out);
    EXPECT_EQ(call({"help", noun}).out, result.out);
  }
  // What stands behind run is a program, "help" too.
  EXPECT_THAT(call({"run", "--help"}).out,
              StartsWith("Usage: pspctl [--socket ADDR] [-n NAME] run"));
  EXPECT_EQ(call({"help", "run"}).out, call({"run", "--help"}).out);
  EXPECT_EQ(call({"run"}).status, ExitStatus::kUsage);
  EXPECT_EQ(call({"run", "--"}).status, ExitStatus::kUsage);
  EXPECT_THAT(call({"-V"}).out, StartsWith("pspctl of softpsp "));
}

TEST(ManualPage, ListsEveryDropReasonInItsWords) {
  std::ifstream file(PSP_SOURCE_DIR "/man/pspctl.8");
  const std::string page{std::istreambuf_iterator<char>(file), {}};
  for (unsigned number = 1; number < PSP_DROP_MAX; ++number) {
    const Drop reason{static_cast<std::uint8_t>(number)};
    if (name(reason) == "UNKNOWN") continue;
    EXPECT_THAT(page, HasSubstr(".It " + std::string(name(reason)) + "\n" +
                                std::string(psp::text(reason)) + "\n"));
  }
}

TEST_F(Pspctl, SaysThatOutputCouldNotBeWritten) {
  pspd.start();
  Environment environment;
  environment.out = std::fopen("/dev/full", "w");
  char* err = nullptr;
  std::size_t err_size = 0;
  environment.err = open_memstream(&err, &err_size);
  EXPECT_EQ(run({"--socket", pspd.address, "dev"}, environment), ExitStatus::kFailed);
  std::fclose(environment.out);
  std::fclose(environment.err);
  EXPECT_EQ(std::string(err, err_size), "pspctl: error: write output: No space left on device\n");
  std::free(err);
}

TEST_F(Pspctl, DoctorFindsPspdAndItsDevices) {
  pspd.start();
  // The status depends on the host that runs the test; what it says of pspd does not.
  const Result result = call_pspd({"-j", "doctor"});
  const auto verdicts = nlohmann::json::parse(result.out);
  const auto has = [&](const char* check, const char* verdict, const std::string& words) {
    return std::ranges::any_of(verdicts, [&](const nlohmann::json& one) {
      return one["check"] == check && one["verdict"] == verdict &&
             one["text"].get<std::string>().find(words) != std::string::npos;
    });
  };
  EXPECT_TRUE(has("pspd", "ok", "pspd 0.1.0 answers, pid 42, openssl")) << result.out;
  EXPECT_TRUE(has("lo", "ok", "1073741824 SPIs")) << result.out;
  EXPECT_TRUE(has("if424242", "fail", "no such netdev")) << result.out;
  EXPECT_TRUE(has("if424242", "warn", "no version is enabled")) << result.out;
  EXPECT_TRUE(has("crypto", "ok", "self-test passed")) << result.out;
  EXPECT_EQ(result.status, ExitStatus::kFailed);
  EXPECT_EQ(result.err, "");
}

TEST_F(Pspctl, DoctorSaysWhatToDoWithoutPspd) {  // never started
  const Result result = call_pspd({"doctor"});
  EXPECT_EQ(result.status, ExitStatus::kFailed);
  EXPECT_THAT(result.out, HasSubstr("FAIL pspd: "));
  EXPECT_THAT(result.out, HasSubstr("     -> if it runs: is it in this network namespace, and at " +
                                    pspd.address));
}

TEST_F(Pspctl, DoctorDoesNotTakeItsOwnHostForAPeer) {
  pspd.start();
  const Result result = call_pspd({"doctor", "lo", "--peer", "127.0.0.1"});
  EXPECT_EQ(result.status, ExitStatus::kFailed);
  EXPECT_THAT(result.out, HasSubstr("FAIL peer-route: 127.0.0.1 is this host's own address"));
}

}  // namespace
}  // namespace psp::ctl
