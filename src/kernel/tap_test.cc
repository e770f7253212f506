// SPDX-License-Identifier: Apache-2.0
//
// A real TAP in a network namespace of its own: its settings, and that the kernel takes the frames
// that TxPath and RxPath write and hands over what they expect to read. A packet socket on the TAP
// stands for the rest of the kernel.
#include "tap.hh"

#include <arpa/inet.h>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <fmt/format.h>
#include <fstream>
#include <linux/capability.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "datapath/path_test_support.hh"
#include "datapath/worker.hh"

#include "netns_test_support.hh"

namespace psp::kernel::test {
namespace {

using namespace datapath;
using namespace datapath::test;

std::string setting(const std::string& path) {
  std::ifstream file(path);
  std::string value;
  file >> value;
  return value;
}

// PacketSocket sees and sends what passes an interface, with the virtio-net header in front.
class PacketSocket {
 public:
  explicit PacketSocket(unsigned ifindex)
      : fd_(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL))) {
    constexpr int kPacketVnetHdr = 15;
    const int on = 1;
    ::setsockopt(fd_.get(), SOL_PACKET, kPacketVnetHdr, &on, sizeof on);
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(ifindex);
    bound_ = ::bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  bool bound() const { return bound_; }
  Octets receive() const {
    pollfd ready{fd_.get(), POLLIN, 0};
    if (::poll(&ready, 1, 5000) != 1) return {};
    Octets frame(kMaxFrame);
    const ssize_t size = ::recv(fd_.get(), frame.data(), frame.size(), 0);
    frame.resize(size < 0 ? 0 : static_cast<std::size_t>(size));
    return frame;
  }
  bool send(const Octets& frame) const {
    return ::send(fd_.get(), frame.data(), frame.size(), 0) == static_cast<ssize_t>(frame.size());
  }

 private:
  UniqueFd fd_;
  bool bound_ = false;
};

// FdSink writes to the TAP like a worker does.
class FdSink final : public Sink {
 public:
  explicit FdSink(int fd) : fd_(fd) {}
  bool write(std::span<const iovec> frame) override {
    return ::writev(fd_, frame.data(), static_cast<int>(frame.size())) > 0;
  }

 private:
  int fd_;
};

Octets read_frame(int fd) {
  pollfd ready{fd, POLLIN, 0};
  if (::poll(&ready, 1, 5000) != 1) return {};
  Octets frame(kMaxFrame);
  const ssize_t size = ::read(fd, frame.data(), frame.size());
  frame.resize(size < 0 ? 0 : static_cast<std::size_t>(size));
  return frame;
}

TEST_F(TapTest, ComesUpQuietAndBig) {
  const auto tap = Tap::open("psp%d", 3);
  ASSERT_TRUE(tap) << tap.error().text;
  EXPECT_EQ(tap->queues(), 3u);
  EXPECT_EQ(tap->name().substr(0, 3), "psp");
  EXPECT_EQ(tap->ifindex(), ::if_nametoindex(tap->name().c_str()));
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  tap->name().copy(request.ifr_name, IFNAMSIZ - 1);
  ASSERT_EQ(::ioctl(socket.get(), SIOCGIFFLAGS, &request), 0);
  EXPECT_FALSE(request.ifr_flags & IFF_UP) << "not before it is asked to";
  ASSERT_TRUE(tap->bring_up());
  ASSERT_EQ(::ioctl(socket.get(), SIOCGIFFLAGS, &request), 0);
  EXPECT_TRUE(request.ifr_flags & IFF_UP);
  EXPECT_TRUE(request.ifr_flags & IFF_NOARP);
  ASSERT_EQ(::ioctl(socket.get(), SIOCGIFMTU, &request), 0);
  EXPECT_EQ(request.ifr_mtu, 65521);
  ASSERT_EQ(::ioctl(socket.get(), SIOCGIFTXQLEN, &request), 0);
  EXPECT_EQ(request.ifr_qlen, 8192);
  const std::string ipv6 = "/proc/sys/net/ipv6/conf/" + tap->name();
  if (std::ifstream(ipv6 + "/disable_ipv6")) {
    EXPECT_EQ(setting(ipv6 + "/disable_ipv6"), "1");
  }
}

// sh runs a command in the namespace of the calling thread.
bool sh(const std::string& command) { return std::system(command.c_str()) == 0; }

TEST_F(TapTest, IsPutBackAfterWhateverIsDoneToIt) {
  const auto tap = Tap::open("psp%d", 1);
  ASSERT_TRUE(tap) << tap.error().text;
  EXPECT_EQ(tap->changed(), Finding("psp0 was set down")) << "not up yet";
  ASSERT_TRUE(tap->bring_up());
  EXPECT_EQ(tap->changed(), Finding(std::nullopt));
  int elsewhere = -1;
  std::thread([&] {
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    elsewhere = ::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  }).join();
  const UniqueFd holds(elsewhere);
  const std::string away = fmt::format("netns /proc/{}/fd/{}", ::getpid(), holds.get());
  const std::pair<std::string, std::string> injuries[] = {
      {"psp0 down", "psp0 was set down"},
      {"psp0 arp on", "psp0 was set down"},
      {"psp0 mtu 1400", "psp0 was given an MTU of 1400"},
      {"psp0 txqueuelen 10", "psp0 was given a queue length of 10"},
      {"psp0 down name mine", "psp0 was renamed mine"},
      {"psp0 " + away, "psp0 was moved to another network namespace"},
      {"psp0 down name mine " + away, "psp0 was moved to another network namespace"},
  };
  for (const auto& [injury, finding] : injuries) {
    ASSERT_TRUE(sh("ip link set " + injury)) << injury;
    EXPECT_EQ(tap->changed(), Finding(finding)) << injury;
    const auto done = tap->put_back();
    EXPECT_TRUE(done) << injury << ": " << done.error();
    EXPECT_EQ(tap->changed(), Finding(std::nullopt)) << injury;
    EXPECT_EQ(::if_nametoindex("psp0"), tap->ifindex()) << injury;
  }
}

TEST_F(TapTest, WorksOnWhileSomebodyElseHasItsName) {
  const auto tap = Tap::open("psp%d", 1);
  ASSERT_TRUE(tap) << tap.error().text;
  ASSERT_TRUE(tap->bring_up());
  ASSERT_TRUE(sh("ip link set psp0 down name mine && ip link add psp0 type veth peer name other0"));
  const auto refused = tap->put_back();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error(), "another netdev is named psp0");
  EXPECT_TRUE(sh("ip link show mine | grep -q ,UP"));
  ASSERT_TRUE(sh("ip link del psp0"));
  EXPECT_TRUE(tap->put_back());
  EXPECT_EQ(tap->changed(), Finding(std::nullopt));
}

TEST_F(TapTest, TakesTheNextFreeNumberAndVanishesWithItsOwner) {
  std::string name;
  {
    const auto first = Tap::open("psp%d", 1);
    const auto second = Tap::open("psp%d", 1);
    ASSERT_TRUE(first && second);
    EXPECT_NE(first->name(), second->name());
    EXPECT_FALSE(Tap::open("lo", 1)) << "somebody else's interface";
    name = first->name();
  }
  EXPECT_EQ(::if_nametoindex(name.c_str()), 0u);
}

constexpr uid_t kNobody = 65534;

// become makes this process a user's without any capability.
bool become(uid_t user) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct none[2]{};
  return ::setresgid(user, user, user) == 0 && ::setresuid(user, user, user) == 0 &&
         ::syscall(SYS_capset, &header, none) == 0;
}

int attach(int tun, const std::string& name) {
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE);
  return ::ioctl(tun, TUNSETIFF, &request) == 0 ? 0 : errno;
}

// attach_as asks for a queue as a user without any capability, who was handed an open /dev/net/tun
// (it is open to all on most hosts). Returns the errno, 0 if it was granted.
int attach_as(uid_t user, const std::string& name) {
  const UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(become(user) ? attach(fd.get(), name) : 255);
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  return WEXITSTATUS(status);
}

// reach_for_taps asks, as a nobody, for a queue of each TAP of ours that comes to be, and counts
// how often it tries.
[[noreturn]] void reach_for_taps(std::atomic<int>& tries) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::vector<UniqueFd> tuns;
  for (int i = 0; i < 100; i++) tuns.emplace_back(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  if (!become(kNobody)) ::_exit(255);
  for (std::size_t next = 0; next < tuns.size();) {
    std::ifstream all("/proc/net/dev");
    for (std::string line; std::getline(all, line) && next < tuns.size();) {
      const auto name = line.find("psp");
      if (name == std::string::npos) continue;
      next += attach(tuns[next].get(), line.substr(name, line.find(':') - name)) == 0;
      tries++;
    }
  }
  for (;;) ::pause();
}

TEST_F(TapTest, GivesNoQueueToWhoHasItsUserNumberButNoCapability) {
  const auto tap = Tap::open("psp%d", 1);
  ASSERT_TRUE(tap) << tap.error().text;
  EXPECT_EQ(attach_as(::geteuid(), tap->name()), EPERM);
  EXPECT_FALSE(tap->has_strangers());
}

// Whoever looks out for a new TAP, and is fast, would have it before it has an owner.
TEST_F(TapTest, ComesToBeWhileAnotherUserReachesForIt) {
  auto* tries = static_cast<std::atomic<int>*>(::mmap(nullptr, sizeof(std::atomic<int>),
                                                      PROT_READ | PROT_WRITE,
                                                      MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  const pid_t rival = ::fork();
  if (rival == 0) reach_for_taps(*tries);
  for (int i = 0; i < 30 || (*tries == 0 && i < 10'000); i++) {
    const auto tap = Tap::open("psp%d", 1);
    EXPECT_TRUE(tap) << tap.error().text;
    if (!tap) break;
    EXPECT_EQ(tap->name(), "psp0") << "nothing is left of the one before";
    EXPECT_FALSE(tap->has_strangers());
  }
  ::kill(rival, SIGKILL);
  ::waitpid(rival, nullptr, 0);
  EXPECT_GT(*tries, 0) << "nobody was there";
}

TEST_F(TapTest, GivesNoQueueToAnotherUser) {
  for (const unsigned queues : {1u, 3u}) {
    const auto tap = Tap::open("psp%d", queues);
    ASSERT_TRUE(tap) << tap.error().text;
    EXPECT_EQ(attach_as(kNobody, tap->name()), EPERM) << "while it is down";
    ASSERT_TRUE(tap->bring_up());
    EXPECT_EQ(attach_as(kNobody, tap->name()), EPERM);
    EXPECT_FALSE(tap->has_strangers());
  }
}

TEST_F(TapTest, NoticesAQueueThatIsNotItsOwn) {
  const auto tap = Tap::open("psp%d", 2);
  ASSERT_TRUE(tap) << tap.error().text;
  const UniqueFd stranger(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  ifreq request{};
  tap->name().copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE);
  ASSERT_EQ(::ioctl(stranger.get(), TUNSETIFF, &request), 0) << "root of the namespace may";
  EXPECT_TRUE(tap->has_strangers());
  request.ifr_flags = IFF_DETACH_QUEUE;
  ASSERT_EQ(::ioctl(stranger.get(), TUNSETQUEUE, &request), 0);
  EXPECT_TRUE(tap->has_strangers()) << "it can come back without asking";
}

TEST_F(TapTest, SaysInASentenceWhatIsWrong) {
  EXPECT_EQ(Tap::open("a-name-that-is-too-long", 1).error().sys_errno, EINVAL);
  EXPECT_EQ(Tap::open("psp%d", 0).error().sys_errno, EINVAL);
}

TEST_F(TapTest, TakesSealedSuperframes) {
  const auto tap = Tap::open("psp%d", 1);
  ASSERT_TRUE(tap) << tap.error().text;
  ASSERT_TRUE(tap->bring_up());
  if (!tap->has_uso()) GTEST_SKIP() << tap->notice();
  const PacketSocket rest(tap->ifindex());
  ASSERT_TRUE(rest.bound());
  for (const unsigned family : {4u, 6u}) {
    Rig rig;
    FdSink sink(tap->fd(0));
    TxPath tx(*rig.sender.engine, sink, {});
    Octets frame = build_frame(
        {.family = family, .payload = 30 * 1380 + 5, .gso_size = 1380, .handle = rig.handle});
    tx.process(frame);
    tx.flush();
    EXPECT_EQ(rig.sender.drops(Drop::TX_WRITE), 0u);
    const Octets seen = rest.receive();
    ASSERT_GT(seen.size(), kIpAt);
    EXPECT_EQ(load_vnet(seen.data()).gso_type, kGsoUdpL4) << "still one packet";
    EXPECT_EQ(load_vnet(seen.data()).gso_size, 1380 + 64);
    EXPECT_EQ(payload_of(open_segments({seen}, *rig.receiver.engine)), pattern(30 * 1380 + 5));
  }
}

TEST_F(TapTest, TakesOpenedTsoPackets) {
  const auto tap = Tap::open("psp%d", 1);
  ASSERT_TRUE(tap) << tap.error().text;
  ASSERT_TRUE(tap->bring_up());
  const PacketSocket rest(tap->ifindex());
  ASSERT_TRUE(rest.bound());
  for (const unsigned family : {4u, 6u}) {
    Rig rig;
    FdSink sink(tap->fd(0));
    RxPath rx(*rig.receiver.engine, sink);
    rig.send({.family = family, .payload = 40 * 1408, .gso_size = 1408});
    rx.process(rig.sealed.frames.at(0));
    rx.flush();
    EXPECT_EQ(rig.receiver.drops(Drop::RX_WRITE), 0u);
    const Octets seen = rest.receive();
    ASSERT_GT(seen.size(), kIpAt);
    EXPECT_EQ(load_vnet(seen.data()).gso_type, family == 4 ? kGsoTcp4 : kGsoTcp6);
    const auto opened = read_opened(seen);
    EXPECT_EQ(opened.payload, pattern(40 * 1408));
    EXPECT_EQ(opened.tag.kind, PSP_FRAME_TO_STACK);
  }
}

TEST_F(TapTest, HandsOverTsoPacketsWholeWithTheReservation) {
  const auto tap = Tap::open("psp%d", 1);
  ASSERT_TRUE(tap) << tap.error().text;
  ASSERT_TRUE(tap->bring_up());
  const PacketSocket rest(tap->ifindex());
  ASSERT_TRUE(rest.bound());
  for (const unsigned family : {4u, 6u}) {
    Rig rig;
    const TcpSpec spec{
        .family = family, .payload = 44 * 1408, .gso_size = 1408, .handle = rig.handle};
    ASSERT_TRUE(rest.send(build_frame(spec))) << std::strerror(errno);
    Octets frame = read_frame(tap->fd(0));
    ASSERT_GT(frame.size(), kIpAt) << "family " << family;
    EXPECT_EQ(classify(frame), FrameKind::kTx);
    rig.tx.process(frame);
    rig.tx.flush();
    ASSERT_EQ(rig.sealed.frames.size(), 1u) << "not cut by the kernel";
    EXPECT_EQ(payload_of(open_segments(rig.sealed.frames, *rig.receiver.engine)),
              pattern(44 * 1408));
  }
}

TEST_F(TapTest, HandsOverSealedSuperframesWhole) {
  const auto tap = Tap::open("psp%d", 1);
  ASSERT_TRUE(tap) << tap.error().text;
  ASSERT_TRUE(tap->bring_up());
  if (!tap->has_uso()) GTEST_SKIP() << tap->notice();
  const PacketSocket rest(tap->ifindex());
  for (const unsigned family : {4u, 6u}) {
    Rig rig;
    rig.send({.family = family, .payload = 44 * 1408, .gso_size = 1408});
    ASSERT_TRUE(rest.send(rig.sealed.frames.at(0))) << std::strerror(errno);
    const Octets frame = read_frame(tap->fd(0));
    EXPECT_EQ(classify(frame), FrameKind::kRx);
    rig.rx.process(frame);
    rig.rx.flush();
    ASSERT_EQ(rig.opened.frames.size(), 1u);
    EXPECT_EQ(read_opened(rig.opened.frames[0]).payload, pattern(44 * 1408));
  }
}

TEST_F(TapTest, ServesEveryQueueOfATap) {
  auto tap = Tap::open("psp%d", 2);
  ASSERT_TRUE(tap) << tap.error().text;
  Device device;
  std::vector<std::unique_ptr<Worker>> workers;
  for (unsigned i = 0; i < tap->queues(); ++i) {
    auto worker = Worker::start(tap->fd(i), device.driver.make_engine(),
                                WorkerOptions{.device = "a-very-long-name"});
    ASSERT_TRUE(worker) << worker.error();
    workers.push_back(std::move(*worker));
  }
  for (const auto& worker : workers) EXPECT_FALSE(worker->failed());
  workers.clear();
}

}  // namespace
}  // namespace psp::kernel::test
