// SPDX-License-Identifier: Apache-2.0
//
// Programs under libpsp-genl.so that want to harm: each of their netlink sockets may listen, and
// pspd has to find out when one is closed. What that costs is bounded, and who is not of theirs
// hears all of his notifications and none that is not his own (see hostile_client_fixture.hh).
#include <atomic>
#include <poll.h>
#include <sys/mman.h>
#include <thread>

#include "delivery.hh"
#include "hostile_client_fixture.hh"

namespace psp::control {
namespace {

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

using HostileProgram = HostileClient;

TEST_F(HostileProgram, OpensThousandsOfNetlinkSockets) {
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
  const std::uint32_t port = 0x7a000000u | static_cast<std::uint32_t>(::getpid());
  UniqueFd listener = generic_socket(port);
  ASSERT_TRUE(listener && join(connection, listener.get()));
  auto admin = Client::connect_daemon(address_);
  ASSERT_TRUE(admin);
  for (int i = 0; i < 300; i++) {
    ASSERT_TRUE(admin->key_rotate(1));
    ASSERT_TRUE(hears(listener.get(), 5000)) << i;
  }
  live("20400 netlink sockets, 8 with full buffers", before, 32 * kMiB);
  listener.reset();
  const UniqueFd other = generic_socket(port);
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

// in_a_new_namespace is a socket of a network namespace that nobody else is in.
UniqueFd in_a_new_namespace() {
  return ::unshare(CLONE_NEWNET) == 0 ? generic_socket() : UniqueFd();
}

TEST_F(HostileProgram, LeavesOthersRoomWithAsManyNamespacesAsItCanMake) {
  constexpr int kMost = Delivery::kSendersMax / 4;
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  const UniqueFd told(ends[0]);
  UniqueFd tell(ends[1]);
  attack([&](const auto& at_it) {
    const UniqueFd connection = connect();
    if (::unshare(CLONE_NEWUSER) != 0) ::_exit(1);
    std::vector<UniqueFd> all;
    int joined = 0;
    for (int i = 0; i < kMost + 8; i++) {
      all.push_back(in_a_new_namespace());
      if (!all.back()) ::_exit(1);
      joined += join(connection, all.back().get());
    }
    (void)!::write(tell.get(), &joined, sizeof joined);
    at_it();
    for (;;) ::pause();
  });
  tell.reset();  // so that the end of the other copy is heard
  int joined = 0;
  ASSERT_EQ(::read(told.get(), &joined, sizeof joined), static_cast<ssize_t>(sizeof joined));
  EXPECT_EQ(joined, kMost);
  const UniqueFd connection = connect();
  std::thread([&] { EXPECT_TRUE(join(connection, in_a_new_namespace().get())); }).join();
}

TEST_F(HostileProgram, ListensWithAllTheSocketsItMayAndCloses) {
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
}  // namespace psp::control
