// SPDX-License-Identifier: Apache-2.0
//
// Users who make pspd look at all TCP sockets of the host: by asking for its associations without
// end, and by closing so many sockets at once that the kernel tells of some of them only; and root
// of a container, whose netdevs never rest. What they cost is counted (lists of sockets that are
// made), the waiting of others is printed, and what was not heard is found all the same.
//
// Threading: the test's thread; nobody is a process of its own.
#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstring>
#include <fstream>
#include <grp.h>
#include <gtest/gtest.h>
#include <iostream>
#include <linux/netlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sstream>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "base/unix_address.hh"
#include <psp/netlink/uapi.h>

#include "container.hh"
#include "fault_plan.hh"
#include "lab.hh"

namespace psp::lab {
namespace {

constexpr uid_t kNobody = 65534;
constexpr int kSteps = 500;

class Flood : public testing::Test {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace();
    lab_->start(From::kB);
  }
  void start(const std::vector<std::string>& more = {}) {
    const UnderPlan under(plan_);
    lab_->start(From::kA, more);
  }
  const Netns& host() { return lab_->ns(From::kA); }
  // lists is how many lists of sockets pspd has made: each is two dumps, one for each family.
  unsigned lists() { return plan_->socket_dumps / 2; }

  // p99 of how long the host waits for answers to dev-get, in microseconds: asked for a second.
  double p99() {
    auto client = lab_->client(From::kA);
    const std::uint32_t id = client.devices().value().at(0).id;
    std::vector<double> waits;
    const auto until = std::chrono::steady_clock::now() + 1s;
    while (waits.size() < kSteps || std::chrono::steady_clock::now() < until) {
      const auto start = std::chrono::steady_clock::now();
      EXPECT_TRUE(client.device(id));
      const std::chrono::duration<double, std::micro> took =
          std::chrono::steady_clock::now() - start;
      waits.push_back(took.count());
    }
    std::ranges::sort(waits);
    return waits[waits.size() * 99 / 100];
  }

  std::optional<Lab> lab_;
  Plan plan_;
};

// Asker is a connection to pspd on which requests can wait.
class Asker {
 public:
  // In the namespace of the thread.
  Asker() {
    const auto name = UnixAddress::parse("@softpsp");
    fd_.reset(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(fd_.get(), name->get(), name->length()), 0);
  }
  void ask() const {
    std::array<std::uint8_t, NLMSG_HDRLEN + 4> octets{};
    const nlmsghdr header{.nlmsg_len = octets.size(),
                          .nlmsg_type = SOFTPSP_ID_SOFTPSP,
                          .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
                          .nlmsg_seq = 1,
                          .nlmsg_pid = 0};
    std::memcpy(octets.data(), &header, sizeof header);
    octets[NLMSG_HDRLEN] = SOFTPSP_CMD_ASSOC_GET;
    octets[NLMSG_HDRLEN + 1] = 1;
    EXPECT_EQ(::send(fd_.get(), octets.data(), octets.size(), 0), ssize_t{octets.size()});
  }
  // rows reads the answer to its end: how many associations it tells of.
  std::size_t rows() const {
    alignas(nlmsghdr) std::array<std::uint8_t, 32768> room;
    for (std::size_t rows = 0;;) {
      pollfd ready{.fd = fd_.get(), .events = POLLIN, .revents = 0};
      const ssize_t n =
          ::poll(&ready, 1, 20'000) == 1 ? ::recv(fd_.get(), room.data(), room.size(), 0) : 0;
      if (n <= 0) throw std::runtime_error("no answer");
      for (std::size_t at = 0; at < static_cast<std::size_t>(n);) {
        const auto* header = reinterpret_cast<const nlmsghdr*>(room.data() + at);
        if (header->nlmsg_type == NLMSG_DONE) return rows;
        rows++;
        at += NLMSG_ALIGN(header->nlmsg_len);
      }
    }
  }

 private:
  UniqueFd fd_;
};

// Nobody is a process that asks for all associations on so many connections, always.
class Nobody {
 public:
  Nobody(const Netns& netns, int connections)
      : answers_(static_cast<std::atomic<unsigned>*>(::mmap(nullptr, sizeof(std::atomic<unsigned>),
                                                            PROT_READ | PROT_WRITE,
                                                            MAP_SHARED | MAP_ANONYMOUS, -1, 0))),
        pid_(::fork()) {
    if (pid_ != 0) return;
    const InNetns inside(netns);
    if (::setgroups(0, nullptr) == 0 && ::setgid(kNobody) == 0 && ::setuid(kNobody) == 0)
      ask(connections);
    ::_exit(1);
  }
  ~Nobody() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    ::munmap(answers_, sizeof *answers_);
  }
  Nobody(const Nobody&) = delete;
  Nobody& operator=(const Nobody&) = delete;
  unsigned answers() const { return *answers_; }

 private:
  void ask(int connections) {
    std::vector<std::unique_ptr<Asker>> all;
    for (int i = 0; i < connections; i++) all.push_back(std::make_unique<Asker>());
    try {
      for (;;) {
        for (const auto& asker : all) asker->ask();
        for (const auto& asker : all) {
          asker->rows();
          ++*answers_;
        }
      }
    } catch (const std::exception&) {  // pspd has gone
    }
  }
  std::atomic<unsigned>* answers_;
  pid_t pid_;
};

TEST_F(Flood, ThoseWhoAskAtOnceShareAListOfTheSockets) {
  constexpr unsigned kMany = 64;
  start();
  auto connection = lab_->connect(Kind::kIpv4);
  secure(*lab_, connection);
  std::vector<std::unique_ptr<Asker>> askers;
  {
    const InNetns inside(host());
    for (unsigned i = 0; i < kMany; i++) askers.push_back(std::make_unique<Asker>());
  }
  askers[0]->ask();  // all connections before it are served
  EXPECT_EQ(askers[0]->rows(), 1u);
  const unsigned before = lists();
  const Pspd& pspd = lab_->pspd(From::kA);
  pspd.send(SIGSTOP);
  for (const auto& asker : askers) asker->ask();
  pspd.send(SIGCONT);
  for (const auto& asker : askers) EXPECT_EQ(asker->rows(), 1u);
  EXPECT_GE(lists(), before + 1);
  EXPECT_LE(lists(), before + kMany / 8);
}

// The others wait for what is theirs; how long is printed.
TEST_F(Flood, OfNobodyWhoAsksWithoutEndLeavesOthersTheirAnswers) {
  start();
  const double alone = p99();
  const unsigned before = lists();
  const Nobody nobody(host(), 20);
  ASSERT_TRUE(eventually([&] { return nobody.answers() > 20; }));
  const double beside = p99();
  // A list is as new as the question, also for others.
  auto connection = lab_->connect(Kind::kIpv4);
  secure(*lab_, connection);
  EXPECT_TRUE(lab_->association(From::kA, connection.a.get()));
  std::cout << fmt::format(
      "p99 of dev-get: {:.0f} us alone, {:.0f} us beside {} answers, of {} "
      "lists\n",
      alone, beside, nobody.answers(), lists() - before);
}

// open_and_close makes connections of the host with itself, and ends each at once.
void open_and_close(const Netns& netns, int count) {
  const InNetns inside(netns);
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof name;
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&name), length), 0);
  ASSERT_EQ(::listen(listener.get(), 16), 0);
  ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&name), &length), 0);
  constexpr linger kReset{.l_onoff = 1, .l_linger = 0};
  for (int i = 0; i < count; i++) {
    const UniqueFd a(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::connect(a.get(), reinterpret_cast<sockaddr*>(&name), length), 0);
    const UniqueFd b(::accept(listener.get(), nullptr, nullptr));
    ::setsockopt(a.get(), SOL_SOCKET, SO_LINGER, &kReset, sizeof kReset);
  }
}

TEST_F(Flood, OfSocketsThatCloseLeavesOthersTheirAnswers) {
  start();
  const double alone = p99();
  std::atomic<bool> stop = false;
  std::atomic<unsigned> closed = 0;
  std::thread closer([&] {
    for (; !stop; closed += 100) open_and_close(host(), 100);
  });
  ASSERT_TRUE(eventually([&] { return closed != 0; }));
  const double beside = p99();
  stop = true;
  closer.join();
  std::cout << fmt::format("p99 of dev-get: {:.0f} us alone, {:.0f} us beside {} connections\n",
                           alone, beside, closed.load());
}

// Switching takes eth0 of a container down and up again, as its root, until its end: each is news
// to pspd, also from the other end of the veth.
class Switching {
 public:
  explicit Switching(const Container& container) {
    container.as_root([this] {
      if (::fork() == 0) run();
      return 0;
    });
  }
  ~Switching() { state_->stop = true; }
  Switching(const Switching&) = delete;
  Switching& operator=(const Switching&) = delete;
  unsigned times() const { return state_->times; }

 private:
  struct State {
    std::atomic<unsigned> times;
    std::atomic<bool> stop;
  };
  [[noreturn]] void run() {
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    const int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ifreq request{};
    std::strcpy(request.ifr_name, "eth0");
    while (!state_->stop && std::chrono::steady_clock::now() < deadline) {
      request.ifr_flags = state_->times % 2 != 0 ? IFF_UP : 0;
      if (::ioctl(socket, SIOCSIFFLAGS, &request) != 0) break;
      state_->times++;
    }
    ::_exit(0);
  }

  State* state_ = static_cast<State*>(
      ::mmap(nullptr, sizeof(State), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
};

TEST_F(Flood, OfNetdevEventsOfAContainersRootLeavesOthersTheirAnswers) {
  start();
  Container container(*lab_, Container::Link::kVeth, Container::Owner::kItself);
  const auto associated = container.associate();
  ASSERT_TRUE(associated) << associated.error().message;
  const double alone = p99();
  const Switching switching(container);
  ASSERT_TRUE(eventually([&] { return switching.times() > 10; }));
  const double beside = p99();
  std::cout << fmt::format(
      "p99 of dev-get: {:.0f} us alone, {:.0f} us beside {} changes of a link\n", alone, beside,
      switching.times());
}

// dropped is how much of what the kernel tells of sockets a process has not heard.
std::uint64_t dropped(pid_t pid) {
  std::ifstream table(fmt::format("/proc/{}/net/netlink", pid));
  std::string line, word;
  std::uint64_t sum = 0;
  for (std::getline(table, line); std::getline(table, line);) {
    std::istringstream words(line);
    std::uint64_t bus = 0, drops = 0;
    // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
    words >> word >> bus >> word >> word >> word >> word >> word >> word >> drops;
    if (bus == NETLINK_SOCK_DIAG) sum += drops;
  }
  return sum;
}

TEST_F(Flood, OfSocketsThatCloseHidesNoEndOfASecuredOne) {
  constexpr std::size_t kRoom = 2 * 1024;  // associations that there may be
  start({"--max-connections", "1024"});
  auto client = lab_->client(From::kA);
  std::vector<Connection> all;
  while (all.size() < kRoom) {
    all.push_back(lab_->connect(Kind::kIpv4));
    ASSERT_TRUE(client.rx_assoc(all.back().a.get(), Version::kAesGcm128)) << all.size();
  }
  const auto next = lab_->connect(Kind::kIpv4);
  ASSERT_FALSE(client.rx_assoc(next.a.get(), Version::kAesGcm128)) << "there is room for more";
  const unsigned before = lists();
  const Pspd& pspd = lab_->pspd(From::kA);
  pspd.send(SIGSTOP);
  open_and_close(host(), 10'000);  // more than the kernel keeps the news of
  ASSERT_TRUE(eventually([&] { return dropped(pspd.pid()) != 0; }, 20s));
  const std::uint64_t others = dropped(pspd.pid());
  all.clear();
  // The kernel tells of them a little later.
  ASSERT_TRUE(eventually([&] { return dropped(pspd.pid()) >= others + kRoom; }, 20s));
  pspd.send(SIGCONT);
  EXPECT_TRUE(eventually(
      [&] { return client.rx_assoc(next.a.get(), Version::kAesGcm128).has_value(); }, 20s));
  EXPECT_TRUE(eventually([&] { return lists() > before; })) << "all was heard: nothing is shown";
  EXPECT_LE(lists(), before + 10) << "one loss, and a second one while that is looked after";
}

}  // namespace
}  // namespace psp::lab
