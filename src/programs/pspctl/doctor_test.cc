// SPDX-License-Identifier: Apache-2.0
//
// What doctor judges, apart from what it finds on the host that runs the test.
#include "doctor.hh"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cstring>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <thread>
#include <unistd.h>

#include <psp/base/unique_fd.hh>

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

TEST(CheckPeer, FailsWithoutRoute) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, for a network namespace";
  in_own_netns([] {
    const auto verdicts = check_peer("192.0.2.1", {});
    ASSERT_EQ(verdicts.size(), 2u);
    EXPECT_EQ(verdicts[0].check, "peer-route");
    EXPECT_EQ(verdicts[0].level, Level::kFail);
    EXPECT_EQ(verdicts[1].check, "peer-udp");
    EXPECT_EQ(verdicts[1].level, Level::kFail);
  });
}

}  // namespace
}  // namespace psp::ctl
