// SPDX-License-Identifier: Apache-2.0
//
// Root of a container with a queue of its own at its TAP. What is written there has the form in
// which pspd hands up what it has opened (see frame_tag.h), and nobody but the kernel's programs
// reads it: such frames must reach nothing but sockets of the container, which are its own.
// Should it have one of them taken for its own socket's, and then routed to the host, the host's
// socket must not read it either.
//
// pspd stands still meanwhile: else it would sooner or later see the queue and take the TAP away.
#include <arpa/inet.h>
#include <csignal>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "container.hh"

namespace psp::lab {
namespace {

constexpr Version kVersion = Version::kAesGcm128;

// Address is a socket address of either family.
struct Address {
  sockaddr_storage name{};
  socklen_t length;
  Address(Kind kind, From side, std::uint16_t port) {
    const bool v4 = kind == Kind::kIpv4;
    auto* const v6 = reinterpret_cast<sockaddr_in6*>(&name);
    auto* const in = reinterpret_cast<sockaddr_in*>(&name);
    name.ss_family = v4 ? AF_INET : AF_INET6;
    length = v4 ? sizeof *in : sizeof *v6;
    in->sin_port = htons(port);  // where IPv6 has it, too
    ::inet_pton(name.ss_family, Lab::address(side, kind).c_str(),
                v4 ? static_cast<void*>(&in->sin_addr) : &v6->sin6_addr);
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&name); }
};

class ContainerQueue : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace();
    lab_->start(From::kA);
    lab_->start(From::kB);
    box_.emplace(*lab_, Container::Link::kVeth, Container::Owner::kItself);
    ASSERT_TRUE(box_->associate());
    hosts_ = lab_->connect(GetParam());
    keys_ = secure(*lab_, hosts_);
    both_ways();
    generation_ = static_cast<std::uint8_t>(lab_->daemon_info(From::kA).devices.front().generation);
  }
  void TearDown() override {
    tun_.reset();
    box_.reset();
    lab_.reset();
  }
  bool v4() const { return GetParam() == Kind::kIpv4; }

  void both_ways() {
    const Octets some = random_octets(kSome);
    send_all(hosts_.a.get(), some);
    EXPECT_EQ(receive(hosts_.b.get(), kSome), some);
    send_all(hosts_.b.get(), some);
    EXPECT_EQ(receive(hosts_.a.get(), kSome), some);
    sent_ += kSome;
  }
  // next is what the host's socket expects next from its peer.
  Octets next(const Octets& payload) const {
    return clear_packet(hosts_.flow, From::kB,
                        {.seq = hosts_.flow.b_isn + 1 + sent_,
                         .ack = hosts_.flow.a_isn + 1 + sent_,
                         .flags = kAck | kPsh,
                         .payload = payload});
  }
  // attach has root of the container take a queue of its TAP; pspd sees nothing of it.
  void attach() {
    ::kill(lab_->pspd(From::kA).pid(), SIGSTOP);
    tun_ = open_tun(box_->ns());
    ASSERT_EQ(box_->as_root([&] { return attach_queue(tun_, "psp0"); }), 0);
  }
  void detach() {
    tun_.reset();
    ::kill(lab_->pspd(From::kA).pid(), SIGCONT);
  }
  // say_opened writes a segment as pspd writes one that it has opened.
  void say_opened(const KeyInfo& rx, std::uint8_t generation, const Octets& packet) {
    constexpr std::size_t kVnet = 10, kMac = 6;
    constexpr std::uint8_t kToStack = 0x80;
    Octets frame(kVnet + kMac);
    frame.push_back(kToStack | static_cast<std::uint8_t>(kVersion));
    frame.push_back(generation);
    for (int shift = 24; shift >= 0; shift -= 8)
      frame.push_back(static_cast<std::uint8_t>(rx.spi.value >> shift));
    const Octets ethertype = v4() ? Octets{0x08, 0x00} : Octets{0x86, 0xdd};
    frame.insert(frame.end(), ethertype.begin(), ethertype.end());
    frame.insert(frame.end(), packet.begin(), packet.end());
    EXPECT_EQ(::write(tun_.get(), frame.data(), frame.size()), static_cast<ssize_t>(frame.size()));
  }
  std::uint64_t drops(const char* reason) { return lab_->drops(From::kA, reason); }

  // twin is a socket of the container with the addresses, ports and numbers of the host's.
  UniqueFd twin() const {
    const Address own(GetParam(), From::kA, hosts_.flow.a_port);
    const Address peer(GetParam(), From::kB, hosts_.flow.b_port);
    return UniqueFd(box_->as_root([&] {
      const int fd = ::socket(own.name.ss_family, SOCK_STREAM, 0), on = 1, off = -1;
      const auto tcp = [fd](int option, std::uint32_t value) {
        return ::setsockopt(fd, IPPROTO_TCP, option, &value, sizeof value) == 0;
      };
      const bool made = ::setsockopt(fd, SOL_IP, IP_TRANSPARENT, &on, sizeof on) == 0 &&
                        tcp(TCP_REPAIR, 1) && ::bind(fd, own.get(), own.length) == 0 &&
                        tcp(TCP_REPAIR_QUEUE, TCP_SEND_QUEUE) &&
                        tcp(TCP_QUEUE_SEQ, hosts_.flow.a_isn + 1 + sent_) &&
                        tcp(TCP_REPAIR_QUEUE, TCP_RECV_QUEUE) &&
                        tcp(TCP_QUEUE_SEQ, hosts_.flow.b_isn + 1 + sent_) &&
                        ::connect(fd, peer.get(), peer.length) == 0 &&
                        tcp(TCP_REPAIR, static_cast<std::uint32_t>(off));
      return made ? fd : -1;
    }));
  }
  // home has the container take packets to the host's address as its own, or route them.
  void home(bool on) {
    box_->ns().sh(fmt::format("ip {} route {} local {} dev lo", v4() ? "-4" : "-6",
                              on ? "add" : "del", Lab::address(From::kA, GetParam())));
  }

  static constexpr std::uint32_t kSome = 100;
  std::optional<Lab> lab_;
  std::optional<Container> box_;
  Connection hosts_;
  Secured keys_;
  std::uint32_t sent_ = 0;  // each way
  std::uint8_t generation_ = 0;
  UniqueFd tun_;
};

TEST_P(ContainerQueue, OpensNothingForASocketOfTheHost) {
  const auto before = drops("POLICY_NO_ASSOC");
  attach();
  const Octets forged = next(octets_of("forged"));
  constexpr unsigned kGenerations = 128;
  for (unsigned generation = 0; generation < kGenerations; generation++)
    say_opened(keys_.a_rx, static_cast<std::uint8_t>(generation), forged);
  detach();
  EXPECT_TRUE(eventually([&] { return drops("POLICY_NO_ASSOC") >= before + kGenerations; }));
  EXPECT_EQ(pending(hosts_.a.get()), Octets());
  both_ways();
}

TEST_P(ContainerQueue, OpensNothingForASocketOfTheHostByTheNameOfItsOwn) {
  for (const char* option : {"ipv4/ip_forward", "ipv6/conf/all/forwarding"})
    write_sysctl(box_->ns(), std::string("net/") + option, "1");
  write_sysctl(box_->ns(), "net/ipv4/ip_early_demux", "0");  // else its socket sticks to the packet
  const UniqueFd own = twin();
  ASSERT_TRUE(own);
  const auto own_rx = box_->client().rx_assoc(own.get(), kVersion);
  ASSERT_TRUE(own_rx) << own_rx.error().message;
  const auto mismatches = drops("POLICY_MISMATCH");
  const auto refused = lab_->association(From::kA, hosts_.a.get())->rx_drops;
  attach();
  home(true);
  say_opened(own_rx->rx, generation_, next(octets_of("own")));
  EXPECT_EQ(receive(own.get(), 3), octets_of("own")) << "the forgery is well made";
  say_opened(keys_.b_rx, generation_, next(octets_of("own")));
  home(false);
  say_opened(own_rx->rx, generation_, next(octets_of("forged")));
  detach();
  EXPECT_TRUE(eventually([&] {
    return lab_->association(From::kA, hosts_.a.get())->rx_drops > refused;
  })) << "it came as far as the host's socket";
  EXPECT_EQ(drops("POLICY_MISMATCH"), mismatches + 1);
  EXPECT_EQ(pending(hosts_.a.get()), Octets());
  both_ways();
}

INSTANTIATE_TEST_SUITE_P(Families, ContainerQueue, testing::Values(Kind::kIpv4, Kind::kIpv6),
                         [](const auto& one) { return kind_name(one.param); });

}  // namespace
}  // namespace psp::lab
