// SPDX-License-Identifier: Apache-2.0
//
// The control socket as clients see it: a real socket, server and core over model sockets, with the
// event loop in a thread. Among them are clients that send garbage, do not read, or pass
// descriptors whose close() waits; and each allocation of pspd fails once.
#include "control_socket.hh"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <new>
#include <poll.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/event_loop.hh"
#include "base/socket_options.hh"
#include "base/unix_address.hh"
#include "device/core_fakes.hh"
#include "netlink/client.hh"

// The allocation that fails, counted down on the one thread that sets it; 0: none.
static thread_local int failing_allocation = 0;

// An `operator new` of this program's own: nothing else fails one allocation of a thread.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (failing_allocation > 0 && --failing_allocation == 0) throw std::bad_alloc();
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return std::malloc(size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace psp::control {
namespace {

// A pspd without packets: real server and core, model sockets, its event loop in a thread.
class ControlSocketTest : public testing::Test {
 protected:
  void SetUp() override {
    address_ = fmt::format("@softpsp-test-{}-{}", ::getpid(),
                           testing::UnitTest::GetInstance()->current_test_info()->name());
    core_.set_notifier(&server_);
    const UniqueFd probe(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    netns_ = netns_cookie(probe.get());
    ASSERT_NE(netns_, 0u);
    ASSERT_TRUE(core_.add_device({netns_, 7}, "eth0", VersionSet::all(), driver_));
    auto control = ControlSocket::listen(clients_, address_);
    ASSERT_TRUE(control) << control.error();
    control_ = std::move(*control);
    beat_ = loop_.every(std::chrono::milliseconds(5), [this] {
      if (stop_) loop_.stop(0);
      if (fail_ >= 0) {
        failing_allocation = 0;
        rotations_ = core_.stats(1)->key_rotations;
        failing_allocation = fail_.exchange(-1);
      }
      while (pause_) {
        paused_ = true;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
    thread_ = std::thread([this] { loop_.run(); });
  }
  void TearDown() override {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }

  UniqueFd connect() const {
    const auto name = UnixAddress::parse(address_);
    UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET, 0));
    EXPECT_EQ(::connect(fd.get(), name->get(), name->length()), 0);
    return fd;
  }
  // fail makes the nth allocation of pspd fail from now on; 0: none.
  void fail(int nth) {
    fail_ = nth;
    while (fail_ != -1) std::this_thread::yield();
  }
  void expect_alive() const {
    auto client = Client::connect_daemon(address_);
    ASSERT_TRUE(client) << client.error().message;
    const auto devices = client->devices();
    ASSERT_TRUE(devices) << devices.error().message;
    EXPECT_EQ(devices->size(), 1u);
  }

  std::string address_;
  std::uint64_t netns_ = 0;
  device::FakeDriver driver_;
  device::ModelSockets sockets_;
  device::Core core_{sockets_};
  netlink::Server server_{core_, nullptr};
  EventLoop loop_;
  Clients clients_{loop_, server_};
  std::unique_ptr<ControlSocket> control_;
  EventLoop::Source beat_;
  std::atomic<bool> stop_ = false, pause_ = false, paused_ = false;
  std::atomic<int> fail_ = -1;                // for failing_allocation of pspd's thread
  std::atomic<std::uint64_t> rotations_ = 0;  // as of the last fail()
  std::thread thread_;
};

TEST_F(ControlSocketTest, AnswersRequests) { expect_alive(); }

TEST_F(ControlSocketTest, RefusesASecondDaemonAtTheSameAddress) {
  EventLoop loop;
  netlink::Server server(core_, nullptr);
  Clients clients(loop, server);
  const auto second = ControlSocket::listen(clients, address_);
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().find("another pspd listens"), std::string::npos);
  expect_alive();
}

TEST_F(ControlSocketTest, TakesOverASocketFileThatNobodyListensOn) {
  const std::string path = testing::TempDir() + "/pspd-test.sock";
  for (int i = 0; i < 2; i++) {
    EventLoop loop;
    Clients clients(loop, server_);
    auto control = ControlSocket::listen(clients, path);
    ASSERT_TRUE(control) << control.error();
    if (i == 0) {  // as a killed daemon leaves it
      const std::string kept = path + ".kept";
      ::link(path.c_str(), kept.c_str());
      control->reset();
      ::rename(kept.c_str(), path.c_str());
    }
  }
  EXPECT_NE(::access(path.c_str(), F_OK), 0) << "a clean stop takes its file along";
}

TEST_F(ControlSocketTest, SurvivesGarbageAndOversize) {
  std::vector<std::uint8_t> octets(Clients::kRequestMax + 1, 0xa5);
  for (const std::size_t size : {std::size_t{1}, std::size_t{15}, std::size_t{16},
                                 std::size_t{4096}, Clients::kRequestMax, octets.size()}) {
    const UniqueFd fd = connect();
    const int room = 1 << 20;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
    (void)::send(fd.get(), octets.data(), size, MSG_NOSIGNAL);
  }
  expect_alive();
}

TEST_F(ControlSocketTest, AClientThatNeverReadsCostsNobodyElse) {
  const UniqueFd deaf = connect();
  // A dev-get dump: nlmsghdr {20, psp family, REQUEST|DUMP, 1, 0}, genlmsghdr {1, 1, 0}.
  auto resolver = Client::connect_daemon(address_);
  ASSERT_TRUE(resolver);
  std::uint8_t request[20] = {20, 0, 0, 0, 16, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0};
  int sent = 0;
  while (sent < 100'000 &&
         ::send(deaf.get(), request, sizeof request, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
    sent++;
  EXPECT_LT(sent, 100'000) << "requests are not taken while answers wait";
  expect_alive();
}

// All but one of them are queued then, and some go out of the queue by dying.
TEST_F(ControlSocketTest, AnswersAllConnectionsOfAProcessThatAskAtOnce) {
  std::vector<UniqueFd> all;
  for (int i = 0; i < 200; i++) all.push_back(connect());
  expect_alive();  // they are accepted
  const std::uint8_t request[20] = {20, 0, 0, 0, 0x53, 0x50, 1, 3, 1, 0,
                                    0,  0, 0, 0, 0,    0,    1, 1, 0, 0};
  std::array<std::uint8_t, 4096> answer{};
  for (int round = 0; round < 3; round++) {
    pause_ = true;
    paused_ = false;
    while (!paused_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    for (const UniqueFd& fd : all) ASSERT_EQ(::send(fd.get(), request, sizeof request, 0), 20);
    for (std::size_t i = 0; i < all.size(); i += 3) all[i].reset();
    std::erase_if(all, [](const UniqueFd& fd) { return !fd; });
    pause_ = false;
    for (const UniqueFd& fd : all) ASSERT_GT(::recv(fd.get(), answer.data(), answer.size(), 0), 0);
  }
}

TEST_F(ControlSocketTest, ALongDumpIsMadeWhileItIsRead) {
  constexpr std::size_t kDevices = 20'000;  // a megabyte: more than a socket holds
  pause_ = true;
  while (!paused_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  for (std::size_t i = 1; i < kDevices; i++) {
    const auto ifindex = static_cast<std::uint32_t>(1000 + i);
    ASSERT_TRUE(core_.add_device({netns_, ifindex}, "eth", VersionSet::all(), driver_));
  }
  pause_ = false;
  const UniqueFd slow = connect();
  const std::uint8_t request[20] = {20, 0, 0, 0, 0x53, 0x50, 1, 3, 1, 0,
                                    0,  0, 0, 0, 0,    0,    1, 1, 0, 0};
  ASSERT_EQ(::send(slow.get(), request, sizeof request, 0), 20);
  auto client = Client::connect_daemon(address_);
  ASSERT_TRUE(client) << "answered while the first one does not read";
  const auto devices = client->devices();
  ASSERT_TRUE(devices) << devices.error().message;
  EXPECT_EQ(devices->size(), kDevices);

  std::size_t octets = 0;
  std::vector<std::uint8_t> part(16384);
  std::uint16_t last = 0;
  while (last != 3) {  // NLMSG_DONE
    const ssize_t n = ::recv(slow.get(), part.data(), part.size(), 0);
    ASSERT_GT(n, 0);
    octets += static_cast<std::size_t>(n);
    for (std::size_t at = 0; at < static_cast<std::size_t>(n);) {
      std::uint32_t length = 0;
      std::memcpy(&length, part.data() + at, sizeof length);
      std::memcpy(&last, part.data() + at + 4, sizeof last);
      at += length;
    }
  }
  EXPECT_EQ(octets, kDevices * 52 + 20);
}

// send_descriptor sends a request that cannot be answered with `fd` beside it, or several of it.
void send_descriptor(int to, int fd, std::size_t count = 1) {
  std::uint8_t octets[16] = {16};
  iovec part{octets, sizeof octets};
  const std::vector<int> fds(count, fd);
  alignas(cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(count * sizeof fd);
  cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(count * sizeof fd);
  std::memcpy(CMSG_DATA(rights), fds.data(), count * sizeof fd);
  ASSERT_EQ(::sendmsg(to, &message, MSG_NOSIGNAL), 16);
}

TEST_F(ControlSocketTest, KeepsNoDescriptorThatItWasSent) {
  const auto open_descriptors = [] {
    int count = 0;
    for (int fd = 0; fd < 1024; fd++) count += ::fcntl(fd, F_GETFD) >= 0;
    return count;
  };
  expect_alive();
  const int before = open_descriptors();
  for (int round = 0; round < 20; round++) {
    const UniqueFd fd = connect();  // who sends so many is not heard again
    send_descriptor(fd.get(), fd.get(), 8);
  }
  expect_alive();  // the loop has been through all of them, and has others close them
  // Clients come and go while we count; a leak would be 80 or more.
  for (int i = 0; i < 1000 && open_descriptors() >= before + 20; i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_LT(open_descriptors(), before + 20);
}

// lingering_socket is a TCP socket whose close() waits for a minute.
UniqueFd lingering_socket(const UniqueFd& listener) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  EXPECT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  EXPECT_EQ(::listen(listener.get(), 1), 0);
  ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length);
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  const linger for_long{1, 60};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &for_long, sizeof for_long);
  const std::vector<char> octets(1 << 20);
  while (::send(socket.get(), octets.data(), octets.size(), MSG_DONTWAIT) > 0) {
  }
  return socket;
}

TEST_F(ControlSocketTest, DoesNotWaitForASocketThatLingers) {
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM, 0));
  UniqueFd socket = lingering_socket(listener);
  const UniqueFd client = connect();
  pause_ = true;
  while (!paused_) std::this_thread::yield();
  send_descriptor(client.get(), socket.get());
  socket.reset();  // what pspd gets is the last one
  pause_ = false;
  expect_alive();
}

TEST_F(ControlSocketTest, DoesNotWaitForASocketThatHoldsOneThatLingers) {
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM, 0));
  UniqueFd socket = lingering_socket(listener);
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM, 0, ends), 0);
  UniqueFd holder(ends[0]), sender(ends[1]);
  send_descriptor(sender.get(), socket.get());
  socket.reset();
  const UniqueFd client = connect();
  pause_ = true;
  while (!paused_) std::this_thread::yield();
  send_descriptor(client.get(), holder.get());
  sender.reset();
  holder.reset();
  pause_ = false;
  expect_alive();
}

TEST_F(ControlSocketTest, CarriesNotifications) {
  auto client = Client::connect_daemon(address_);
  ASSERT_TRUE(client);
  ASSERT_TRUE(client->subscribe(true, true));
  auto admin = Client::connect_daemon(address_);
  ASSERT_TRUE(admin);
  const auto rotated = admin->key_rotate(1);
  if (!rotated) GTEST_SKIP() << "needs CAP_NET_ADMIN: " << rotated.error().message;
  const auto heard = client->next_notification(std::chrono::seconds(5));
  ASSERT_TRUE(heard && *heard);
  EXPECT_EQ((*heard)->kind, Notification::Kind::kKeyRotate);
  EXPECT_EQ((*heard)->device.id, 1u);
}

// lost_after reads notifications until it hears that some were lost; -1: it does not.
int lost_after(Client& client) {
  for (int heard = 0;; heard++) {
    const auto next = client.next_notification(std::chrono::milliseconds(500));
    if (!next) return next.error().sys_errno == ENOBUFS ? heard : -1;
    if (!*next) return -1;
  }
}

TEST_F(ControlSocketTest, AListenerThatDoesNotReadIsToldThatItLostSome) {
  auto listener = Client::connect_daemon(address_), admin = Client::connect_daemon(address_);
  ASSERT_TRUE(listener && admin && listener->subscribe(true, true));
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < 300; i++)
      if (const auto rotated = admin->key_rotate(1); !rotated)
        GTEST_SKIP() << "needs CAP_NET_ADMIN: " << rotated.error().message;
    const int heard = lost_after(*listener);
    EXPECT_GT(heard, 0);
    EXPECT_LT(heard, 300);
    const auto more = listener->next_notification(std::chrono::milliseconds(0));
    EXPECT_TRUE(more && !*more) << "a loss is told once";
    // What comes after that is heard.
    ASSERT_TRUE(admin->key_rotate(1));
    const auto next = listener->next_notification(std::chrono::seconds(5));
    ASSERT_TRUE(next && *next);
    EXPECT_EQ((*next)->kind, Notification::Kind::kKeyRotate);
  }
}

TEST_F(ControlSocketTest, AListenerHasTheSignWithTheLastOfWhatItCouldHold) {
  auto listener = Client::connect_daemon(address_), admin = Client::connect_daemon(address_);
  ASSERT_TRUE(listener && admin && listener->subscribe(true, true));
  for (int i = 0; i < 300; i++)
    if (const auto rotated = admin->key_rotate(1); !rotated)
      GTEST_SKIP() << "needs CAP_NET_ADMIN: " << rotated.error().message;
  pause_ = true;  // pspd does nothing more: all must be there already
  while (!paused_) std::this_thread::yield();
  EXPECT_GT(lost_after(*listener), 0);
  pause_ = false;
}

TEST_F(ControlSocketTest, OneAllocationThatFailsLeavesNoDescriptorBehind) {
  for (int nth = 1; nth <= 20; nth++) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe(ends.data()), 0);
    const UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);
    const UniqueFd client = connect();
    expect_alive();  // it is accepted
    fail(nth);
    send_descriptor(client.get(), writer.get(), 16);
    writer.reset();
    pollfd closed{.fd = reader.get(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&closed, 1, 5000), 1) << nth;
    fail(0);
  }
}

TEST_F(ControlSocketTest, OneAllocationThatFailsCostsOneClientAtMost) {
  auto listener = Client::connect_daemon(address_), lives = Client::connect_daemon(address_);
  ASSERT_TRUE(listener && lives && listener->subscribe(true, true));
  for (int nth = 1; nth <= 150; nth++) {
    fail(nth);
    const std::uint64_t before = rotations_;
    if (auto client = Client::connect_daemon(address_)) {
      (void)client->devices();
      (void)client->key_rotate(1);
      (void)client->subscribe(true, true);
    }
    fail(0);
    // Whoever listens has heard of what happened, or of a loss, or that it has to ask anew.
    if (rotations_ != before) {
      const auto heard = listener->next_notification(std::chrono::seconds(5));
      EXPECT_TRUE(!heard || *heard) << nth;
      if (!heard && heard.error().sys_errno != ENOBUFS) {
        ASSERT_TRUE(listener->subscribe(true, true)) << nth;
      }
    }
    ASSERT_TRUE(lives->devices()) << nth;
    expect_alive();
  }
}

}  // namespace
}  // namespace psp::control
