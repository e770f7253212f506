// SPDX-License-Identifier: Apache-2.0
//
// Doors: the places at a netdev where pspd's programs stand, and who takes them away: the clsact
// qdisc is deleted, or the program at tcx, or the netdev with both; another's program comes before
// pspd's. While pspd lives, is dead, or hangs. A secured socket says nothing in clear, whatever is
// in pspd's place then.
//
// Threading: the test's thread, and Traffic's.
#include <csignal>
#include <cstring>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "traffic.hh"

namespace psp::lab {
namespace {

constexpr const char* kAcceptAll = "bytecode '1,6 0 0 4294967295'";

// What comes into the place of what was taken away.
enum class After { kNewDaemon, kForeignClsact, kFrozenDaemon };

std::string after_name(After after) {
  return after == After::kNewDaemon       ? "ANewDaemon"
         : after == After::kForeignClsact ? "AForeignClsact"
                                          : "AFrozenDaemon";
}

class Doors : public testing::TestWithParam<std::tuple<Kind, After>> {
 protected:
  void SetUp() override { PSP_NEEDS_LAB(); }
  static Kind kind() { return std::get<Kind>(GetParam()); }
  static After after() { return std::get<After>(GetParam()); }
  static void foreign_clsact(const Netns& host) {
    host.sh(fmt::format("tc qdisc add dev eth0 clsact && tc filter add dev eth0 egress bpf da {}",
                        kAcceptAll));
  }
};

TEST_P(Doors, AreGoneWhileTheDaemonIs) {
  Lab lab;
  lab.start(From::kA);
  lab.start(From::kB);
  auto connection = lab.connect(kind());
  secure(lab, connection);
  send_all(connection.a.get(), octets_of("x"));
  ASSERT_EQ(receive(connection.b.get(), 1), octets_of("x"));
  const std::size_t mark = lab.cable().mark();
  Netns& host = lab.ns(From::kA);
  const pid_t daemon = lab.pspd(From::kA).pid();
  if (after() == After::kFrozenDaemon)
    ASSERT_EQ(::kill(daemon, SIGSTOP), 0);
  else
    lab.kill(From::kA);
  host.sh("tc qdisc del dev eth0 clsact");
  EXPECT_TRUE(take_program_off(host, "eth0", true));
  EXPECT_TRUE(take_program_off(host, "eth0", false));
  const Octets data = random_octets(2000);
  send_all(connection.a.get(), data);
  std::this_thread::sleep_for(450ms);  // retransmissions
  expect_nothing_in_clear(lab, connection.flow, mark, data);
  if (after() == After::kNewDaemon) {
    lab.start(From::kA);
    EXPECT_EQ(socket_error(connection.a.get()), ECONNABORTED);
  } else {
    foreign_clsact(host);
    auto plain = lab.connect(kind());
    send_all(plain.a.get(), octets_of("in clear"));
    ASSERT_EQ(receive(plain.b.get(), 8), octets_of("in clear")) << "closed to everybody";
  }
  std::this_thread::sleep_for(1500ms);  // retransmissions
  expect_nothing_in_clear(lab, connection.flow, mark, data);
  if (after() != After::kFrozenDaemon) return;
  ::kill(daemon, SIGCONT);
  EXPECT_EQ(receive(connection.b.get(), data.size(), 10s), data);
  expect_nothing_in_clear(lab, connection.flow, mark, data);
}

INSTANTIATE_TEST_SUITE_P(Ways, Doors,
                         testing::Combine(testing::Values(Kind::kIpv4, Kind::kIpv6),
                                          testing::Values(After::kNewDaemon, After::kForeignClsact,
                                                          After::kFrozenDaemon)),
                         [](const auto& one) {
                           return kind_name(std::get<Kind>(one.param)) +
                                  after_name(std::get<After>(one.param));
                         });

// Window is all that leaves by a netdev, past its filters.
class Window {
 public:
  Window(const Netns& netns, const std::string& netdev) {
    const InNetns inside(netns);
    fd_.reset(::socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_ll where{};
    where.sll_family = AF_PACKET;
    where.sll_protocol = htons(ETH_P_ALL);
    where.sll_ifindex = static_cast<int>(::if_nametoindex(netdev.c_str()));
    EXPECT_EQ(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&where), sizeof where), 0);
  }
  // look is what has left since the last time.
  std::vector<Seen> look() const {
    std::vector<Seen> all;
    Octets packet(1 << 16);
    for (ssize_t n; (n = ::recv(fd_.get(), packet.data(), packet.size(), 0)) > 0;)
      if (packet[0] >> 4 == 4 || packet[0] >> 4 == 6)
        all.push_back(see_packet(From::kA, {packet.data(), static_cast<std::size_t>(n)}));
    return all;
  }

 private:
  UniqueFd fd_;
};

class AnotherNetdev : public Doors {};

// The number is all that a socket's route and psp_guard know of a netdev.
TEST_P(AnotherNetdev, WithTheSameNumberHearsNothingOfOldSecuredSockets) {
  Lab lab;
  Netns& host = lab.ns(From::kA);
  lab.start(From::kA);
  auto connection = lab.connect(kind()), plain = lab.connect(kind());
  const auto rx = lab.client(From::kA).rx_assoc(connection.a.get(), Version::kAesGcm128);
  ASSERT_TRUE(rx);
  ASSERT_TRUE(lab.client(From::kA).tx_assoc(connection.a.get(), Version::kAesGcm128, rx->rx));
  lab.kill(From::kA);
  const std::string index = host.sh("ip -o link show eth0 | cut -d: -f1 | tr -d '\\n'");
  host.sh("ip link del eth0");
  const bool v6 = kind() == Kind::kIpv6;
  host.sh(
      fmt::format("ip link add eth0 index {} type veth peer name peer0 && "
                  "ip addr add {}/{} dev eth0 {} && ip link set eth0 up && "
                  "ip link set peer0 up && ip neigh add {} lladdr 02:00:00:00:00:02 dev eth0",
                  index, Lab::address(From::kA, kind()), v6 ? 64 : 24, v6 ? "nodad" : "",
                  Lab::address(From::kB, kind())));
  const Window window(host, "eth0");
  if (after() == After::kForeignClsact) foreign_clsact(host);
  if (after() == After::kNewDaemon) {
    lab.start(From::kA);
    EXPECT_EQ(socket_error(connection.a.get()), ECONNABORTED);
  }
  const Octets data = random_octets(1000);
  send_all(plain.a.get(), data);
  (void)::send(connection.a.get(), data.data(), data.size(), MSG_NOSIGNAL);
  std::this_thread::sleep_for(1s);  // retransmissions
  connection.a.reset();             // FIN or RST
  std::this_thread::sleep_for(300ms);
  std::size_t open = 0;
  for (const Seen& seen : window.look()) {
    open += of_flow(seen, plain.flow);
    EXPECT_FALSE(of_flow(seen, connection.flow)) << "in clear";
  }
  EXPECT_GT(open, 0u) << "the way is closed to everybody";
}

INSTANTIATE_TEST_SUITE_P(Ways, AnotherNetdev,
                         testing::Combine(testing::Values(Kind::kIpv4, Kind::kIpv6),
                                          testing::Values(After::kNewDaemon,
                                                          After::kForeignClsact)),
                         [](const auto& one) {
                           return kind_name(std::get<Kind>(one.param)) +
                                  after_name(std::get<After>(one.param));
                         });

// The programs of a dead pspd know its TAP by a number that the next netdev can have.
TEST(DeadTap, WhoseNumberAnotherNetdevTakesSendsItNothing) {
  PSP_NEEDS_LAB();
  Lab lab;
  Netns& host = lab.ns(From::kA);
  lab.start(From::kA);
  auto connection = lab.connect(Kind::kIpv4);
  const auto rx = lab.client(From::kA).rx_assoc(connection.a.get(), Version::kAesGcm128);
  ASSERT_TRUE(rx);
  ASSERT_TRUE(lab.client(From::kA).tx_assoc(connection.a.get(), Version::kAesGcm128, rx->rx));
  const std::string tap = lab.daemon_info(From::kA).devices.front().tap;
  const std::string index =
      host.sh(fmt::format("cat /sys/class/net/{0}/ifindex 2>/dev/null || "
                          "ip -o link show {0} | cut -d: -f1",
                          tap));
  lab.kill(From::kA);
  host.sh(
      fmt::format("ip link add other0 index {} type veth peer name other1 && "
                  "ip link set other0 up && ip link set other1 up",
                  std::stoi(index)));
  const Window window(host, "other1");
  const Octets data = random_octets(1000);
  (void)::send(connection.a.get(), data.data(), data.size(), MSG_NOSIGNAL);
  std::this_thread::sleep_for(500ms);  // retransmissions
  for (const Seen& seen : window.look()) EXPECT_FALSE(holds_part(seen.octets, data)) << "in clear";
}

// Rival is a program before pspd's at tcx that lets all packets pass, past all others.
class Rival {
 public:
  Rival(const Netns& netns, const std::string& netdev) : netns_(netns) {
    const InNetns inside(netns_);
    ifindex_ = ::if_nametoindex(netdev.c_str());
    const bpf_insn pass[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0},
        {.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0}};
    bpf_attr load{};
    load.prog_type = BPF_PROG_TYPE_SCHED_CLS;
    load.insns = reinterpret_cast<std::uint64_t>(pass);
    load.insn_cnt = std::size(pass);
    load.license = reinterpret_cast<std::uint64_t>("GPL");
    program_.reset(bpf(BPF_PROG_LOAD, load));
  }
  // stand_first is false where there is no tcx.
  bool stand_first() const {
    step_aside();
    const InNetns inside(netns_);
    bpf_attr attach = where();
    attach.attach_flags = kBefore;
    return bpf(BPF_PROG_ATTACH, attach) == 0;
  }
  void step_aside() const {
    const InNetns inside(netns_);
    bpf_attr detach = where();
    (void)bpf(BPF_PROG_DETACH, detach);
  }

 private:
  static constexpr unsigned kTcxEgress = 47, kBefore = 1u << 3;  // since Linux 6.6

  static int bpf(int command, bpf_attr& attributes) {
    return static_cast<int>(::syscall(SYS_bpf, command, &attributes, sizeof attributes));
  }
  bpf_attr where() const {
    bpf_attr at{};
    at.target_fd = ifindex_;
    at.attach_bpf_fd = static_cast<std::uint32_t>(program_.get());
    at.attach_type = kTcxEgress;
    return at;
  }
  const Netns& netns_;
  unsigned ifindex_ = 0;
  UniqueFd program_;
};

class Rivals : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace();
    lab_->start(From::kA);
    lab_->start(From::kB);
    connection_ = lab_->connect(GetParam());
    secure(*lab_, connection_);
    mark_ = lab_->cable().mark();
  }
  void TearDown() override { lab_.reset(); }

  Netns& host() { return lab_->ns(From::kA); }
  std::size_t put_back() {
    const std::string& log = lab_->pspd(From::kA).log();
    std::size_t count = 0;
    for (std::size_t at = 0; (at = log.find("pspd's program", at)) != log.npos; at++) count++;
    return count;
  }
  bool has_filters() {
    return host().sh("tc filter show dev eth0 egress").find("psp_egress") != std::string::npos &&
           host().sh("tc filter show dev eth0 ingress").find("psp_ingress") != std::string::npos;
  }
  void expect_carried() {
    const Octets data = random_octets(5000);
    send_all(connection_.a.get(), data);
    EXPECT_EQ(receive(connection_.b.get(), data.size(), 10s), data);
    expect_nothing_in_clear(*lab_, connection_.flow, mark_, data);
  }

  std::optional<Lab> lab_;
  Connection connection_;
  std::size_t mark_ = 0;
};

TEST_P(Rivals, WhoDeleteTheClsactAgainAndAgainUnderLoadLetNothingOutInClear) {
  Octets content;
  {
    Traffic traffic(connection_);
    content = traffic.content();
    ASSERT_TRUE(eventually([&] { return traffic.received() > 1 << 20; }));
    for (int i = 0; i < 12; i++) {
      // pspd may be faster and have made one again, or not be there yet.
      (void)host().try_sh("tc qdisc del dev eth0 clsact; tc qdisc add dev eth0 clsact");
      std::this_thread::sleep_for(20ms);
    }
    const std::uint64_t before = traffic.received();
    EXPECT_TRUE(eventually([&] { return traffic.received() > before + (1 << 20); }, 20s));
    EXPECT_TRUE(eventually([&] { return has_filters(); }, 20s));
  }
  expect_nothing_in_clear(*lab_, connection_.flow, mark_, content);
}

TEST_P(Rivals, WhoTakeTheProgramsOffUnderLoadGetSilenceUntilTheyAreBack) {
  Octets content;
  {
    Traffic traffic(connection_);
    content = traffic.content();
    ASSERT_TRUE(eventually([&] { return traffic.received() > 1 << 20; }));
    for (int i = 0; i < 3; i++) {
      const std::size_t before = put_back();
      EXPECT_TRUE(take_program_off(host(), "eth0", true));
      EXPECT_TRUE(eventually([&] { return put_back() > before; }, 10s));
    }
    const std::uint64_t before = traffic.received();
    EXPECT_TRUE(eventually([&] { return traffic.received() > before + (1 << 20); }, 20s));
    EXPECT_TRUE(has_filters());
  }
  expect_nothing_in_clear(*lab_, connection_.flow, mark_, content);
}

TEST_P(Rivals, WhoLetAllPassBeforePspdGetSilenceAndComeSecond) {
  const Rival rival(host(), "eth0");
  const std::uint64_t dropped = lab_->drops(From::kA, "POLICY_ROUTE");
  const std::size_t before = put_back();
  ASSERT_EQ(::kill(lab_->pspd(From::kA).pid(), SIGSTOP), 0);  // so that the rival has time
  if (!rival.stand_first()) {
    ::kill(lab_->pspd(From::kA).pid(), SIGCONT);
    GTEST_SKIP() << "this kernel has no tcx";
  }
  const Octets data = random_octets(2000);
  send_all(connection_.a.get(), data);
  EXPECT_EQ(receive(connection_.b.get(), 1, 450ms), Octets());
  ::kill(lab_->pspd(From::kA).pid(), SIGCONT);
  EXPECT_TRUE(eventually([&] { return put_back() > before; }, 10s));
  EXPECT_EQ(receive(connection_.b.get(), data.size(), 10s), data);
  EXPECT_GT(lab_->drops(From::kA, "POLICY_ROUTE"), dropped);
  expect_nothing_in_clear(*lab_, connection_.flow, mark_, data);
  rival.step_aside();
}

// Each time costs a pause that doubles, so n times take 2^n tenths of a second.
TEST_P(Rivals, WhoInsistCostFewLinesOfTheLog) {
  const auto start = std::chrono::steady_clock::now();
  const Rival rival(host(), "eth0");
  const bool tcx = rival.stand_first();
  const std::string filter = "dev eth0 egress prio 1 handle 0x77 bpf";
  for (int i = 0; i < 80; i++) {
    if (tcx) {
      EXPECT_TRUE(rival.stand_first());
    }
    (void)host().try_sh(fmt::format("tc filter del {}", filter));
    (void)host().try_sh(fmt::format("tc filter add {} {}", filter, kAcceptAll));
    std::this_thread::sleep_for(20ms);
  }
  EXPECT_GE(put_back(), 1u);
  // Pauses that double up to a longest one: however long a machine takes for all this.
  const auto rounds = (std::chrono::steady_clock::now() - start) / 30s;
  EXPECT_LE(put_back(), 12u + static_cast<std::size_t>(rounds)) << lab_->pspd(From::kA).log();
  rival.step_aside();
  (void)host().try_sh(fmt::format("tc filter del {}", filter));
  EXPECT_TRUE(eventually([&] { return has_filters(); }, 30s));
  expect_carried();
}

INSTANTIATE_TEST_SUITE_P(Families, Rivals, testing::Values(Kind::kIpv4, Kind::kIpv6),
                         [](const auto& one) { return kind_name(one.param); });

}  // namespace
}  // namespace psp::lab
