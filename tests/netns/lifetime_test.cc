// SPDX-License-Identifier: Apache-2.0
//
// Nothing stays behind: many connections that several processes open, secure, hand to each other
// and end in any order and manner, with pspd of either host stopped and killed in the middle. Then
// no association, socket, map entry, descriptor or memory is left.
//
// PSP_LIFETIME_CONNECTIONS is how many (10,000 without it). What pspd keeps of an ended connection
// for 125 s goes before the test does: pspd's clock is put forward (skip_time.cc).
//
// Threading: the test's process has one thread; workers are processes, and share a Tally with it.
#include <algorithm>
#include <arpa/inet.h>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <gtest/gtest.h>
#include <iostream>
#include <map>
#include <netinet/in.h>
#include <poll.h>
#include <random>
#include <set>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lifetime_hosts.hh"

namespace psp::lab {
namespace {

constexpr unsigned kWorkers = 4, kRestarts = 10;
constexpr std::size_t kPool = 150;  // descriptors that a worker has open at a time

// Tally is what all processes see.
struct Tally {
  std::atomic<unsigned> tickets{0};   // connections begun, except those that pspd's end spoiled
  std::atomic<unsigned> done{0};      // associated as they should
  std::atomic<unsigned> spoiled{0};   // not, since a pspd was away
  std::atomic<unsigned> failed{0};    // not, and no reason
  std::atomic<unsigned> restarts{0};  // odd: a pspd is away
  unsigned wanted = 0;
};

// Worker is a process that holds both ends of its connections, and some of its neighbour's.
class Worker {
 public:
  Worker(Hosts& hosts, Tally& tally, unsigned number, UniqueFd in, UniqueFd out)
      : hosts_(hosts), tally_(tally), random_(number), in_(std::move(in)), out_(std::move(out)) {
    const InNetns inside(hosts_.ns(From::kB));
    for (const int family : {AF_INET, AF_INET6}) {
      UniqueFd& listener = listeners_.emplace_back(::socket(family, SOCK_STREAM, 0));
      Address any = address_of(From::kB, family);
      if (::bind(listener.get(), any.get(), any.length) != 0 || ::listen(listener.get(), 64) != 0)
        throw std::runtime_error("listen");
    }
  }

  void run() {
    const InNetns inside(hosts_.ns(From::kA));
    while (true) {
      const unsigned ticket = tally_.tickets++;
      if (ticket >= tally_.wanted) break;
      while (!one_more(ticket)) {
      }
      take_from_neighbour();
      while (pool_.size() > kPool) end_one();
    }
  }
  // finish ends the rest one by one; without it the process leaves that to the kernel.
  void finish() {
    while (!pool_.empty()) end_one();
  }

 private:
  struct Pair {
    UniqueFd a, b;
  };
  bool one_more(unsigned ticket);
  std::string attempt(unsigned ticket, Pair& pair);
  std::string connect(int family, Pair& pair);
  std::string associate(unsigned ticket, const Pair& pair);
  static std::string exchange(int from, int to);
  ClientResult<void> reach(From side, std::optional<Client>& client);
  void take_from_neighbour();
  bool give_to_neighbour(const UniqueFd& fd);
  static void begin_another(int fd);
  void end_one();

  Hosts& hosts_;
  Tally& tally_;
  std::mt19937 random_;
  UniqueFd in_, out_;
  std::vector<UniqueFd> listeners_, pool_;
  std::optional<Client> a_client_, b_client_;
};

bool Worker::one_more(unsigned ticket) {
  const unsigned before = tally_.restarts;
  Pair pair;
  const std::string wrong = attempt(ticket, pair);
  for (UniqueFd* fd : {&pair.a, &pair.b})
    if (*fd) pool_.push_back(std::move(*fd));
  if (wrong.empty()) {
    tally_.done++;
    return true;
  }
  a_client_.reset();
  b_client_.reset();
  if (before % 2 != 0 || tally_.restarts != before) {
    tally_.spoiled++;
    ::usleep(5000);
    return false;
  }
  if (tally_.failed++ < 20) std::cerr << "connection " << ticket << ": " << wrong << "\n";
  return true;
}

std::string Worker::attempt(unsigned ticket, Pair& pair) {
  if (auto wrong = connect(ticket % 3 == 0 ? AF_INET6 : AF_INET, pair); !wrong.empty())
    return wrong;
  if (auto wrong = associate(ticket, pair); !wrong.empty()) return wrong;
  if (ticket % 4 != 0 || ticket % 8 == 0) return {};
  if (auto wrong = exchange(pair.a.get(), pair.b.get()); !wrong.empty()) return "a to b: " + wrong;
  auto wrong = exchange(pair.b.get(), pair.a.get());
  return wrong.empty() ? wrong : "b to a: " + wrong;
}

std::string Worker::connect(int family, Pair& pair) {
  const int listener = listeners_[family == AF_INET ? 0 : 1].get();
  Address peer, own;
  ::getsockname(listener, peer.get(), &peer.length);
  pair.a.reset(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval patience{.tv_sec = 3, .tv_usec = 0};
  ::setsockopt(pair.a.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (::connect(pair.a.get(), peer.get(), peer.length) != 0)
    return fmt::format("connect: {}", std::strerror(errno));
  ::getsockname(pair.a.get(), own.get(), &own.length);
  for (pollfd ready{listener, POLLIN, 0}; ::poll(&ready, 1, 3000) > 0;) {
    Address from;
    pair.b.reset(::accept4(listener, from.get(), &from.length, SOCK_CLOEXEC));
    if (pair.b && from.port() == own.port()) return {};
  }
  return "nobody to accept";
}

ClientResult<void> Worker::reach(From side, std::optional<Client>& client) {
  if (client) return {};
  const InNetns inside(hosts_.ns(side));
  auto made = Client::connect_daemon("@softpsp");
  if (!made) return std::unexpected(made.error());
  client.emplace(std::move(*made));
  return {};
}

// Of eight connections one has a key at one end, one sends sealed in one direction, six in both.
std::string Worker::associate(unsigned ticket, const Pair& pair) {
  if (auto there = reach(From::kA, a_client_); !there) return there.error().message;
  if (auto there = reach(From::kB, b_client_); !there) return there.error().message;
  const auto a_rx = a_client_->rx_assoc(pair.a.get(), Version::kAesGcm128);
  if (!a_rx) return "a: " + a_rx.error().message;
  if (ticket % 8 == 0) return {};
  const auto b_rx = b_client_->rx_assoc(pair.b.get(), Version::kAesGcm128);
  if (!b_rx) return "b: " + b_rx.error().message;
  const auto a_tx = a_client_->tx_assoc(pair.a.get(), Version::kAesGcm128, b_rx->rx);
  if (!a_tx) return "a: " + a_tx.error().message;
  if (ticket % 8 == 1) return {};
  const auto b_tx = b_client_->tx_assoc(pair.b.get(), Version::kAesGcm128, a_rx->rx);
  return b_tx ? std::string() : "b: " + b_tx.error().message;
}

std::string Worker::exchange(int from, int to) {
  const Octets data = octets_of("sealed, there and back");
  if (::send(from, data.data(), data.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(data.size()))
    return fmt::format("send: {}", std::strerror(errno));
  return receive(to, data.size(), 3s) == data ? "" : "the octets do not arrive";
}

void Worker::take_from_neighbour() {
  char octet;
  iovec part{&octet, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (::recvmsg(in_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0) return;
  const cmsghdr* rights = CMSG_FIRSTHDR(&message);
  if (rights == nullptr || rights->cmsg_type != SCM_RIGHTS) return;
  int fd;
  std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
  pool_.emplace_back(fd);
}

bool Worker::give_to_neighbour(const UniqueFd& given) {
  char octet = 0;
  iovec part{&octet, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  const int fd = given.get();
  std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  return ::sendmsg(out_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
}

// begin_another disconnects the socket and lets it connect anew, with the keys that it has, so that
// nobody answers.
void Worker::begin_another(int fd) {
  Address peer;
  const sockaddr nobody{.sa_family = AF_UNSPEC, .sa_data = {}};
  if (::getpeername(fd, peer.get(), &peer.length) != 0) return;
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
  (void)::connect(fd, &nobody, sizeof nobody);
  (void)::connect(fd, peer.get(), peer.length);
}

void Worker::end_one() {
  std::swap(pool_[random_() % pool_.size()], pool_.back());
  UniqueFd fd = std::move(pool_.back());
  pool_.pop_back();
  switch (random_() % 8) {
    case 0: {
      const linger now{.l_onoff = 1, .l_linger = 0};
      ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
      break;
    }
    case 1:
      ::shutdown(fd.get(), SHUT_WR);
      pool_.push_back(std::move(fd));
      break;
    case 2:
      give_to_neighbour(fd);
      break;
    case 3:
      (void)::send(fd.get(), "unread", 6, MSG_NOSIGNAL | MSG_DONTWAIT);
      break;
    case 4:
      begin_another(fd.get());
      break;
    default:
      break;
  }
}

// --- what is left

unsigned environment(const char* name, unsigned otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? static_cast<unsigned>(std::stoul(text)) : otherwise;
}

// number_after is the number behind `label` in a text file, 0 if there is none.
std::size_t number_after(const std::string& text, const std::string& label) {
  const std::size_t at = text.find(label);
  return at == std::string::npos ? 0 : std::stoul(text.substr(at + label.size()));
}

std::size_t private_kilobytes(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/status", pid));
  return number_after({std::istreambuf_iterator<char>(file), {}}, "RssAnon:");
}

class Lifetime : public testing::Test {
 protected:
  struct Baseline {
    std::size_t descriptors;
    std::map<std::string, std::size_t> entries;
  };
  void SetUp() override {
    PSP_NEEDS_LAB();
    hosts_.emplace();
    for (const From side : {From::kA, From::kB}) {
      baseline_[side] = {descriptors_of(pid(side)), entries_of(pid(side))};
      remember(side);
    }
  }
  pid_t pid(From side) { return hosts_->pspd(side).pid(); }
  // remember notes what the kernel holds for this pspd.
  void remember(From side) {
    maps_.merge(maps_of(pid(side)));
    for (const unsigned id : programs_of(pid(side))) programs_.push_back(id);
  }

  void work(unsigned connections, unsigned restarts);
  void restart(From side, bool kill);
  void expect_no_connections();
  void expect_as_at_the_start(From side);
  void expect_nothing_stale(From side);
  void report(const std::string& when);

  std::optional<Hosts> hosts_;
  Shared<Tally> tally_;
  std::map<From, Baseline> baseline_;
  std::set<unsigned> maps_;
  std::vector<unsigned> programs_;
};

void Lifetime::restart(From side, bool kill) {
  tally_->restarts++;
  hosts_->end(side, kill);
  ::usleep(100000);
  hosts_->start(side);
  remember(side);
  tally_->restarts++;
}

// work lets the workers make so many connections, and restarts a pspd so many times meanwhile.
void Lifetime::work(unsigned connections, unsigned restarts) {
  tally_->tickets = tally_->done = 0;
  tally_->wanted = connections;
  std::vector<std::pair<UniqueFd, UniqueFd>> ways;
  for (unsigned i = 0; i < kWorkers; i++) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    ways.emplace_back(ends[0], ends[1]);
  }
  std::vector<pid_t> workers;
  for (unsigned i = 0; i < kWorkers; i++) {
    const pid_t worker = ::fork();
    ASSERT_GE(worker, 0);
    if (worker > 0) {
      workers.push_back(worker);
      continue;
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    UniqueFd in = std::move(ways[i].first), out = std::move(ways[(i + 1) % kWorkers].second);
    ways.clear();
    Worker self(*hosts_, *tally_, i, std::move(in), std::move(out));
    self.run();
    if (i == 0) ::raise(SIGKILL);
    if (i % 2 == 0) self.finish();
    ::_exit(0);
  }
  ways.clear();
  for (unsigned i = 0; i < restarts; i++) {
    const unsigned due = connections / (restarts + 1) * (i + 1);
    ASSERT_TRUE(eventually([&] { return tally_->done + tally_->failed >= due; }, 10min)) << due;
    restart(i / 2 % 2 == 0 ? From::kA : From::kB, i % 2 != 0);
    if (HasFatalFailure()) break;
  }
  for (unsigned i = 0; i < kWorkers; i++) {
    int status = 0;
    ASSERT_EQ(::waitpid(workers[i], &status, 0), workers[i]);
    EXPECT_TRUE(i == 0 ? WIFSIGNALED(status) : WIFEXITED(status)) << i << ": " << status;
  }
}

void Lifetime::report(const std::string& when) {
  std::cout << fmt::format("{}: {} connections, {} more spoiled by restarts, {} failed\n", when,
                           tally_->done.load(), tally_->spoiled.load(), tally_->failed.load());
  for (const From side : {From::kA, From::kB}) {
    std::cout << fmt::format("  pspd of {}: {} kB, {} descriptors", side == From::kA ? 'A' : 'B',
                             private_kilobytes(pid(side)), descriptors_of(pid(side)));
    for (const auto& [name, count] : entries_of(pid(side)))
      std::cout << fmt::format(", {} {}", name, count);
    std::cout << "\n" << std::flush;
  }
}

void Lifetime::expect_no_connections() {
  for (const From side : {From::kA, From::kB}) {
    EXPECT_TRUE(
        eventually([&] { return hosts_->client(side).associations().value().empty(); }, 30s))
        << hosts_->client(side).associations().value().size();
    const auto sockets = [&] {
      const std::string v4 = hosts_->ns(side).sh("cat /proc/net/sockstat");
      const std::string v6 = hosts_->ns(side).sh("cat /proc/net/sockstat6");
      return number_after(v4, "TCP: inuse ") + number_after(v6, "TCP6: inuse ");
    };
    EXPECT_TRUE(eventually([&] { return sockets() == 0; }, 30s)) << sockets();
  }
}

void Lifetime::expect_as_at_the_start(From side) {
  const auto& [descriptors, entries] = baseline_[side];
  // The kernel tells late of some ends; their 125 s begin then.
  const auto gone = [&] {
    if (entries_of(pid(side)) == entries) return true;
    hosts_->skip(kAfterTimeWait);
    return false;
  };
  EXPECT_TRUE(eventually(gone, 20s)) << testing::PrintToString(entries_of(pid(side)));
  EXPECT_TRUE(eventually([&] { return descriptors_of(pid(side)) == descriptors; }))
      << descriptors_of(pid(side)) << ", before " << descriptors;
  expect_nothing_stale(side);
}

// expect_nothing_stale: two rotations make every association stale and count it, also one whose
// socket is gone and that no listing shows.
void Lifetime::expect_nothing_stale(From side) {
  Client client = hosts_->client(side);
  const std::uint32_t device = client.devices().value().front().id;
  const std::uint64_t before = client.stats(device).value().stale_events;
  for (int i = 0; i < 2; i++) EXPECT_TRUE(client.key_rotate(device));
  EXPECT_EQ(client.stats(device).value().stale_events, before) << "associations of nobody";
}

TEST_F(Lifetime, ManyConnectionsAndRestartsOfPspdLeaveNothing) {
  const unsigned connections = environment("PSP_LIFETIME_CONNECTIONS", 10000);
  report("at the start");
  work(connections, kRestarts);
  report("closed");
  expect_no_connections();
  EXPECT_EQ(tally_->failed, 0u);
  EXPECT_EQ(tally_->done + tally_->failed, connections);
  for (const From side : {From::kA, From::kB}) expect_as_at_the_start(side);
  report("125 s later");
  for (const From side : {From::kA, From::kB}) hosts_->end(side, false);
  EXPECT_TRUE(eventually([&] { return !any_exists(programs_); }));
  EXPECT_TRUE(eventually([&] { return std::ranges::none_of(maps_, &map_exists); }));
}

// Memory: what a round of connections needs is there from the round before.
TEST_F(Lifetime, RoundAfterRoundOfConnectionsNeedsNoMoreMemory) {
  const unsigned connections = environment("PSP_LIFETIME_CONNECTIONS", 10000) / 5;
  std::map<From, std::size_t> after_two;
  for (const unsigned round : {1u, 2u, 3u, 4u}) {
    work(connections, 0);
    expect_no_connections();
    for (const From side : {From::kA, From::kB}) {
      expect_as_at_the_start(side);
      if (round == 2) after_two[side] = private_kilobytes(pid(side));
    }
    report(fmt::format("round {}", round));
  }
  EXPECT_EQ(tally_->failed, 0u);
  for (const From side : {From::kA, From::kB}) {
    const std::size_t now = private_kilobytes(pid(side));
    EXPECT_LE(now, after_two[side] + 256) << "kB; after two rounds " << after_two[side];
  }
}

}  // namespace
}  // namespace psp::lab
