// SPDX-License-Identifier: Apache-2.0
//
// Clients that want to harm: what they may cost is memory up to a bound, and nobody else anything.
// They run as another user, in a process of their own, while a well-behaved client goes on asking.
// How long that one waits is printed, with the memory before and after, and not judged: what is
// judged is that it is answered, how much more memory there is, and which descriptors stay.
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <functional>
#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <psp/netlink/client.hh>
#include <psp/netlink/uapi.h>

#include "../../../tests/preload/model_daemon.hh"
#include "delivery.hh"

namespace psp {
namespace {

constexpr uid_t kHostile = 65534;
constexpr std::size_t kMiB = 1 << 20;
// A sanitizer keeps what was freed, so memory says nothing.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

std::size_t resident() {
  std::size_t pages = 0, shared = 0;
  FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr || std::fscanf(file, "%zu %zu", &shared, &pages) != 2) pages = 0;
  if (file != nullptr) std::fclose(file);
  return pages * 4096;
}

std::size_t descriptors() {
  DIR* directory = ::opendir("/proc/self/fd");
  std::size_t count = 0;
  while (::readdir(directory) != nullptr) count++;
  ::closedir(directory);
  return count;
}

class HostileClient : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: the hostile client is another user";
    address_ = fmt::format("@softpsp-hostile-{}", ::getpid());
    daemon_ = std::make_unique<ModelDaemon>(address_, 3);
    ASSERT_EQ(daemon_->error(), "");
  }
  void TearDown() override {
    for (const pid_t pid : hostile_) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
  }

  UniqueFd connect() const {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    address_.copy(name.sun_path, address_.size());
    name.sun_path[0] = '\0';
    UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0));
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address_.size());
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&name), length) != 0) return {};
    return fd;
  }
  // attack runs `work` as another user; it may say one word when it is at it.
  void attack(const std::function<void(const std::function<void()>& at_it)>& work) {
    std::array<int, 2> ready{};
    ASSERT_EQ(::pipe(ready.data()), 0);
    const pid_t pid = ::fork();
    if (pid == 0) {
      const rlimit many{16384, 16384};
      ::setrlimit(RLIMIT_NOFILE, &many);
      ::signal(SIGPIPE, SIG_IGN);
      // Under `chrt -r 20` the figures show pspd's own queues, not who else wants the processors.
      const sched_param ordinary{};
      ::sched_setscheduler(0, SCHED_OTHER, &ordinary);
      if (::setresgid(kHostile, kHostile, kHostile) != 0 ||
          ::setresuid(kHostile, kHostile, kHostile) != 0)
        ::_exit(1);
      work([&] { (void)!::write(ready[1], "x", 1); });
      (void)!::write(ready[1], "x", 1);
      for (;;) ::pause();
    }
    hostile_.push_back(pid);
    ::close(ready[1]);
    char word;
    EXPECT_EQ(::read(ready[0], &word, 1), 1) << "it could not do what it was to do";
    ::close(ready[0]);
  }
  // live asks as a well-behaved client does, on one connection and on fresh ones.
  void live(const char* what, std::size_t before, std::size_t more) {
    std::vector<double> waits;
    auto kept = Client::connect_daemon(address_);
    ASSERT_TRUE(kept) << kept.error().message;
    for (int i = 0; i < 300; i++) {
      const auto start = std::chrono::steady_clock::now();
      if (i % 10 == 0) {
        auto fresh = Client::connect_daemon(address_);
        ASSERT_TRUE(fresh) << fresh.error().message;
        ASSERT_TRUE(fresh->device(1));
      } else {
        const auto device = kept->device(1);
        ASSERT_TRUE(device) << device.error().message;
      }
      waits.push_back(
          std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
              .count());
    }
    std::ranges::sort(waits);
    const std::size_t now = resident();
    fmt::print(
        "{}: RSS {:.1f} -> {:.1f} MiB; others wait p50 {:.0f} us, p99 {:.0f} us, max {:.0f} us\n",
        what, static_cast<double>(before) / kMiB, static_cast<double>(now) / kMiB,
        waits[waits.size() / 2], waits[waits.size() * 99 / 100], waits.back());
    if (!kSanitized) {
      EXPECT_LT(now, before + more);
    }
  }
  // warm makes what every daemon has after its first requests.
  std::size_t warm() {
    auto client = Client::connect_daemon(address_);
    EXPECT_TRUE(client && client->devices());
    return resident();
  }

  std::string address_;
  std::unique_ptr<ModelDaemon> daemon_;
  std::vector<pid_t> hostile_;
};

std::array<std::uint8_t, 20> request(std::uint8_t cmd, std::uint16_t flags) {
  std::array<std::uint8_t, 20> octets{};
  nlmsghdr header{.nlmsg_len = 20,
                  .nlmsg_type = SOFTPSP_ID_PSP,
                  .nlmsg_flags = flags,
                  .nlmsg_seq = 1,
                  .nlmsg_pid = 0};
  std::memcpy(octets.data(), &header, sizeof header);
  octets[16] = cmd;
  octets[17] = 1;
  return octets;
}

// send_with sends `octets` with descriptors.
ssize_t send_with(int to, std::span<const std::uint8_t> octets, const std::vector<int>& fds) {
  const std::size_t size = fds.size() * sizeof(int);
  iovec part{const_cast<std::uint8_t*>(octets.data()), octets.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(253 * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(size);
  cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(size);
  std::memcpy(CMSG_DATA(rights), fds.data(), size);
  return ::sendmsg(to, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

TEST_F(HostileClient, FloodsAndNeverReads) {
  const std::size_t before = warm();
  attack([this](const auto& at_it) {
    // Each datagram is full of requests, and each request has two answers.
    std::vector<std::uint8_t> full;
    const auto one = request(PSPNL_CMD_DEV_GET, NLM_F_REQUEST | NLM_F_ACK);
    while (full.size() + one.size() <= 60'000) full.insert(full.end(), one.begin(), one.end());
    std::vector<UniqueFd> all;
    for (int i = 0; i < 500; i++) all.push_back(connect());
    for (int round = 0;; round++) {
      for (UniqueFd& fd : all) {
        if (!fd) fd = connect();
        if (fd && ::send(fd.get(), full.data(), full.size(), MSG_NOSIGNAL | MSG_DONTWAIT) < 0 &&
            errno != EAGAIN)
          fd.reset();
      }
      if (round == 3) at_it();
    }
  });
  live("500 that flood and never read", before, 48 * kMiB);
}

TEST_F(HostileClient, FloodsAndReads) {
  const std::size_t before = warm();
  attack([this](const auto& at_it) {
    const auto one = request(PSPNL_CMD_DEV_GET, NLM_F_REQUEST | NLM_F_DUMP);
    std::vector<std::uint8_t> room(32768);
    std::vector<UniqueFd> all;
    for (int i = 0; i < 50; i++) all.push_back(connect());
    for (int round = 0;; round++) {
      for (const UniqueFd& fd : all) {
        (void)::send(fd.get(), one.data(), one.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        while (::recv(fd.get(), room.data(), room.size(), MSG_DONTWAIT) > 0) {
        }
      }
      if (round == 3) at_it();
    }
  });
  live("50 that flood and read", before, 16 * kMiB);
}

TEST_F(HostileClient, OpensThousandsOfConnections) {
  const std::size_t before = warm();
  attack([this](const auto& at_it) {
    std::vector<UniqueFd> all;
    for (int i = 0; i < 5000; i++) {
      UniqueFd fd = connect();
      if (fd) all.push_back(std::move(fd));
      if (!fd && i % 100 == 0) ::usleep(1000);
    }
    at_it();
    for (;;) (void)connect();  // and goes on
  });
  live("5000 connections, and more", before, 32 * kMiB);
  EXPECT_LT(descriptors(), 2000u);
}

TEST_F(HostileClient, PassesAHundredDescriptors) {
  const std::size_t before = warm(), open = descriptors();
  attack([this](const auto& at_it) {
    const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    const auto one = request(PSPNL_CMD_RX_ASSOC, NLM_F_REQUEST);
    for (int round = 0;; round++) {
      const UniqueFd fd = connect();
      for (std::size_t count : {1u, 2u, 3u, 100u, 253u})
        if (fd) (void)send_with(fd.get(), one, std::vector<int>(count, null));
      if (round == 50) at_it();
    }
  });
  live("hundreds of descriptors that are no sockets", before, 16 * kMiB);
  for (const pid_t pid : std::exchange(hostile_, {})) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  for (int i = 0; i < 500 && descriptors() > open; i++) {
    warm();
    ::usleep(10'000);
  }
  EXPECT_LE(descriptors(), open) << "of those that the dead client passed";
}

TEST_F(HostileClient, PassesDescriptorsWhoseCloseWaits) {
  const std::size_t before = warm();
  daemon_->pause(true);  // until the client has closed its own copies
  attack([this](const auto& at_it) {
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof name;
    const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
    ::bind(listener, reinterpret_cast<sockaddr*>(&name), length);
    ::listen(listener, 1000);
    ::getsockname(listener, reinterpret_cast<sockaddr*>(&name), &length);
    const std::vector<char> octets(1 << 20);
    const auto one = request(PSPNL_CMD_RX_ASSOC, NLM_F_REQUEST);
    const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    for (int round = 0; round < 100; round++) {
      const UniqueFd socket(::socket(AF_INET, SOCK_STREAM, 0));
      const linger for_long{1, 30};
      ::connect(socket.get(), reinterpret_cast<sockaddr*>(&name), length);
      ::setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &for_long, sizeof for_long);
      while (::send(socket.get(), octets.data(), octets.size(), MSG_DONTWAIT) > 0) {
      }
      const UniqueFd fd = connect();
      // Read by pspd; behind so many that a smaller buffer would leave it to the kernel; never
      // read, as pspd ends the connection first. The last copy goes away in its hands each time.
      std::vector<int> many(200, null);
      if (round % 3 == 2) (void)send_with(fd.get(), one, many);
      if (round % 3 != 1) many.clear();
      many.push_back(socket.get());
      (void)send_with(fd.get(), one, many);
    }
    at_it();
  });
  daemon_->pause(false);
  live("100 sockets whose close() takes 30 s", before, 16 * kMiB);
}

TEST_F(HostileClient, DiesInMidMessage) {
  const std::size_t before = warm(), open = descriptors();
  for (int round = 0; round < 20; round++)
    attack([this](const auto&) {
      const auto one = request(PSPNL_CMD_DEV_GET, NLM_F_REQUEST | NLM_F_DUMP);
      const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
      std::vector<UniqueFd> all;
      for (int i = 0; i < 50; i++) {
        all.push_back(connect());
        // A whole request, one that is cut off, one with descriptors: then dead.
        (void)::send(all.back().get(), one.data(), one.size(), MSG_NOSIGNAL);
        (void)::send(all.back().get(), one.data(), 17, MSG_NOSIGNAL);
        (void)send_with(all.back().get(), one, std::vector<int>(50, null));
      }
    });
  for (const pid_t pid : std::exchange(hostile_, {})) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  live("1000 connections of clients that died", before, 16 * kMiB);
  for (int i = 0; i < 500 && descriptors() > open; i++) {
    warm();
    ::usleep(10'000);
  }
  EXPECT_LE(descriptors(), open);
}

TEST_F(HostileClient, SubscribesAndNeverReads) {
  const std::size_t before = warm();
  attack([this](const auto& at_it) {
    // softpsp subscribe {groups: 3}
    std::array<std::uint8_t, 28> subscribe{28, 0, 0, 0, 0x54, 0x50, 1, 0};
    subscribe[16] = SOFTPSP_CMD_SUBSCRIBE;
    subscribe[17] = 1;
    subscribe[20] = 8;
    subscribe[22] = SOFTPSP_SUBSCRIBE_GROUPS;
    subscribe[24] = 3;
    static std::vector<UniqueFd> all;
    for (int i = 0; i < 900; i++) {
      all.push_back(connect());
      if (all.back())
        (void)::send(all.back().get(), subscribe.data(), subscribe.size(), MSG_NOSIGNAL);
    }
    at_it();
  });
  auto admin = Client::connect_daemon(address_);
  ASSERT_TRUE(admin);
  auto listener = Client::connect_daemon(address_);
  ASSERT_TRUE(listener && listener->subscribe(true, true));
  for (int i = 0; i < 1000; i++) {
    ASSERT_TRUE(admin->key_rotate(1));
    const auto heard = listener->next_notification(std::chrono::seconds(5));
    ASSERT_TRUE(heard && *heard) << i;
  }
  live("900 members that never read, 1000 notifications", before, 16 * kMiB);
}

// envelope is a request of libpsp-genl.so with one attribute.
std::vector<std::uint8_t> envelope(std::uint16_t type, std::span<const std::uint8_t> value) {
  const nlattr attribute{.nla_len = static_cast<std::uint16_t>(NLA_HDRLEN + value.size()),
                         .nla_type = type};
  std::vector<std::uint8_t> octets(20 + NLA_HDRLEN + value.size());
  const nlmsghdr header{.nlmsg_len = static_cast<std::uint32_t>(octets.size()),
                        .nlmsg_type = SOFTPSP_ID_SOFTPSP,
                        .nlmsg_flags = NLM_F_REQUEST,
                        .nlmsg_seq = 1,
                        .nlmsg_pid = 0};
  std::memcpy(octets.data(), &header, sizeof header);
  octets[16] = SOFTPSP_CMD_FORWARD;
  octets[17] = 1;
  std::memcpy(octets.data() + 20, &attribute, sizeof attribute);
  std::ranges::copy(value, octets.begin() + 20 + NLA_HDRLEN);
  return octets;
}

// generic_socket is a netlink socket with a port, of the kernel's choice or this one.
UniqueFd generic_socket(std::uint32_t port = 0) {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC));
  sockaddr_nl own{};
  own.nl_family = AF_NETLINK;
  own.nl_pid = port;
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&own), sizeof own) != 0) fd.reset();
  return fd;
}

// forward sends an envelope with the program's socket. False: pspd did not do it.
bool forward(const UniqueFd& connection, std::span<const std::uint8_t> octets, int fd) {
  alignas(nlmsghdr) std::array<std::uint8_t, 4096> reply;
  pollfd ready{.fd = connection.get(), .events = POLLIN, .revents = 0};
  return send_with(connection.get(), octets, {fd}) > 0 && ::poll(&ready, 1, 5000) == 1 &&
         ::recv(connection.get(), reply.data(), reply.size(), 0) > 0 &&
         reinterpret_cast<const nlmsghdr*>(reply.data())->nlmsg_type == SOFTPSP_ID_SOFTPSP;
}

bool join(const UniqueFd& connection, int fd) {
  const std::uint32_t group = SOFTPSP_ID_GROUP_USE;
  return forward(
      connection,
      envelope(SOFTPSP_FORWARD_JOIN, {reinterpret_cast<const std::uint8_t*>(&group), sizeof group}),
      fd);
}

// hears takes a notification off a program's socket, if one comes.
bool hears(int fd, int patience_ms) {
  std::array<std::uint8_t, 4096> room;
  pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&ready, 1, patience_ms) == 1 && ::recv(fd, room.data(), room.size(), 0) > 16;
}

TEST_F(HostileClient, OpensThousandsOfNetlinkSockets) {
  const std::size_t before = warm();
  for (int process = 0; process < 2; process++)
    attack([this](const auto& at_it) {
      const UniqueFd connection = connect();
      const auto dump =
          envelope(SOFTPSP_FORWARD_MESSAGE, request(PSPNL_CMD_DEV_GET, NLM_F_REQUEST | NLM_F_DUMP));
      std::vector<UniqueFd> all;
      while (all.size() < 10'200 && (all.empty() || all.back())) all.push_back(generic_socket());
      if (!all.back()) ::_exit(1);
      for (int i = 0; i < 4; i++) {  // that listen, and wait for room in their buffers
        const int fd = all[static_cast<std::size_t>(i)].get(), little = 1;
        ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
        if (!join(connection, fd)) ::_exit(1);
        for (int round = 0; round < 20; round++) (void)forward(connection, dump, fd);
      }
      at_it();
      for (;;) ::pause();
    });
  // A program hears of each rotation all the same, and another that has its port does not.
  const UniqueFd connection = connect();
  UniqueFd listener = generic_socket(0x7a7a7a7a);
  ASSERT_TRUE(listener && join(connection, listener.get()));
  auto admin = Client::connect_daemon(address_);
  ASSERT_TRUE(admin);
  for (int i = 0; i < 300; i++) {
    ASSERT_TRUE(admin->key_rotate(1));
    ASSERT_TRUE(hears(listener.get(), 5000)) << i;
  }
  live("20400 netlink sockets, 8 with full buffers", before, 32 * kMiB);
  listener.reset();
  const UniqueFd other = generic_socket(0x7a7a7a7a);
  ASSERT_TRUE(other);
  // It takes until pspd has walked the table once more, with its small part of a processor that may
  // be everybody's: some hundreds of rotations, and more on a host with other work.
  int quiet = 0, heard = 0;
  for (; heard < 20'000 && quiet < 3; ::usleep(10'000)) {
    ASSERT_TRUE(admin->key_rotate(1));
    hears(other.get(), 100) ? ++heard, quiet = 0 : ++quiet;
  }
  EXPECT_EQ(quiet, 3) << heard;
  fmt::print("the port's next socket heard {} notifications that were not its own\n", heard);
  // It does if it wants to.
  ASSERT_TRUE(join(connection, other.get()));
  ASSERT_TRUE(admin->key_rotate(1));
  EXPECT_TRUE(hears(other.get(), 5000));
}

TEST_F(HostileClient, ListensWithAllTheSocketsItMayAndCloses) {
  constexpr std::size_t kMost = Delivery::kMembersMax / 4;
  std::array<std::atomic<int>, 2>* joined = static_cast<std::array<std::atomic<int>, 2>*>(
      ::mmap(nullptr, sizeof *joined, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  attack([&](const auto&) {
    const UniqueFd connection = connect();
    for (int round = 0; round < 2; round++) {
      std::vector<UniqueFd> all;
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (all.size() < kMost && std::chrono::steady_clock::now() < deadline) {
        UniqueFd fd = generic_socket();
        if (join(connection, fd.get()))
          all.push_back(std::move(fd));
        else
          ::usleep(10'000);
      }
      (*joined)[static_cast<std::size_t>(round)] = static_cast<int>(all.size());
      if (join(connection, generic_socket().get())) (*joined)[0] = -1;
    }
  });
  EXPECT_EQ((*joined)[0], static_cast<int>(kMost));
  EXPECT_EQ((*joined)[1], static_cast<int>(kMost)) << "those that closed are forgotten";
}

}  // namespace
}  // namespace psp
