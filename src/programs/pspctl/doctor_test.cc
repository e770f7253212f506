// SPDX-License-Identifier: Apache-2.0
//
// What doctor judges, apart from what it finds on the host that runs the test. Most tests hand
// facts to the judges: an old kernel, a device out of SPIs, a path with a translation in it. The
// oracle is the level of the verdict; that advice is there whenever something is wrong is checked
// each time.
//
// Some look at a network namespace of their own, and want root. Probes on a real path, with
// firewalls and routers, are in tests/netns/doctor_test.cc and doctor_host_test.cc.
#include "doctor.hh"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cstring>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

#include "base/unique_fd.hh"

namespace psp::ctl {
namespace {

using Level = Verdict::Level;

TEST(JudgeKernel, WantsSixPointOne) {
  EXPECT_EQ(judge_kernel("6.18.44-amd64").level, Level::kOk);
  EXPECT_EQ(judge_kernel("6.1.0-18-amd64").level, Level::kOk);
  EXPECT_EQ(judge_kernel("7.0").level, Level::kOk);
  EXPECT_EQ(judge_kernel("6.0.19").level, Level::kFail);
  EXPECT_EQ(judge_kernel("5.19").level, Level::kFail);
  EXPECT_EQ(judge_kernel("plan9").level, Level::kWarning);
}

DeviceFacts healthy() {
  return {
      .ifname = "eth0", .versions_ena = {1}, .up = true, .mtu = 1500, .spi_remaining = 1u << 30};
}

// worst is the worst verdict of a device.
Level worst(const DeviceFacts& facts) {
  Level level = Level::kOk;
  for (const Verdict& verdict : judge_device(facts)) {
    EXPECT_EQ(verdict.check, "eth0");
    EXPECT_EQ(verdict.advice.empty(), verdict.level == Level::kOk) << verdict.text;
    level = std::max(level, verdict.level);
  }
  return level;
}

TEST(JudgeDevice, IsContentWithAHealthyOne) { EXPECT_EQ(worst(healthy()), Level::kOk); }

TEST(JudgeDevice, WarnsIfNothingIsEnabled) {
  auto facts = healthy();
  facts.versions_ena = {};
  EXPECT_EQ(worst(facts), Level::kWarning);
}

TEST(JudgeDevice, FailsIfTheNetdevIsDownOrGone) {
  auto facts = healthy();
  facts.up = false;
  EXPECT_EQ(worst(facts), Level::kFail);
  facts.up = std::nullopt;
  EXPECT_EQ(worst(facts), Level::kFail);
}

TEST(JudgeDevice, WarnsIfIpv6HasNoRoomUnderTheMtu) {
  auto facts = healthy();
  facts.mtu = 1319;
  EXPECT_EQ(worst(facts), Level::kWarning);
  facts.mtu = 1320;
  EXPECT_EQ(worst(facts), Level::kOk);
}

TEST(JudgeDevice, WarnsOfFewSpisAndFailsOfNone) {
  auto facts = healthy();
  facts.spi_remaining = 1000;
  EXPECT_EQ(worst(facts), Level::kWarning);
  facts.spi_remaining = 0;
  EXPECT_EQ(worst(facts), Level::kFail);
  facts.spi_remaining = std::nullopt;  // a device of the kernel
  EXPECT_EQ(worst(facts), Level::kOk);
}

TEST(JudgeDevice, WarnsOfWhatWasPutBackAndFailsOfWhatCouldNotBe) {
  auto facts = healthy();
  facts.repairs = 1;
  EXPECT_EQ(worst(facts), Level::kWarning);
  facts.trouble = "psp0 was renamed mine, and cannot be put back: another netdev is named psp0";
  EXPECT_EQ(worst(facts), Level::kFail);
}

TEST(CheckHost, NamesEveryCheckOnceAndAdvisesWhereItIsNotOk) {
  std::vector<std::string> checks;
  for (const Verdict& verdict : check_host()) {
    checks.push_back(verdict.check);
    EXPECT_EQ(verdict.advice.empty(), verdict.level < Level::kWarning) << verdict.check;
    EXPECT_NE(verdict.text, "") << verdict.check;
  }
  EXPECT_EQ(checks, (std::vector<std::string>{"kernel", "tun", "tc-bpf", "btf", "cgroup",
                                              "sock-destroy", "cpu", "crypto"}));
}

TEST(CheckHost, SaysOfTheTapAndOfTcThatTheyNeedRoot) {
  std::thread([] {
    // By the system call, which is about this thread alone.
    if (geteuid() == 0) {
      ASSERT_EQ(syscall(SYS_setresuid, -1, 65534, -1), 0);
    }
    for (const Verdict& verdict : check_host())
      if (verdict.check == "tun" || verdict.check == "tc-bpf") {
        EXPECT_EQ(verdict.level, Level::kSkipped) << verdict.check;
        EXPECT_EQ(verdict.text, "needs root") << verdict.check;
      }
  }).join();
}

TEST(CheckPeer, SaysThatANameIsUnknown) {
  const auto verdicts = check_peer("no-such-host.invalid", {});
  ASSERT_EQ(verdicts.size(), 1u);
  EXPECT_EQ(verdicts[0].check, "peer");
  EXPECT_EQ(verdicts[0].level, Level::kFail);
}

// HeldProgram is a TAP device with a tc program of that name at egress; both go with it.
struct HeldProgram {
  explicit HeldProgram(const char* name) {
    ifreq request{};
    std::strcpy(request.ifr_name, "left0");
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    tap = UniqueFd(open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    if (ioctl(tap.get(), TUNSETIFF, &request) != 0) return;
    bpf_insn code[2] = {};
    code[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
    code[1].code = BPF_JMP | BPF_EXIT;
    program = UniqueFd(bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, name, "GPL", code, 2, nullptr));
    DECLARE_LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(if_nametoindex("left0")),
                        .attach_point = BPF_TC_EGRESS);
    DECLARE_LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = program.get());
    attached = bpf_tc_hook_create(&hook) == 0 && bpf_tc_attach(&hook, &options) == 0;
  }
  UniqueFd tap, program;
  bool attached = false;
};

// in_own_netns runs `work` on a thread with a network namespace of its own.
template <typename Work>
void in_own_netns(Work work) {
  std::thread([&] {
    ASSERT_EQ(unshare(CLONE_NEWNET), 0);
    work();
  }).join();
}

TEST(CheckLeftovers, FindsTheTcProgramsOfADeadPspd) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to attach a tc program";
  in_own_netns([] {
    EXPECT_TRUE(check_leftovers().empty());
    const HeldProgram held("psp_egress");
    ASSERT_TRUE(held.attached);
    const auto verdicts = check_leftovers();
    ASSERT_EQ(verdicts.size(), 1u);
    EXPECT_EQ(verdicts[0].check, "left0");
    EXPECT_EQ(verdicts[0].level, Level::kWarning);
    EXPECT_NE(verdicts[0].text.find("psp_egress"), std::string::npos);
  });
}

TEST(CheckLeftovers, LeavesProgramsOfOthersAlone) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to attach a tc program";
  in_own_netns([] {
    const HeldProgram held("shaper");
    ASSERT_TRUE(held.attached);
    EXPECT_TRUE(check_leftovers().empty());
  });
}

TEST(CheckUdpPort, WarnsOfAnotherProgramOnThePortOfPsp) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, for a network namespace";
  for (const int family : {AF_INET, AF_INET6})
    in_own_netns([family] {
      EXPECT_TRUE(check_udp_port().empty());
      const UniqueFd other(socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
      sockaddr_in6 any{};
      any.sin6_family = static_cast<sa_family_t>(family);
      any.sin6_port = htons(kUdpPort);
      ASSERT_EQ(bind(other.get(), reinterpret_cast<const sockaddr*>(&any),
                     family == AF_INET ? sizeof(sockaddr_in) : sizeof any),
                0);
      const auto verdicts = check_udp_port();
      ASSERT_EQ(verdicts.size(), 1u);
      EXPECT_EQ(verdicts[0].level, Level::kWarning);
      EXPECT_NE(verdicts[0].advice, "");
    });
}

TEST(CheckPeer, FailsWithoutRoute) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, for a network namespace";
  in_own_netns([] {
    const auto verdicts = check_peer("192.0.2.1", {});
    ASSERT_EQ(verdicts.size(), 1u);
    EXPECT_EQ(verdicts[0].check, "peer-route");
    EXPECT_EQ(verdicts[0].level, Level::kFail);
  });
}

ProbeAddress v4(std::uint8_t last) {
  return {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 77, 0, last};
}

// good_path is one on which all is well.
PathFacts good_path() {
  PathFacts facts;
  facts.netdev = "eth0";
  facts.way = {.family = 4, .source = v4(1), .peer = v4(2), .mtu = 1500};
  facts.enabled = VersionSet::all();
  wire::Probe answer;
  answer.answer = true;
  answer.source = v4(1);
  answer.destination = v4(2);
  answer.enabled = VersionSet::all();
  answer.mtu = 1500;
  facts.heard.answer = facts.heard.reply = answer;
  facts.heard.there = facts.heard.back = 1500;
  return facts;
}

// worst_of gives the first verdict that is not ok, or the last.
Verdict worst_of(const PathFacts& facts) {
  const auto verdicts = judge_path(facts);
  const auto found = std::ranges::find_if(
      verdicts, [](const Verdict& verdict) { return verdict.level != Level::kOk; });
  const Verdict& worst = found != verdicts.end() ? *found : verdicts.back();
  EXPECT_EQ(worst.advice.empty(), worst.level == Level::kOk) << worst.text;
  return worst;
}

TEST(JudgePath, IsContentIfEverythingPassesBothWays) {
  EXPECT_EQ(worst_of(good_path()).level, Level::kOk);
  auto smaller = good_path();  // the other end's MTU, which TCP knows of
  smaller.heard.answer->mtu = 1400;
  smaller.heard.back = 1400;
  EXPECT_EQ(worst_of(smaller).level, Level::kOk);
  auto told = good_path();
  told.heard.path_mtu = told.heard.there = told.heard.back = 1400;
  EXPECT_EQ(worst_of(told).level, Level::kOk);
}

TEST(JudgePath, NeverTakesSilenceForGood) {
  auto facts = good_path();
  facts.heard = {};
  EXPECT_EQ(worst_of(facts).level, Level::kFail);
  EXPECT_NE(worst_of(facts).text.find("no sign of 10.77.0.2"), std::string::npos);
  facts.heard.echo = true;
  EXPECT_NE(worst_of(facts).text.find("dropped on the way"), std::string::npos);
  facts.heard.reply = good_path().heard.reply;
  EXPECT_EQ(worst_of(facts).level, Level::kFail);
  EXPECT_NE(worst_of(facts).text.find("can only reply"), std::string::npos);
}

TEST(JudgePath, NamesLossAsSuch) {
  auto facts = good_path();
  facts.heard.probes = {.sent = 9, .answered = 8};
  EXPECT_EQ(worst_of(facts).level, Level::kOk) << "one may be lost anywhere";
  facts.heard.probes = {.sent = 14, .answered = 8};
  EXPECT_EQ(worst_of(facts).level, Level::kWarning);
  EXPECT_EQ(worst_of(facts).text,
            "10.77.0.2 answers, but packets are lost on the way: 8 of 14 probes were answered");
}

TEST(JudgePath, TakesLossForNoFirewall) {
  auto facts = good_path();
  facts.heard = {};
  facts.heard.echo = true;
  facts.heard.echoes = {.sent = 8, .answered = 2};
  EXPECT_EQ(worst_of(facts).text,
            "packets are lost on the way to 10.77.0.2: 2 of 8 pings were answered, and no probe");
  facts.heard.echoes = {.sent = 8, .answered = 6};
  EXPECT_NE(worst_of(facts).text.find("dropped on the way"), std::string::npos)
      << "as many pings are not answered where all probes are lost by chance";
  facts.heard.reply = good_path().heard.reply;
  facts.heard.probes = {.sent = 8, .answered = 1};
  EXPECT_EQ(worst_of(facts).text,
            "packets are lost on the way to 10.77.0.2: 1 of 8 probes were answered");
}

TEST(JudgePath, TakesLossForNoLimitOfSize) {
  auto facts = good_path();
  facts.heard.there = 1400;
  facts.heard.probes = {.sent = 20, .answered = 7};
  facts.heard.tries_of_a_size = 8;
  const auto verdicts = judge_path(facts);
  EXPECT_EQ(verdicts.back().level, Level::kWarning);
  EXPECT_EQ(verdicts.back().text, "not known: too many packets are lost, whatever their size");
  facts.heard.probes = {.sent = 7, .answered = 7};
  EXPECT_EQ(worst_of(facts).level, Level::kFail);
}

TEST(JudgePath, NamesWhoRefuses) {
  auto facts = good_path();
  facts.heard = {};
  const std::pair<Refusal::What, const char*> cases[] = {
      {Refusal::What::kPort, "10.77.0.2 has no PSP"},
      {Refusal::What::kFirewall, "a firewall at 10.77.0.254"},
      {Refusal::What::kUnreachable, "10.77.0.254 says that it cannot reach 10.77.0.2"}};
  for (const auto& [what, text] : cases) {
    facts.heard.refusal = Refusal{what, v4(254), 0};
    EXPECT_EQ(worst_of(facts).level, Level::kFail);
    EXPECT_NE(worst_of(facts).text.find(text), std::string::npos) << worst_of(facts).text;
  }
}

TEST(JudgePath, SeesTranslationOfEitherEnd) {
  for (const bool source : {true, false}) {
    auto facts = good_path();
    (source ? facts.heard.answer->source : facts.heard.answer->destination) = v4(99);
    EXPECT_EQ(worst_of(facts).level, Level::kFail);
    EXPECT_NE(worst_of(facts).text.find("10.77.0.99"), std::string::npos);
  }
}

TEST(JudgePath, WantsAVersionThatBothReceive) {
  auto facts = good_path();
  facts.enabled = {0b01};
  facts.heard.answer->enabled = {0b10};
  EXPECT_EQ(worst_of(facts).level, Level::kFail);
  EXPECT_EQ(worst_of(facts).advice,
            "here: pspctl dev set eth0 psp-versions-ena hdr0-aes-gcm-128,hdr0-aes-gcm-256");
  facts.enabled = {};
  EXPECT_EQ(worst_of(facts).level, Level::kFail);
}

TEST(JudgePath, SaysNothingOfASizeThatItHadNoTimeToTry) {
  auto facts = good_path();
  facts.heard.there = facts.heard.back = 1280;
  facts.heard.tries_of_a_size = 1;
  EXPECT_EQ(worst_of(facts).level, Level::kWarning);
  EXPECT_NE(worst_of(facts).text.find("not known"), std::string::npos);
}

TEST(JudgePath, SaysWhichWayLosesBigPackets) {
  auto facts = good_path();
  facts.heard.there = facts.heard.back = 1280;
  facts.heard.tries_of_a_size = 8;
  EXPECT_EQ(worst_of(facts).advice,
            "let them pass, or: ip route replace 10.77.0.2 dev eth0 mtu 1280");
  facts.gateway = "10.77.0.254";
  EXPECT_NE(worst_of(facts).advice.find("10.77.0.2 via 10.77.0.254 dev eth0 mtu 1280"),
            std::string::npos);
  facts.heard.there = 1500;
  EXPECT_NE(worst_of(facts).text.find("on the way back"), std::string::npos);
}

}  // namespace
}  // namespace psp::ctl
