// SPDX-License-Identifier: Apache-2.0
//
// Care: what pspd depends on, and who changes it: programs, qdiscs and notes at the netdev, at the
// TAP and at the root cgroup, and the TAP itself. Each is put back, said once and counted, and
// secured connections go on, in clear with nothing.
//
// Threading: the test's thread.
#include <csignal>
#include <fmt/format.h>
#include <fstream>
#include <gtest/gtest.h>
#include <unistd.h>

#include "lab.hh"

namespace psp::lab {
namespace {

// processor_ticks is how much of a processor a process has had, in hundredths of a second.
unsigned long processor_ticks(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string word;
  unsigned long user = 0, system = 0;
  for (int i = 0; i < 13; i++) file >> word;  // "(pspd)" has no space
  file >> user >> system;
  return user + system;
}

class Care : public testing::Test {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace();
    lab_->start(From::kA);
    lab_->start(From::kB);
    connection_ = lab_->connect(Kind::kIpv4);
    secure(*lab_, connection_);
    mark_ = lab_->cable().mark();
  }
  Netns& host() { return lab_->ns(From::kA); }
  pid_t daemon() { return lab_->pspd(From::kA).pid(); }
  DaemonInfo::Device device() { return lab_->daemon_info(From::kA).devices.front(); }
  // lines that the log has of something.
  std::size_t lines(const std::string& words) {
    const std::string& log = lab_->pspd(From::kA).log();
    std::size_t count = 0;
    for (std::size_t at = 0; (at = log.find(words, at)) != log.npos; at++) count++;
    return count;
  }
  std::size_t all_lines() { return lines("\n"); }
  void expect_carried() {
    for (const auto& [from, to] : {std::pair(connection_.a.get(), connection_.b.get()),
                                   std::pair(connection_.b.get(), connection_.a.get())}) {
      const Octets data = random_octets(5000);
      send_all(from, data);
      EXPECT_EQ(receive(to, data.size(), 10s), data);
      expect_nothing_in_clear(*lab_, connection_.flow, mark_, data);
    }
  }
  // expect_mended: `injury` costs one line with `words` and one count, and nothing is wrong then.
  void expect_mended(const std::string& words, const std::function<bool()>& injury) {
    SCOPED_TRACE(words);
    const std::uint64_t before = device().repairs;
    const std::size_t said = lines(words), all = all_lines();
    ASSERT_TRUE(injury());
    EXPECT_TRUE(eventually([&] { return device().repairs > before; }))
        << lab_->pspd(From::kA).log();
    expect_carried();
    EXPECT_EQ(device().trouble, "");
    EXPECT_EQ(lines(words), said + 1) << lab_->pspd(From::kA).log();
    EXPECT_EQ(device().repairs - before, all_lines() - all) << "each is said once";
  }
  std::function<bool()> tc(const std::string& command) {
    return [this, command] { return host().try_sh(command); };
  }
  std::function<bool()> off(const std::string& netdev, bool egress) {
    return [=, this] { return take_program_off(host(), netdev, egress); };
  }

  std::optional<Lab> lab_;
  Connection connection_;
  std::size_t mark_ = 0;
};

TEST_F(Care, PutsBackWhatIsTakenFromTheTap) {
  expect_mended("psp_tap_ingress was gone", tc("tc qdisc del dev psp0 clsact"));
  expect_mended("psp_tap_egress was gone", off("psp0", true));
  expect_mended("psp_tap_ingress was gone", off("psp0", false));
  expect_mended("psp0 was set down", tc("ip link set psp0 down"));
  expect_mended("psp0 was given an MTU of 1400", tc("ip link set psp0 mtu 1400"));
  expect_mended("psp0 was given a queue length of 1", tc("ip link set psp0 txqueuelen 1"));
  expect_mended("psp0 was renamed mine", tc("ip link set psp0 down name mine"));
}

TEST_F(Care, BringsATapHomeThatWasMovedToAnotherNamespace) {
  const Netns elsewhere;
  expect_mended(
      "psp0 was moved to another network namespace",
      tc(fmt::format("ip link set psp0 netns /proc/{}/fd/{}", ::getpid(), elsewhere.fd())));
  EXPECT_EQ(elsewhere.sh("ip -o link | grep -c psp || true"), "0\n");
}

TEST_F(Care, PutsBackWhatIsTakenFromTheNetdevAndTheRootCgroup) {
  expect_mended("psp_egress was gone", tc("tc qdisc del dev eth0 clsact"));
  expect_mended("psp_ingress was gone", off("eth0", false));
  for (const char* name :
       {"psp_sock_out", "psp_sock_in", "psp_setsockopt", "psp_getsockopt", "psp_released"})
    expect_mended(fmt::format("{} was taken off the root cgroup", name),
                  [&] { return take_socket_program_off(daemon(), name); });
}

TEST_F(Care, WritesAgainTheNotesThatLetSocketsSend) {
  const std::uint64_t before = device().repairs;
  EXPECT_GE(empty_map(daemon(), "psp_guard"), 3u) << "whose it is, the namespace, the netdev";
  EXPECT_TRUE(eventually([&] { return device().repairs >= before + 2; }));
  EXPECT_EQ(lines("the note that lets its secured sockets send was changed; put back"), 1u);
  EXPECT_EQ(lines("the note of whose pspd's programs are was changed; put back"), 1u);
  EXPECT_EQ(entries_of(daemon())["psp_guard"], 3u);
  expect_carried();
}

// An ingress qdisc is in the place of the clsact: with tcx pspd works without, and does not insist.
TEST_F(Care, SaysOnceWhatAnIngressQdiscIsInTheWayOfAndMakesItsClsactWhenThatGoes) {
  Netns host;
  host.sh("ip link add dev0 type veth peer name dev1 && ip link set dev0 up");
  host.sh("tc qdisc add dev dev0 ingress");
  Pspd other(host, {"--dev", "dev0", "--socket", "@other"});
  const std::string words = "dev0: an ingress qdisc is in the place of the clsact qdisc";
  if (!other.wait_ready()) {  // before Linux 6.6
    EXPECT_NE(other.log().find(words), std::string::npos) << other.log();
    return;
  }
  const std::string log = other.log();
  ASSERT_NE(log.find(words), std::string::npos) << log;
  const unsigned long before = processor_ticks(other.pid());
  std::this_thread::sleep_for(2s);
  host.sh("tc filter add dev dev0 ingress prio 9 bpf da bytecode '1,6 0 0 4294967295'");
  std::this_thread::sleep_for(1s);
  EXPECT_EQ(other.log(), log) << "a line a state change, and nothing has changed";
  EXPECT_LE(processor_ticks(other.pid()) - before, 50u) << "half a second of the processor in 3";
  host.sh("tc qdisc del dev dev0 ingress");
  EXPECT_TRUE(eventually(
      [&] { return !host.sh("tc qdisc show dev dev0 clsact | grep clsact || true").empty(); }));
  EXPECT_TRUE(eventually([&] {
    return host.sh("tc filter show dev dev0 egress").find("psp_egress") != std::string::npos;
  }));
  EXPECT_EQ(other.stop(), 0) << other.log();
  EXPECT_EQ(host.sh("tc qdisc show dev dev0 clsact"), "");
}

TEST_F(Care, SaysWhatItCannotPutBackUntilItCan) {
  host().sh("ip link add rival0 type veth peer name rival1");
  ASSERT_EQ(::kill(daemon(), SIGSTOP), 0);  // or it would be faster
  host().sh("ip link set psp0 down name mine && ip link set rival0 name psp0");
  ::kill(daemon(), SIGCONT);
  EXPECT_TRUE(eventually([&] { return !device().trouble.empty(); }));
  EXPECT_EQ(device().trouble,
            "psp0 was renamed mine, and cannot be put back: another netdev is named psp0");
  expect_carried();
  std::this_thread::sleep_for(2s);  // more looks
  EXPECT_EQ(lines("another netdev is named psp0"), 1u) << lab_->pspd(From::kA).log();
  const std::string seen = host().sh(PSPCTL_PATH " doctor || true");
  EXPECT_NE(seen.find("another netdev is named psp0"), std::string::npos) << seen;
  host().sh("ip link del psp0");
  EXPECT_TRUE(eventually([&] { return device().trouble.empty(); }, 20s));
  const std::string after = host().sh(PSPCTL_PATH " doctor || true");
  EXPECT_EQ(after.find("another netdev is named psp0"), std::string::npos) << after;
  EXPECT_NE(after.find("put back"), std::string::npos) << after;
  EXPECT_EQ(host().sh("ip -o link | grep -c ' psp0:'"), "1\n");
}

}  // namespace
}  // namespace psp::lab
