// SPDX-License-Identifier: Apache-2.0
//
// pspd's start and stop with a fault at each step. A dead pspd has left a secured connection
// behind, and somebody keeps asking it for an answer. Then pspd starts, and one of its calls to the
// kernel fails, or it dies there. It has to refuse and leave nothing of its own, or to work; what
// it dies of the next one mends; and never does the wire see an octet of a secured connection in
// clear.
//
// A call fails once at each place of the code, with who called it; it dies once after each place
// that changes something of the host. PSP_FAULT_ALL=1 takes all calls for both.
//
// Threading: Prober has a thread of its own.
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <iostream>
#include <linux/bpf.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <map>
#include <netinet/in.h>
#include <set>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "fail_call.hh"
#include "lab.hh"

namespace psp::lab {
namespace {

const bool take_all = std::getenv("PSP_FAULT_ALL") != nullptr;

const Octets& secret() {
  static const Octets octets = random_octets(256);
  return octets;
}

// Plan is the FaultPlan in memory that pspd can map.
class Plan {
 public:
  Plan() : fd_(::memfd_create("plan", MFD_CLOEXEC)) {
    if (::ftruncate(fd_.get(), sizeof(FaultPlan)) != 0) throw std::runtime_error("ftruncate");
    void* memory =
        ::mmap(nullptr, sizeof(FaultPlan), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    if (memory == MAP_FAILED) throw std::runtime_error("mmap");
    plan_ = std::construct_at(static_cast<FaultPlan*>(memory));
  }
  ~Plan() { ::munmap(plan_, sizeof(FaultPlan)); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  FaultPlan& operator*() const { return *plan_; }
  FaultPlan* operator->() const { return plan_; }
  void set(Phase phase, std::uint32_t at, std::int32_t error) {
    *plan_ = FaultPlan{.phase = phase, .at = at, .error = error};
  }
  std::string path() const { return fmt::format("/proc/{}/fd/{}", ::getpid(), fd_.get()); }
  std::vector<unsigned> programs() const {
    return {plan_->programs.begin(), plan_->programs.begin() + plan_->program_count};
  }
  std::vector<NotedCall> calls(Phase phase) const {
    const auto at = static_cast<std::size_t>(phase);
    EXPECT_LE(plan_->count[at], FaultPlan::kMostCalls);
    return {plan_->calls[at].begin(), plan_->calls[at].begin() + plan_->count[at]};
  }

 private:
  UniqueFd fd_;
  FaultPlan* plan_;
};

std::string text(const NotedCall& call) {
  return fmt::format("{}({})", call.name.data(), call.detail);
}

bool is(const NotedCall& call, const char* name) {
  return std::strcmp(call.name.data(), name) == 0;
}

// changes: a call that may have changed something outside of pspd. What it only asks or makes for
// itself goes with it.
bool changes(const NotedCall& call) {
  constexpr std::array kBpf = {BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM, BPF_PROG_ATTACH,
                               BPF_PROG_DETACH, BPF_LINK_CREATE};
  if (is(call, "bpf"))
    return std::ranges::find(kBpf, static_cast<bpf_cmd>(call.detail)) != kBpf.end();
  if (is(call, "send") || is(call, "sendto"))  // what rtnetlink and sock_diag are not only asked
    return call.detail % 4 != RTM_GETLINK % 4 && call.detail != SOCK_DIAG_BY_FAMILY;
  if (is(call, "bind")) return call.detail == AF_UNIX;
  return is(call, "ioctl") || is(call, "fcntl") || is(call, "fcntl64") || is(call, "write");
}

int error_for(std::uint32_t number) {
  constexpr std::array kErrors = {EMFILE, ENOMEM, EPERM, EOPNOTSUPP};
  return kErrors[number % kErrors.size()];
}

// Prober asks a secured socket of A for answers, all the time: by segments in clear from its peer's
// side and by what its application sends.
class Prober {
 public:
  Prober(Lab& lab, const Connection& connection)
      : lab_(lab), connection_(connection), mark_(lab.cable().mark()), thread_([this] { run(); }) {}
  ~Prober() { stop(); }
  Prober(const Prober&) = delete;
  Prober& operator=(const Prober&) = delete;

  // stop checks what was on the wire.
  void stop() {
    if (!thread_.joinable()) return;
    over_ = true;
    thread_.join();
    for (const Seen& seen : lab_.cable().since(mark_)) {
      if (seen.from != From::kA || seen.psp) continue;
      EXPECT_FALSE(holds_part(seen.octets, secret()));
      // A host without that socket answers our segments so: the number is ours.
      const bool stateless = seen.segment && seen.segment->flags & kRst &&
                             seen.segment->payload.empty() && seen.segment->seq == ack();
      EXPECT_FALSE(of_flow(seen, connection_.flow) && !stateless)
          << "flags " << int{seen.segment->flags} << " in clear";
    }
  }

 private:
  std::uint32_t ack() const { return connection_.flow.a_isn + 1; }
  void run() {
    const Segment asks{connection_.flow.b_isn + 1, ack(), kAck | kPsh, 512,
                       octets_of("who is there?")};
    const Octets packet = clear_packet(connection_.flow, From::kB, asks);
    while (!over_) {
      lab_.cable().send(From::kB, packet);
      (void)::send(connection_.a.get(), secret().data(), secret().size(),
                   MSG_NOSIGNAL | MSG_DONTWAIT);
      std::this_thread::sleep_for(1ms);
    }
  }

  Lab& lab_;
  const Connection& connection_;
  std::size_t mark_;
  std::atomic<bool> over_{false};
  std::thread thread_;
};

// is_over: was the connection aborted? (Its error goes to whoever sends next.)
constexpr unsigned kTcpClose = 7;  // beside <linux/tcp.h> there is no <netinet/tcp.h>

bool is_over(int fd) {
  tcp_info info{};
  socklen_t length = sizeof info;
  return ::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
         info.tcpi_state == kTcpClose;
}

// own_descriptors counts those of a process but for BTF, which libbpf does without.
std::size_t own_descriptors(pid_t pid) {
  const std::filesystem::directory_iterator all(fmt::format("/proc/{}/fd", pid));
  return static_cast<std::size_t>(std::count_if(begin(all), end(all), [](const auto& entry) {
    return std::filesystem::read_symlink(entry.path()) != "anon_inode:btf";
  }));
}

class Fault : public testing::Test {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace();
    before_ = state();
    lab_->start(From::kB);
  }
  void TearDown() override {
    old_.reset();
    if (lab_) lab_->clean_up(From::kA);
    if (!tried_.empty())
      std::cout << fmt::format("tried {} of {} calls: {}\n", tried_.size(), calls_,
                               fmt::join(outcomes_, ", "));
  }

  Netns& host() { return lab_->ns(From::kA); }
  std::string state() {
    return host().sh(
        "ip -o link | cut -d: -f2; tc qdisc show dev eth0; tc filter show dev eth0 ingress; "
        "tc filter show dev eth0 egress; ethtool -k eth0 | grep rx-udp-gro");
  }

  // launch starts a pspd under the plan.
  Pspd launch() {
    ::setenv("LD_PRELOAD", PSP_FAIL_CALL_PATH, 1);
    ::setenv("PSP_TEST_FAULT", plan_.path().c_str(), 1);
    Pspd daemon(host(), {"--dev", "eth0", "--enable", "all"});
    ::unsetenv("LD_PRELOAD");
    ::unsetenv("PSP_TEST_FAULT");
    return daemon;
  }
  Pspd launch(Phase phase, std::uint32_t at, std::int32_t error) {
    plan_.set(phase, at, error);
    return launch();
  }
  Pspd start() {
    Pspd daemon = launch(Phase::kStart, 0, 0);
    EXPECT_TRUE(daemon.wait_ready()) << daemon.log();
    return daemon;
  }

  // halted waits until it halts: false if it ended, or is ready, before.
  static bool halted(const Pspd& daemon) {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(daemon.pid()), &info, WSTOPPED | WEXITED | WNOWAIT) ==
               0 &&
           info.si_code == CLD_STOPPED;
  }

  // leave_one makes a dead pspd with a secured connection, if there is none.
  void leave_one() {
    if (old_ && !is_over(old_->a.get())) return;
    old_.reset();
    Pspd daemon = start();
    old_.emplace(secured());
    daemon.kill();
    left_ = plan_.programs();
  }
  // secured is a connection that works.
  Connection secured() {
    const std::size_t mark = lab_->cable().mark();
    Connection connection = lab_->connect(Kind::kIpv4);
    secure(*lab_, connection);
    const std::size_t clear = lab_->cable().mark();
    send_all(connection.a.get(), secret());
    EXPECT_EQ(receive(connection.b.get(), secret().size()), secret());
    expect_nothing_in_clear(*lab_, connection.flow, clear, secret());
    EXPECT_TRUE(lab_->cable().find(mark, [](const Seen& seen) { return seen.psp; }));
    return connection;
  }
  static bool gone(const std::vector<unsigned>& programs) {
    return eventually([&] { return !any_exists(programs); });
  }

  // works: it serves, and its stop puts the host back.
  void works_and_stops(Pspd& daemon) {
    { const Connection connection = secured(); }
    const Connection open = secured();
    EXPECT_EQ(daemon.stop(), 0) << daemon.log();
    EXPECT_TRUE(is_over(open.a.get()));
    EXPECT_EQ(state(), before_);
  }
  static std::size_t still(const std::vector<unsigned>& programs) {
    return static_cast<std::size_t>(std::ranges::count_if(programs, program_exists));
  }

  std::vector<NotedCall> calls_of_start() {
    leave_one();
    Pspd daemon = start();
    normal_ = daemon.log();
    normal_fds_ = own_descriptors(daemon.pid());
    auto calls = plan_.calls(Phase::kStart);
    normal_state_ = running_state();
    EXPECT_EQ(daemon.stop(), 0) << daemon.log();
    return calls;
  }
  std::vector<NotedCall> calls_of_stop() {
    Pspd daemon = start();
    const Connection open = secured();
    EXPECT_EQ(daemon.stop(), 0) << daemon.log();
    return plan_.calls(Phase::kStop);
  }
  // running_state is what a pspd that has all it needs does to the host, without what is by chance.
  std::string running_state() {
    return host().sh(
        "tc qdisc show dev eth0 | sed 's/ [0-9a-f]*: / /'; "
        "for side in ingress egress; do for dev in eth0 psp0; do tc filter show dev $dev $side | "
        "sed 's/:\\[.*//'; done; done; ethtool -k eth0 | grep rx-udp-gro; "
        "ip -o -d link show psp0 | grep -o 'mtu [0-9]*\\|qlen [0-9]*\\|<[^>]*>\\|addrgenmode "
        "[a-z]*'; "
        "cat /proc/sys/net/ipv6/conf/psp0/disable_ipv6");
  }

  void count(std::uint32_t number, const std::string& outcome) {
    tried_.insert(number);
    outcomes_[outcome]++;
  }

  void fail_at(std::uint32_t number, const NotedCall& call, int error);
  void die_at(std::uint32_t number, const NotedCall& call, Phase phase);

  std::optional<Lab> lab_;
  Plan plan_;
  std::string before_, normal_, normal_state_;
  std::size_t normal_fds_ = 0;
  std::optional<Connection> old_;  // the dead pspd's
  std::vector<unsigned> left_;     // its programs
  std::set<std::uint32_t> tried_;
  std::size_t calls_ = 0;
  std::map<std::string, unsigned> outcomes_;
};

void Fault::fail_at(std::uint32_t number, const NotedCall& call, int error) {
  leave_one();
  SCOPED_TRACE(
      fmt::format("start, call {} {} fails: {}", number, text(call), ::strerrorname_np(error)));
  const std::string was = state();
  Prober prober(*lab_, *old_);
  Pspd daemon = launch(Phase::kStart, number, error);
  const bool ready = daemon.wait_ready();
  const auto programs = plan_.programs();
  if (plan_.calls(Phase::kStart).size() < number) return;  // another way, which is shorter
  const NotedCall hit = plan_.calls(Phase::kStart)[number - 1];
  if (!ready) {
    const int status = daemon.wait();
    // A thread that cannot come back from a namespace ends the process: see the next test for that.
    const bool lost = is(hit, "setns") && status == -1;
    EXPECT_TRUE(status == 1 || lost) << status << daemon.log();
    count(number, lost ? "died" : "refused");
    if (lost) return;
    EXPECT_NE(daemon.log().find("pspd: "), std::string::npos) << "it does not say why";
    EXPECT_TRUE(gone(programs)) << still(programs) << " programs are left\n" << daemon.log();
    if (!is_over(old_->a.get())) {
      EXPECT_TRUE(any_exists(left_)) << "nothing would block it";
    }
    const std::string now = state();
    EXPECT_TRUE(now == was || (now == before_ && gone(left_))) << now << daemon.log();
    prober.stop();
    return;
  }
  const bool same =
      running_state() == normal_state_ && own_descriptors(daemon.pid()) == normal_fds_;
  EXPECT_TRUE(same || daemon.log() != normal_)
      << "ready without a word, and is not as ever:\n"
      << running_state() << "\nnormally\n"
      << normal_state_ << own_descriptors(daemon.pid()) << " descriptors, normally " << normal_fds_;
  if (!same) std::cout << text(hit) << ": " << daemon.log();
  count(number, same ? "healed" : "said so");
  EXPECT_TRUE(is_over(old_->a.get()));
  prober.stop();
  works_and_stops(daemon);
  EXPECT_TRUE(gone(programs)) << daemon.log();
  EXPECT_TRUE(gone(left_)) << still(left_) << " programs of the dead pspd are left\n"
                           << daemon.log();
  old_.reset();
}

void Fault::die_at(std::uint32_t number, const NotedCall& call, Phase phase) {
  if (phase == Phase::kStart) leave_one();
  SCOPED_TRACE(fmt::format("call {} {}: it dies", number, text(call)));
  std::optional<Connection> open;
  std::optional<Prober> prober;
  if (phase == Phase::kStart) prober.emplace(*lab_, *old_);
  Pspd daemon = launch(phase, number, FaultPlan::kHalt);
  if (phase == Phase::kStop) {
    ASSERT_TRUE(daemon.wait_ready()) << daemon.log();
    open.emplace(secured());
    prober.emplace(*lab_, *open);
    ::kill(daemon.pid(), SIGTERM);
  }
  ASSERT_TRUE(halted(daemon)) << daemon.log();
  auto programs = plan_.programs();
  daemon.kill();
  count(number, "died");
  std::this_thread::sleep_for(5ms);  // what the prober asks now only the dead can answer
  programs.insert(programs.end(), left_.begin(), left_.end());
  Pspd next = start();
  prober->stop();
  const auto own = plan_.programs();
  works_and_stops(next);
  EXPECT_TRUE(gone(own));
  EXPECT_TRUE(gone(programs)) << still(programs) << " programs are left\n" << next.log();
  if (old_) {
    EXPECT_TRUE(is_over(old_->a.get()));
  }
  if (open) {
    EXPECT_TRUE(is_over(open->a.get()));
  }
  old_.reset();
}

TEST_F(Fault, AStartInWhichACallFailsIsRefusedOrWorks) {
  const auto calls = calls_of_start();
  calls_ = calls.size();
  std::set<std::uint64_t> places;
  for (std::uint32_t number = 1; number <= calls.size(); number++)
    if (places.insert(calls[number - 1].place).second || take_all)
      fail_at(number, calls[number - 1], error_for(number));
}

TEST_F(Fault, AStartThatDiesAnywhereIsMendedByTheNext) {
  const auto calls = calls_of_start();
  calls_ = calls.size();
  std::set<std::uint64_t> places;
  for (std::uint32_t number = 2; number <= calls.size(); number++) {
    const NotedCall& before = calls[number - 2];
    if (take_all || (changes(before) && places.insert(before.place).second))
      die_at(number, calls[number - 1], Phase::kStart);
  }
}

TEST_F(Fault, AStopThatDiesAnywhereIsMendedByTheNext) {
  const auto calls = calls_of_stop();
  calls_ = calls.size();
  std::set<std::uint64_t> places;
  for (std::uint32_t number = 2; number <= calls.size(); number++) {
    const NotedCall& before = calls[number - 2];
    if (take_all || (changes(before) && places.insert(before.place).second))
      die_at(number, calls[number - 1], Phase::kStop);
  }
}

TEST_F(Fault, ASecondDaemonIsRefusedWhileTheFirstIsInTheMiddle) {
  const auto calls = calls_of_start();
  // A lock is a map that is made and then looked for among all: that of the epoch, of the netdev.
  // How many calls that takes differs with the maps that there are, those of earlier cases, too.
  bool made = false;
  std::vector<std::uint32_t> locks;
  std::uint32_t load = 0;
  for (std::uint32_t number = 1; const NotedCall& call : calls) {
    if (is(call, "bpf") && call.detail == BPF_MAP_CREATE) made = true;
    if (is(call, "bpf") && call.detail == BPF_MAP_GET_NEXT_ID && std::exchange(made, false))
      locks.push_back(number);
    if (is(call, "bpf") && call.detail == BPF_PROG_LOAD && locks.size() >= 2 && load == 0)
      load = number;
    number++;
  }
  ASSERT_NE(load, 0u);
  const auto all = static_cast<std::uint32_t>(calls.size());
  const std::uint32_t slack = std::min(locks[1] - locks[0], (all - load) / 4);
  const std::uint32_t first = load + slack, last = all - slack;
  ASSERT_LT(first, last);
  calls_ = calls.size();
  constexpr std::uint32_t kSteps = 8;
  for (std::uint32_t step = 0; step <= kSteps; step++) {
    const std::uint32_t number = first + (last - first) * step / kSteps;
    leave_one();
    SCOPED_TRACE(fmt::format("call {} {}", number, text(calls[number - 1])));
    Prober prober(*lab_, *old_);
    Pspd daemon = launch(Phase::kStart, number, FaultPlan::kHalt);
    ASSERT_TRUE(halted(daemon)) << daemon.log();
    Pspd second(host(), {"--dev", "eth0", "--socket", "@second"});
    EXPECT_FALSE(second.wait_ready());
    EXPECT_EQ(second.wait(), 1);
    EXPECT_NE(second.log().find("eth0 already has a pspd: stop that one first"), std::string::npos)
        << second.log();
    ::kill(daemon.pid(), SIGCONT);
    EXPECT_TRUE(daemon.wait_ready()) << daemon.log();
    prober.stop();
    works_and_stops(daemon);
    count(number, "refused");
  }
}

}  // namespace
}  // namespace psp::lab
