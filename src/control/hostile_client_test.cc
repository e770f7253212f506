// SPDX-License-Identifier: Apache-2.0
//
// Clients of pspd's socket that want to harm: what they may cost is memory up to a bound, and
// nobody else anything (see hostile_client_fixture.hh). They flood, they open thousands of
// connections, they pass descriptors whose close waits, they die in the middle of a message.
#include <csignal>
#include <netinet/in.h>
#include <poll.h>

#include "accounts.hh"
#include "hanging_file_fixture.hh"
#include "hostile_client_fixture.hh"

namespace psp::control {
namespace {

// lingering is a TCP socket whose close() takes 30 s.
UniqueFd lingering() {
  static const std::vector<char> octets(1 << 20);
  static const int listener = [] {
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    ::bind(fd, reinterpret_cast<sockaddr*>(&name), sizeof name);
    ::listen(fd, 1000);
    return fd;
  }();
  sockaddr_in name{};
  socklen_t length = sizeof name;
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&name), &length);
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM, 0));
  const linger for_long{1, 30};
  ::connect(socket.get(), reinterpret_cast<sockaddr*>(&name), length);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &for_long, sizeof for_long);
  while (::send(socket.get(), octets.data(), octets.size(), MSG_DONTWAIT) > 0) {
  }
  return socket;
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
  constexpr std::size_t kOurs = 64;  // the test's and the daemon's
  EXPECT_LT(descriptors().size(), Accounts::kClientsMax / 4 + Accounts::kEndingMax + kOurs)
      << "the user's connections, and what is being closed of the user's";
}

TEST_F(HostileClient, PassesAHundredDescriptors) {
  const std::size_t before = warm();
  const auto open = descriptors();
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
  kill_all();
  expect_closed(open);
}

TEST_F(HostileClient, PassesDescriptorsWhoseCloseWaits) {
  const std::size_t before = warm();
  daemon_->pause(true);  // until the client has closed its own copies
  attack([this](const auto& at_it) {
    const auto one = request(PSPNL_CMD_RX_ASSOC, NLM_F_REQUEST);
    const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    for (int round = 0; round < 100; round++) {
      const UniqueFd socket = lingering();
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

// What no trick of pspd's can end: the file system itself does not answer.
TEST_F(HostileClient, PassesAFileWhoseCloseNeverReturns) {
  const std::size_t before = warm();
  HangingFile hanging;
  if (hanging.file() < 0) GTEST_SKIP() << "needs FUSE (/dev/fuse, and to mount it)";
  const auto open = descriptors();
  attack([this, &hanging](const auto& at_it) {
    const auto one = request(PSPNL_CMD_RX_ASSOC, NLM_F_REQUEST);
    const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    for (int round = 0;; round++) {
      const UniqueFd fd = connect();
      if (!fd) ::usleep(1000);
      for (const int passed : {hanging.file(), null, hanging.file()})
        if (fd) (void)send_with(fd.get(), one, {passed});
      if (round == 5000) at_it();
    }
  });
  live("a file whose close() never returns, and connections without end", before, 16 * kMiB);
  hanging.let_go();  // or nothing could end: a task that exits closes, too
  kill_all();
  expect_closed(open);
}

// One close() that waits, and behind it more connections than pspd keeps for a user, each with
// something in it that pspd would have to close.
TEST_F(HostileClient, KeepsNobodyOutByACloseThatWaits) {
  const std::size_t before = warm();
  attack([this](const auto& at_it) {
    const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    const auto one = request(PSPNL_CMD_RX_ASSOC, NLM_F_REQUEST);
    {
      const UniqueFd socket = lingering(), fd = connect();
      (void)send_with(fd.get(), one, {null, null, socket.get()});
    }
    for (int i = 0; i < 3000; i++) {
      UniqueFd fd;
      for (int patience = 1000; !fd && patience > 0; patience--)
        if (!(fd = connect())) ::usleep(1000);
      if (fd) (void)send_with(fd.get(), one, {null});
    }
    at_it();
  });
  live("a close() that takes 30 s, and 3000 connections", before, 16 * kMiB);
}

TEST_F(HostileClient, DiesInMidMessage) {
  const std::size_t before = warm();
  const auto open = descriptors();
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
  kill_all();
  live("1000 connections of clients that died", before, 16 * kMiB);
  expect_closed(open);
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

}  // namespace
}  // namespace psp::control
