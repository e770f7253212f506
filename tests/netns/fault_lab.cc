// SPDX-License-Identifier: Apache-2.0
//
// What a fault may not change is compared as text: netdevs, qdiscs, filters and features as tools
// list them. What such lists do not show, programs at tcx and at the root cgroup, is told by the
// numbers of all that a pspd has loaded.
//
// Threading: see fault_lab.hh.
#include "fault_lab.hh"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <iostream>
#include <linux/bpf.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <ranges>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel/bpf/structs.h"

#include "connect_to.hh"

namespace psp::lab {

const Octets& secret() {
  static const Octets octets = random_octets(256);
  return octets;
}

std::string text(const NotedCall& call) {
  return fmt::format("{}({}) at {:016x}/{}", call.name.data(), call.detail, call.place,
                     call.occurrence);
}

bool is(const NotedCall& call, const char* name) {
  return std::strcmp(call.name.data(), name) == 0;
}

bool changes(const NotedCall& call) {
  constexpr std::array<std::uint64_t, 5> kBpf = {BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM,
                                                 BPF_PROG_ATTACH, BPF_PROG_DETACH, BPF_LINK_CREATE};
  constexpr std::array<std::uint64_t, 7> kIoctl = {
      TUNSETIFF, TUNSETOWNER, SIOCSIFNAME, SIOCSIFTXQLEN, SIOCSIFFLAGS, SIOCSIFMTU, SIOCETHTOOL};
  const auto one_of = [&](const auto& all) { return std::ranges::count(all, call.detail) != 0; };
  if (is(call, "bpf")) return one_of(kBpf);
  if (is(call, "ioctl")) return one_of(kIoctl);
  if (is(call, "send") || is(call, "sendto"))  // what rtnetlink and sock_diag are not only asked
    return call.detail % 4 != RTM_GETLINK % 4 && call.detail != SOCK_DIAG_BY_FAMILY;
  if (is(call, "bind")) return call.detail == AF_UNIX;
  if (is(call, "setsockopt"))  // what a socket carries
    return call.detail > PSP_SOL || call.detail == IP_OPTIONS;
  return is(call, "write");
}

int error_for(std::uint32_t number) {
  constexpr std::array kErrors = {EMFILE, ENOMEM, EPERM, EOPNOTSUPP};
  return kErrors[number % kErrors.size()];
}

FaultKind fault_for(std::uint32_t number) {
  return number / 4 % 2 == 0 ? FaultKind::kFail : FaultKind::kFailOn;
}

std::string said_besides(std::string_view log, std::size_t from,
                         std::initializer_list<std::string_view> usual) {
  std::string said;
  for (const auto line : std::views::split(log.substr(from), '\n')) {
    const std::string_view text(line);
    if (std::ranges::none_of(usual, [&](auto part) { return text.contains(part); }) &&
        !text.empty())
      said += fmt::format("{}\n", text);
  }
  return said;
}

namespace {

// once_ignored: a map that was not taken over (fcntl), a filter that was not attached. pspd said
// "ready" then, and secured sockets sent in clear.
bool once_ignored(const NotedCall& call) {
  return is(call, "fcntl") || (call.detail == RTM_NEWTFILTER && !is(call, "bpf"));
}

}  // namespace

Calls chosen_calls(const Calls& calls, bool (*wanted)(const NotedCall&)) {
  constexpr std::size_t kFew = 40;
  const bool all = calls.size() <= kFew || std::getenv("PSP_FAULT_ALL") != nullptr;
  Calls chosen;
  std::size_t number = 0;
  std::ranges::copy_if(calls, std::back_inserter(chosen), [&](const NotedCall& call) {
    if (wanted != nullptr && !wanted(call)) return false;
    return all || (call.new_line && (wanted != nullptr || once_ignored(call) || number++ % 3 == 0));
  });
  return chosen;
}

bool is_over(int fd) {
  constexpr unsigned kTcpClose = 7;  // beside <linux/tcp.h> there is no <netinet/tcp.h>
  tcp_info info{};
  socklen_t length = sizeof info;
  return ::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
         info.tcpi_state == kTcpClose;
}

std::size_t own_descriptors(pid_t pid) {
  const std::filesystem::directory_iterator all(fmt::format("/proc/{}/fd", pid));
  return static_cast<std::size_t>(std::count_if(begin(all), end(all), [](const auto& entry) {
    std::error_code gone;
    const auto what = std::filesystem::read_symlink(entry.path(), gone);
    return !gone && what != "anon_inode:btf";
  }));
}

std::size_t still(const std::vector<unsigned>& programs) {
  return static_cast<std::size_t>(std::ranges::count_if(programs, program_exists));
}

bool gone(const std::vector<unsigned>& programs) {
  return eventually([&] { return !any_exists(programs); });
}

bool halted(const Pspd& daemon) {
  const auto id = static_cast<id_t>(daemon.pid());
  siginfo_t info{};
  const auto has_news = [&] {
    info = {};
    return ::waitid(P_PID, id, &info, WSTOPPED | WEXITED | WNOWAIT | WNOHANG) != 0 ||
           info.si_pid != 0;
  };
  if (!eventually(has_news, 20s) || info.si_code != CLD_STOPPED) return false;
  return ::waitid(P_PID, id, &info, WSTOPPED) == 0;  // it may halt again
}

bool ended(const Pspd& daemon, std::chrono::milliseconds patience) {
  const auto is_over = [&] {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(daemon.pid()), &info, WEXITED | WNOWAIT | WNOHANG) !=
               0 ||
           info.si_pid != 0;
  };
  return is_over() || eventually(is_over, patience);
}

Prober::Prober(Lab& lab, const Connection& connection, unsigned link)
    : cable_(lab.cable(link)),
      connection_(connection),
      mark_(cable_.mark()),
      thread_([this] { run(); }) {}

void Prober::stop() {
  if (!thread_.joinable()) return;
  over_ = true;
  thread_.join();
  for (const Seen& seen : cable_.since(mark_)) {
    if (seen.from != From::kA || seen.psp) continue;
    EXPECT_FALSE(holds_part(seen.octets, secret()));
    // A host without that socket answers our segments so: the number is ours.
    const bool stateless = seen.segment && seen.segment->flags & kRst &&
                           seen.segment->payload.empty() && seen.segment->seq == ack();
    EXPECT_FALSE(of_flow(seen, connection_.flow) && !stateless)
        << "flags " << int{seen.segment->flags} << " in clear";
  }
}

void Prober::run() {
  const Segment asks{connection_.flow.b_isn + 1, ack(), kAck | kPsh, 512,
                     octets_of("who is there?")};
  const Octets packet = clear_packet(connection_.flow, From::kB, asks);
  while (!over_) {
    cable_.send(From::kB, packet);
    (void)::send(connection_.a.get(), secret().data(), secret().size(),
                 MSG_NOSIGNAL | MSG_DONTWAIT);
    std::this_thread::sleep_for(1ms);
  }
}

FaultLab::FaultLab(With with, unsigned links) : lab_({.links = links}) {
  if (with == With::kContainer) container_.emplace(lab_);
  before_ = state();
  lab_.start(From::kB,
             links > 1 ? std::vector<std::string>{"--dev", "eth1"} : std::vector<std::string>{});
}

FaultLab::~FaultLab() {
  if (!old_) return;
  old_.reset();
  EXPECT_EQ(start().stop(), 0);
}

std::string FaultLab::state() {
  constexpr const char* kAsk =
      "ip -o link | cut -d: -f2; for dev in eth0 eth1; do ip link show $dev >/dev/null 2>&1 || "
      "continue; tc qdisc show dev $dev; tc filter show dev $dev ingress; "
      "tc filter show dev $dev egress; ethtool -k $dev | grep rx-udp-gro; done";
  std::string all = host().sh(kAsk);
  if (container_) all += container_->ns().sh(kAsk);
  return all;
}

std::unique_lock<std::mutex> FaultLab::alone() {
  static std::mutex one_at_a_time;
  return std::unique_lock(one_at_a_time);
}

Pspd FaultLab::launch() { return Pspd(host(), arguments_, plan_.environment()); }

Pspd FaultLab::start(Phase phase, FaultKind fault, const NotedCall& call, int error) {
  plan_.set(phase, fault, call, error);
  const auto lock = alone();
  Pspd daemon = launch();
  if (!daemon.wait_ready()) throw std::runtime_error("pspd does not start: " + daemon.log());
  return daemon;
}

void FaultLab::expect_works(const Connection& connection, unsigned link) {
  const std::size_t mark = lab_.cable(link).mark();
  send_all(connection.a.get(), secret());
  EXPECT_EQ(receive(connection.b.get(), secret().size()), secret());
  expect_nothing_in_clear(lab_, connection.flow, mark, secret(), link);
  EXPECT_TRUE(lab_.cable(link).find(mark, [](const Seen& seen) { return seen.psp; }));
}

Connection FaultLab::secured(unsigned link) {
  Connection connection = lab_.connect(Kind::kIpv4, {.link = link});
  secure(lab_, connection);
  expect_works(connection, link);
  return connection;
}

Connection FaultLab::secured_inside() {
  Connection connection = container_->connect(Kind::kIpv4);
  container_->secure(connection);
  expect_works(connection);
  return connection;
}

void FaultLab::works_and_stops(Pspd& daemon) {
  { const Connection connection = secured(); }
  const Connection open = secured();
  disconnected_.reset();
  EXPECT_EQ(daemon.stop(), 0) << daemon.log();
  EXPECT_TRUE(is_over(open.a.get()));
  EXPECT_EQ(state(), before_);
}

void FaultLab::leave_one() {
  if (old_ && !is_over(old_->a.get())) return;
  old_.reset();
  Pspd daemon = start();
  old_.emplace(secured());
  disconnected_.emplace(secured());
  EXPECT_EQ(connect_to(disconnected_->a.get(), Kind::kIpv4, true), 0);
  daemon.kill();
  left_ = plan_.programs();
}

void Tally::count(const std::string& outcome) {
  const std::lock_guard guard(mutex_);
  tried_++;
  outcomes_[outcome]++;
}

void Tally::print(const Calls& all) const {
  const std::lock_guard guard(mutex_);
  std::cout << fmt::format("tried {} of {} calls, at {} places: {}\n", tried_, all.size(),
                           std::ranges::count(all, 1u, &NotedCall::occurrence),
                           fmt::join(outcomes_, ", "));
  const auto missed = outcomes_.find("not met");
  EXPECT_LE(missed == outcomes_.end() ? 0 : missed->second * 10, tried_);
}

}  // namespace psp::lab
