// SPDX-License-Identifier: Apache-2.0
//
// The tc programs by themselves: packet in, verdict and packet out, through BPF_PROG_TEST_RUN. No
// daemon and no TAP; sockets are real where a program looks one up. Test packets have destination
// MAC zero, which is the loopback device's own. (The kernel does not show skb->tc_index here: what
// it carries is tested on real connections in tests/netns.)
#include "programs.hh"

#include <algorithm>
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <fmt/format.h>
#include <functional>
#include <gtest/gtest.h>
#include <linux/pkt_cls.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#include <psp/crypto/aead.hh>
#include <psp/device/state_table.h>
#include <psp/wire/bytes.hh>
#include <psp/wire/checksum.hh>
#include <psp/wire/drop.hh>
#include <psp/wire/packet.hh>

#include "hooks.hh"
#include "netns.hh"
#include "netns_test_support.hh"

namespace psp::datapath {
namespace {

using Octets = std::vector<std::uint8_t>;

constexpr int kNext = TC_ACT_UNSPEC;
constexpr int kShot = TC_ACT_SHOT;
constexpr int kRedirect = TC_ACT_REDIRECT;
constexpr std::uint32_t kTap = 4711;  // no such device: a redirect to it is a verdict all the same
constexpr std::uint16_t kDevId = 7;
constexpr std::array<std::uint8_t, 6> kMac = {0x02, 0x11, 0x22, 0x33, 0x44, 0x55};
constexpr std::array<std::uint8_t, 6> kNoMac = {};
constexpr std::size_t kSourceMac = 6;

// A connection between two addresses of the loopback device, seen from its client.
struct Flow {
  unsigned family = 4;
  std::uint16_t local_port = 0, remote_port = 0;
  bool inbound = false;  // a packet from the remote to the local end
};

Octets ethernet(unsigned family) {
  Octets frame(14);
  wire::store_be<std::uint16_t>(&frame[12], family == 4 ? 0x0800 : 0x86dd);
  frame[kSourceMac] = 0x66;
  return frame;
}

void append_ip(Octets& frame, unsigned family, std::uint8_t protocol, std::size_t payload) {
  const std::size_t at = frame.size();
  frame.resize(at + (family == 4 ? 20 : 40));
  std::uint8_t* ip = &frame[at];
  if (family == 4) {
    ip[0] = 0x45;
    wire::store_be<std::uint16_t>(ip + 2, static_cast<std::uint16_t>(20 + payload));
    ip[8] = 64;
    ip[9] = protocol;
    wire::store_be<std::uint32_t>(ip + 12, INADDR_LOOPBACK);
    wire::store_be<std::uint32_t>(ip + 16, INADDR_LOOPBACK);
  } else {
    ip[0] = 0x60;
    wire::store_be<std::uint16_t>(ip + 4, static_cast<std::uint16_t>(payload));
    ip[6] = protocol;
    ip[7] = 64;
    ip[8 + 15] = ip[24 + 15] = 1;  // ::1
  }
}

Octets tcp(const Flow& flow, std::size_t payload = 10, std::uint8_t flags = 0x10) {
  Octets frame = ethernet(flow.family);
  append_ip(frame, flow.family, 6, 20 + payload);
  const std::size_t at = frame.size();
  frame.resize(at + 20 + payload, 0x5a);
  std::uint8_t* header = &frame[at];
  std::fill_n(header, 20, 0);
  wire::store_be(header, flow.inbound ? flow.remote_port : flow.local_port);
  wire::store_be(header + 2, flow.inbound ? flow.local_port : flow.remote_port);
  header[12] = 5 << 4;
  header[13] = flags;
  return frame;
}

Octets psp_packet(unsigned family, std::uint8_t version = 0, std::uint16_t port = kUdpPort) {
  Octets frame = ethernet(family);
  append_ip(frame, family, 17, 8 + 16 + 20 + 16);
  const std::size_t at = frame.size();
  frame.resize(at + 8 + 16 + 20 + 16);
  wire::store_be<std::uint16_t>(&frame[at], 40000);
  wire::store_be(&frame[at + 2], port);
  wire::store_be<std::uint16_t>(&frame[at + 4], 60);
  frame[at + 8] = 6;
  frame[at + 9] = 1;
  frame[at + 11] = static_cast<std::uint8_t>(version << 2 | 1);
  return frame;
}

void set_tag(Octets& frame, std::uint8_t kind, std::uint8_t info, std::uint32_t value) {
  frame[kSourceMac] = kind;
  frame[kSourceMac + 1] = info;
  wire::store_be(&frame[kSourceMac + 2], value);
}

std::array<std::uint8_t, 6> mac_at(const Octets& frame, std::size_t at) {
  std::array<std::uint8_t, 6> mac;
  std::copy_n(frame.begin() + static_cast<std::ptrdiff_t>(at), mac.size(), mac.begin());
  return mac;
}

struct Outcome {
  int verdict = 0;
  Octets frame;
  __sk_buff skb{};
};

class NetdevProgramsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!netns_.entered()) GTEST_SKIP() << netns_.why();
    loopback_up();
    secrets_ = Secrets::random();
    auto shared = SocketPrograms::load(secrets_, 1024, nullptr);
    if (!shared) GTEST_SKIP() << "needs BPF: " << shared.error();
    shared_.emplace(std::move(*shared));
    here_ = Netns::current().value().cookie();
    load(here_);
  }

  // load has new programs, for a netdev of that namespace.
  void load(std::uint64_t netns) {
    Netdev netdev;
    netdev.netns = netns;
    netdev.ifindex = ::if_nametoindex("lo");
    netdev.name = "lo";
    netdev.mac = kMac;
    auto programs = NetdevPrograms::load(secrets_, *shared_, netdev, kTap, kDevId);
    ASSERT_TRUE(programs) << programs.error();
    programs_.emplace(std::move(*programs));
    ASSERT_TRUE(programs_->set_versions(VersionSet{0b0011}));
  }

  static void loopback_up() {
    const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM, 0));
    ifreq request{};
    request.ifr_name[0] = 'l';
    request.ifr_name[1] = 'o';
    request.ifr_flags = IFF_UP;
    ::ioctl(fd.get(), SIOCSIFFLAGS, &request);
  }

  Outcome run(const char* program, const Octets& frame, std::uint32_t mark = 0) {
    Outcome outcome;
    outcome.frame.resize(frame.size() + 256);
    __sk_buff in{};
    in.mark = mark;
    LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = frame.data(), .data_out = outcome.frame.data(),
                .data_size_in = static_cast<std::uint32_t>(frame.size()),
                .data_size_out = static_cast<std::uint32_t>(outcome.frame.size()), .ctx_in = &in,
                .ctx_out = &outcome.skb, .ctx_size_in = sizeof in,
                .ctx_size_out = sizeof outcome.skb);
    EXPECT_EQ(bpf_prog_test_run_opts(programs_->program(program), &opts), 0)
        << program << ": " << std::strerror(errno);
    outcome.verdict = static_cast<int>(opts.retval);
    outcome.frame.resize(opts.data_size_out);
    return outcome;
  }

  std::uint64_t drops(Drop reason) const {
    return programs_->drops()[static_cast<std::size_t>(reason)];
  }

  test::PrivateNetns netns_;
  Secrets secrets_;
  std::optional<SocketPrograms> shared_;
  std::optional<NetdevPrograms> programs_;
  static inline std::uint64_t here_ = 0;  // cookie of this namespace
};

// --- ingress, from the wire -------------------------------------------------------------------

TEST_F(NetdevProgramsTest, IngressSendsPspPacketsToTheDaemonWithTheMark) {
  for (const unsigned family : {4u, 6u}) {
    const Octets packet = psp_packet(family);
    const Outcome outcome = run("psp_ingress", packet);
    EXPECT_EQ(outcome.verdict, kRedirect) << family;
    EXPECT_EQ(outcome.skb.mark, secrets_.mark);
    EXPECT_EQ(outcome.frame, packet);
  }
}

TEST_F(NetdevProgramsTest, IngressPassesVersionsThatAreNotEnabledAsPlainUdp) {
  for (const unsigned family : {4u, 6u})
    for (std::uint8_t version = 0; version < 16; version++)
      EXPECT_EQ(run("psp_ingress", psp_packet(family, version)).verdict,
                version < 2 || version > 3 ? kRedirect : kNext)
          << int{version};
  ASSERT_TRUE(programs_->set_versions({}));
  for (std::uint8_t version = 0; version < 16; version++)
    EXPECT_EQ(run("psp_ingress", psp_packet(4, version)).verdict, kNext) << int{version};
}

TEST_F(NetdevProgramsTest, IngressLeavesOtherTrafficAlone) {
  Octets fragment = psp_packet(4), later = psp_packet(4), other_host = psp_packet(4);
  fragment[14 + 6] = 0x20;  // more fragments
  later[14 + 7] = 1;        // fragment offset
  other_host[0] = 0x02;     // another destination MAC
  Octets arp = psp_packet(4);
  wire::store_be<std::uint16_t>(&arp[12], 0x0806);
  Octets hop_by_hop = psp_packet(6);
  hop_by_hop[14 + 6] = 0;
  for (const Octets& frame : {psp_packet(4, 0, 999), psp_packet(6, 0, 1001), tcp({4, 1, 2}),
                              tcp({6, 1, 2}), fragment, later, other_host, arp, hop_by_hop}) {
    const Outcome outcome = run("psp_ingress", frame);
    EXPECT_EQ(outcome.verdict, kNext);
    EXPECT_EQ(outcome.frame, frame);
    EXPECT_EQ(outcome.skb.mark, 0u);
  }
}

TEST_F(NetdevProgramsTest, IngressFindsUdpBehindIpv4Options) {
  Octets packet = psp_packet(4);
  packet[14] = 0x46;
  packet.insert(packet.begin() + 34, 4, 1);
  EXPECT_EQ(run("psp_ingress", packet).verdict, kRedirect);
}

TEST_F(NetdevProgramsTest, IngressSurvivesEveryTruncation) {
  for (const unsigned family : {4u, 6u}) {
    const Octets packet = psp_packet(family);
    // The kernel runs no program on less than an IP header. With the ports there it is PSP: pspd
    // counts what is too short.
    const std::size_t udp_at = family == 4 ? 34 : 54;
    for (std::size_t size = udp_at; size < packet.size(); size++)
      EXPECT_EQ(run("psp_ingress",
                    Octets(packet.begin(), packet.begin() + static_cast<std::ptrdiff_t>(size)))
                    .verdict,
                size < udp_at + 4 ? kNext : kRedirect)
          << size;
  }
}

// --- TAP, from the daemon ---------------------------------------------------------------------

TEST_F(NetdevProgramsTest, TapSendsSealedPacketsToTheWireUnderTheNetdevsAddress) {
  for (const unsigned family : {4u, 6u}) {
    Octets frame = psp_packet(family);
    set_tag(frame, PSP_FRAME_TO_WIRE_SEALED, 0, 0);
    const Outcome outcome = run("psp_tap_ingress", frame);
    EXPECT_EQ(outcome.verdict, kRedirect);
    EXPECT_EQ(mac_at(outcome.frame, kSourceMac), kMac);
    EXPECT_EQ(mac_at(outcome.frame, 0), mac_at(frame, 0));
  }
}

TEST_F(NetdevProgramsTest, TapRefusesAnythingButPspAsSealed) {
  Octets frame = tcp({4, 1, 2});
  set_tag(frame, PSP_FRAME_TO_WIRE_SEALED, 0, 0);
  EXPECT_EQ(run("psp_tap_ingress", frame).verdict, kShot);
  EXPECT_EQ(drops(Drop::POLICY_FORGED), 1u);
}

TEST_F(NetdevProgramsTest, TapMarksOpenedSegmentsForTheNetdevsIngress) {
  for (std::uint8_t version = 0; version < 4; version++) {
    Octets frame = tcp({4, 1, 2});
    set_tag(frame, PSP_FRAME_TO_STACK | version, 3, 0x80001234);
    const Outcome outcome = run("psp_tap_ingress", frame);
    EXPECT_EQ(outcome.verdict, kRedirect);
    EXPECT_EQ(outcome.skb.mark, secrets_.mark);
    EXPECT_EQ(mac_at(outcome.frame, 0), kMac);
    EXPECT_EQ(mac_at(outcome.frame, kSourceMac), mac_at(frame, kSourceMac)) << "the tag stays";
  }
}

TEST_F(NetdevProgramsTest, TapRefusesUnknownTags) {
  for (const std::uint8_t kind :
       {0x00, PSP_FRAME_SEAL, PSP_FRAME_SPAN, PSP_FRAME_CLEAR, 0x84, 0xff}) {
    Octets frame = psp_packet(4);
    set_tag(frame, kind, 0, 0);
    EXPECT_EQ(run("psp_tap_ingress", frame).verdict, kShot) << int{kind};
  }
}

TEST_F(NetdevProgramsTest, TapTakesOnlyWhatTheNetdevsProgramsSend) {
  EXPECT_EQ(run("psp_tap_egress", psp_packet(4), secrets_.mark).verdict, TC_ACT_OK);
  EXPECT_EQ(run("psp_tap_egress", psp_packet(6), secrets_.mark).verdict, TC_ACT_OK);
  EXPECT_EQ(run("psp_tap_egress", psp_packet(4)).verdict, kShot);
  EXPECT_EQ(run("psp_tap_egress", tcp({4, 1, 2}), secrets_.mark).verdict, kShot) << "nobody's";
  EXPECT_EQ(run("psp_tap_egress", psp_packet(4), secrets_.mark + 2).verdict, kShot);
}

// --- egress without a full socket -------------------------------------------------------------

class EgressTest : public NetdevProgramsTest {
 protected:
  // depart notes a connection with a Tx key whose socket has gone.
  void depart(const Flow& flow, std::uint64_t epoch, std::uint64_t netns = here_,
              std::uint16_t dev_id = kDevId) {
    psp_tuple tuple{};
    tuple.netns = netns;
    tuple.family = flow.family;
    tuple.local_port = htons(flow.local_port);
    tuple.remote_port = htons(flow.remote_port);
    if (flow.family == 4) {
      wire::store_be<std::uint32_t>(tuple.local, INADDR_LOOPBACK);
      wire::store_be<std::uint32_t>(tuple.remote, INADDR_LOOPBACK);
    } else {
      tuple.local[15] = tuple.remote[15] = 1;
    }
    psp_tuple_entry entry{};
    entry.epoch = epoch;
    entry.tx_handle = 0x01020304;
    entry.dev_id = dev_id;
    ASSERT_EQ(bpf_map_update_elem(shared_->departed_map(), &tuple, &entry, BPF_ANY), 0);
  }
};

TEST_F(EgressTest, PassesWhatBelongsToNobody) {
  for (const unsigned family : {4u, 6u})
    EXPECT_EQ(run("psp_egress", tcp({family, 1000, 2000})).verdict, kNext);
  EXPECT_EQ(run("psp_egress", psp_packet(4)).verdict, kNext);
}

TEST_F(EgressTest, SealsThePacketsOfADepartedConnection) {
  for (const unsigned family : {4u, 6u}) {
    const Flow flow{family, 1000, 2000};
    depart(flow, secrets_.epoch);
    const Outcome outcome = run("psp_egress", tcp(flow, 0, 0x04));
    EXPECT_EQ(outcome.verdict, kRedirect);
    EXPECT_EQ(outcome.skb.mark, secrets_.mark);
    EXPECT_EQ(mac_at(outcome.frame, kSourceMac),
              (std::array<std::uint8_t, 6>{PSP_FRAME_SEAL, 0, 1, 2, 3, 4}));
    EXPECT_EQ(run("psp_egress", tcp(flow, 0, 0x10)).verdict, kRedirect) << "ACK";
    EXPECT_EQ(run("psp_egress", tcp({family, 1000, 2001}, 0, 0x04)).verdict, kNext);
    EXPECT_EQ(run("psp_egress", tcp({family, 2000, 1000}, 0, 0x04)).verdict, kNext);
  }
}

TEST_F(EgressTest, TellsTheSameAddressesOfTwoNamespacesApart) {
  for (const unsigned family : {4u, 6u}) {
    const Flow flow{family, 1000, 2000};
    depart(flow, secrets_.epoch, here_ + 1);
    EXPECT_EQ(run("psp_egress", tcp(flow, 0, 0x04)).verdict, kNext);
  }
}

TEST_F(EgressTest, WhatASocketOfAnotherNamespaceSendsIsOfNoDepartedConnection) {
  load(here_ + 1);  // the socket that sends in these tests is here
  for (const unsigned family : {4u, 6u}) {
    const Flow flow{family, 1000, 2000};
    depart(flow, secrets_.epoch, here_ + 1);
    EXPECT_EQ(run("psp_egress", tcp(flow, 0, 0x10)).verdict, kNext);
  }
}

TEST_F(EgressTest, SealsWithAKeyOnlyForTheConnectionThatItBelongsTo) {
  for (const unsigned family : {4u, 6u}) {
    const Flow flow{family, 1000, 2000};
    const auto asks_for = [&](std::uint32_t handle) {
      Octets frame = tcp(flow);
      set_tag(frame, PSP_FRAME_SEAL, 0, handle);
      return run("psp_tap_egress", frame, secrets_.mark).verdict;
    };
    depart(flow, secrets_.epoch);
    EXPECT_EQ(asks_for(0x01020304), TC_ACT_OK);
    EXPECT_EQ(asks_for(0x01020305), kShot) << "somebody else's key";
    depart(flow, secrets_.epoch, here_, kDevId + 1);
    EXPECT_EQ(asks_for(0x01020304), kShot) << "a key of another device";
    depart(flow, secrets_.epoch + 1);
    EXPECT_EQ(asks_for(0x01020304), kShot) << "a key of another pspd";
  }
}

TEST_F(EgressTest, LetsNothingOfAnotherDevicesConnectionOut) {
  const Flow flow{4, 1000, 2000};
  depart(flow, secrets_.epoch, here_, kDevId + 1);
  EXPECT_EQ(run("psp_egress", tcp(flow, 0, 0x04)).verdict, kShot);
  EXPECT_EQ(drops(Drop::POLICY_ROUTE), 1u);
}

TEST_F(EgressTest, SealsNothingThatTheKernelDoesNotSendItself) {
  for (const unsigned family : {4u, 6u}) {
    const Flow flow{family, 1000, 2000};
    depart(flow, secrets_.epoch);
    EXPECT_EQ(run("psp_egress", tcp(flow, 1, 0x10)).verdict, kShot) << "data";
    EXPECT_EQ(run("psp_egress", tcp(flow, 0, 0x11)).verdict, kShot) << "FIN";
    EXPECT_EQ(run("psp_egress", tcp(flow, 0, 0x02)).verdict, kNext) << "SYN: a new connection";
    EXPECT_EQ(run("psp_egress", tcp(flow, 0, 0x12)).verdict, kNext) << "SYN+ACK";
  }
  EXPECT_EQ(drops(Drop::POLICY_FORGED), 4u);
}

TEST_F(EgressTest, BlocksADepartedConnectionOfAnEarlierDaemon) {
  depart({4, 1000, 2000}, secrets_.epoch + 1);
  EXPECT_EQ(run("psp_egress", tcp({4, 1000, 2000}, 0, 0x04)).verdict, kShot);
  EXPECT_EQ(drops(Drop::POLICY_EPOCH), 1u);
}

TEST_F(EgressTest, LetsTheDaemonsOwnClearOctetsOut) {
  depart({4, 1000, 2000}, secrets_.epoch);
  const Outcome outcome = run("psp_egress", tcp({4, 1000, 2000}), secrets_.mark);
  EXPECT_EQ(outcome.verdict, kNext);
  EXPECT_EQ(outcome.skb.mark, 0u);
}

// --- opened segments and the association of their socket ----------------------------------------

class DeliverTest : public NetdevProgramsTest, public testing::WithParamInterface<unsigned> {
 protected:
  void SetUp() override {
    NetdevProgramsTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    connect();
  }

  void connect() {
    const int domain = GetParam() == 4 ? AF_INET : AF_INET6;
    sockaddr_storage address{};
    socklen_t length = domain == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    address.ss_family = static_cast<sa_family_t>(domain);
    if (domain == AF_INET)
      reinterpret_cast<sockaddr_in&>(address).sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else
      reinterpret_cast<sockaddr_in6&>(address).sin6_addr = in6addr_loopback;
    listener_ = UniqueFd(::socket(domain, SOCK_STREAM, 0));
    ASSERT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
    ASSERT_EQ(::listen(listener_.get(), 1), 0);
    ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &length);
    socket_ = UniqueFd(::socket(domain, SOCK_STREAM, 0));
    ASSERT_EQ(::connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
    flow_.family = GetParam();
    flow_.remote_port = ntohs(reinterpret_cast<sockaddr_in&>(address).sin_port);
    ::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &length);
    flow_.local_port = ntohs(reinterpret_cast<sockaddr_in&>(address).sin_port);
    flow_.inbound = true;
  }

  void associate(const std::function<void(psp_sock&)>& change = {}) {
    psp_sock sock{};
    sock.epoch = secrets_.epoch;
    sock.state = PSP_STATE_RX;
    sock.rx_spi = 0x80001234;
    sock.generation = 3;
    sock.version = 1;
    sock.dev_id = kDevId;
    sock.netns = here_;
    if (change) change(sock);
    const int fd = socket_.get();
    ASSERT_EQ(bpf_map_update_elem(shared_->assoc_map(), &fd, &sock, BPF_ANY), 0);
  }

  Outcome deliver(std::uint8_t version = 1, std::uint8_t generation = 3,
                  std::uint32_t spi = 0x80001234) {
    Octets frame = tcp(flow_);
    set_tag(frame, PSP_FRAME_TO_STACK | version, generation, spi);
    return run("psp_ingress", frame, secrets_.mark);
  }

  UniqueFd listener_, socket_;
  Flow flow_;
};

TEST_P(DeliverTest, AMatchingSegmentPassesWithoutItsTag) {
  associate();
  const Outcome outcome = deliver();
  EXPECT_EQ(outcome.verdict, TC_ACT_OK) << "the end of the walk: nobody behind may wipe the proof";
  EXPECT_EQ(outcome.skb.mark, 0u);
  EXPECT_EQ(mac_at(outcome.frame, kSourceMac), kNoMac);
}

TEST_P(DeliverTest, AnySegmentThatDiffersIsDropped) {
  associate();
  EXPECT_EQ(deliver(0).verdict, kShot) << "version";
  EXPECT_EQ(deliver(1, 4).verdict, kShot) << "generation";
  EXPECT_EQ(deliver(1, 3, 0x00001234).verdict, kShot) << "phase of the SPI";
  EXPECT_EQ(deliver(1, 3, 0x80001235).verdict, kShot) << "SPI";
  EXPECT_EQ(drops(Drop::POLICY_MISMATCH), 4u);
}

TEST_P(DeliverTest, AnotherDevicesDaemonsOrNamespacesAssociationDoesNotMatch) {
  associate([](psp_sock& sock) { sock.dev_id = kDevId + 1; });
  EXPECT_EQ(deliver().verdict, kShot);
  associate([](psp_sock& sock) { sock.epoch++; });
  EXPECT_EQ(deliver().verdict, kShot);
  associate([](psp_sock& sock) { sock.netns++; });
  EXPECT_EQ(deliver().verdict, kShot) << "another namespace's";
  EXPECT_EQ(drops(Drop::POLICY_MISMATCH), 3u);
}

TEST_P(DeliverTest, AnAssociationDiesAtTheSecondRotationForGood) {
  associate([](psp_sock& sock) { sock.rotation = 5; });
  for (const std::uint32_t alive : {5u, 6u}) {
    ASSERT_TRUE(programs_->set_rotation(alive));
    EXPECT_EQ(deliver().verdict, TC_ACT_OK) << alive;
  }
  // 128 later the generation is the same again.
  for (const std::uint32_t dead : {7u, 5u + 128, 6u + 128, 4u}) {
    ASSERT_TRUE(programs_->set_rotation(dead));
    EXPECT_EQ(deliver().verdict, kShot) << dead;
  }
  EXPECT_EQ(drops(Drop::POLICY_MISMATCH), 4u);
}

TEST_P(DeliverTest, ASocketWithoutAssociationGetsNothing) {
  EXPECT_EQ(deliver().verdict, kShot);
  flow_.local_port++;
  EXPECT_EQ(deliver().verdict, kShot) << "no socket, or the listener";
  EXPECT_EQ(drops(Drop::POLICY_NO_ASSOC), 2u);
}

TEST_P(DeliverTest, WithoutTheMarkNothingIsVerified) {
  associate();
  Octets frame = tcp(flow_);
  set_tag(frame, PSP_FRAME_TO_STACK | 1, 3, 0x80001234);
  for (const std::uint32_t mark : {0u, secrets_.mark ^ 0x100u}) {
    const Outcome outcome = run("psp_ingress", frame, mark);
    EXPECT_EQ(outcome.verdict, kNext);
    EXPECT_EQ(outcome.frame, frame) << "not even looked at";
  }
}

// too_big is an ICMP message that quotes a PSP packet of the flow, from its local end, with `spi`.
Octets too_big(unsigned family, std::uint32_t spi, std::uint16_t mtu, unsigned age_s = 1) {
  Octets quoted = psp_packet(family);
  quoted.erase(quoted.begin(), quoted.begin() + 14);
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  const std::size_t psp = (family == 4 ? 20 : 40) + 8;
  wire::store_be(&quoted[psp + 4], spi);
  wire::store_be(&quoted[psp + 8],
                 (static_cast<std::uint64_t>(now.tv_sec) - age_s) * 1'000'000'000'000u);
  Octets frame = ethernet(family);
  append_ip(frame, family, family == 4 ? 1 : 58, 8 + quoted.size());
  const std::size_t at = frame.size();
  frame.resize(at + 8);
  frame[at] = family == 4 ? 3 : 2;
  frame[at + 1] = family == 4 ? 4 : 0;
  wire::store_be(&frame[at + 6], mtu);
  frame.insert(frame.end(), quoted.begin(), quoted.end());
  // Any sum will do: what counts is that it stays as right or wrong as it was.
  const std::uint64_t sum = wire::checksum_add(0, std::span(frame).subspan(at));
  wire::store_be(&frame[at + 2], static_cast<std::uint16_t>(~wire::checksum_fold(sum)));
  return frame;
}

class TooBigTest : public DeliverTest {
 protected:
  static constexpr std::uint32_t kSpi = 0x00c0ffee;

  void connect_by_spi(std::uint64_t netns = here_) {
    associate([](psp_sock& sock) { sock.state = PSP_STATE_TX; });
    psp_tx_spi key{};
    psp_tuple tuple{};
    key.family = tuple.family = GetParam();
    key.netns = tuple.netns = netns;
    key.spi = htonl(kSpi);
    if (GetParam() == 4)
      wire::store_be<std::uint32_t>(key.remote, INADDR_LOOPBACK);
    else
      key.remote[15] = 1;
    std::copy_n(key.remote, 16, tuple.local);
    std::copy_n(key.remote, 16, tuple.remote);
    tuple.local_port = htons(flow_.local_port);
    tuple.remote_port = htons(flow_.remote_port);
    ASSERT_EQ(bpf_map_update_elem(shared_->tx_spi_map(), &key, &tuple, BPF_ANY), 0);
  }
};

TEST_P(TooBigTest, SpeaksOfTheTcpSegmentInside) {
  connect_by_spi();
  const Octets frame = too_big(GetParam(), kSpi, 1400);
  const Outcome outcome = run("psp_ingress", frame);
  EXPECT_EQ(outcome.verdict, kNext);
  const std::size_t icmp = 14 + (GetParam() == 4 ? 20 : 40), quoted = icmp + 8;
  const std::size_t l4 = quoted + (GetParam() == 4 ? 20 : 40);
  EXPECT_EQ(outcome.frame[quoted + (GetParam() == 4 ? 9 : 6)], 6) << "TCP";
  EXPECT_EQ(wire::load_be<std::uint16_t>(&outcome.frame[l4]), flow_.local_port);
  EXPECT_EQ(wire::load_be<std::uint16_t>(&outcome.frame[l4 + 2]), flow_.remote_port);
  EXPECT_EQ(wire::load_be<std::uint16_t>(&outcome.frame[icmp + 6]), 1400) << "the MTU stays";
  EXPECT_EQ(wire::checksum_fold(wire::checksum_add(0, std::span(outcome.frame).subspan(icmp))),
            0xffff);
}

TEST_P(TooBigTest, IsLeftAloneIfTheSpiIsNobodys) {
  connect_by_spi();
  const Octets frame = too_big(GetParam(), kSpi + 1, 1400);
  EXPECT_EQ(run("psp_ingress", frame).frame, frame);
}

TEST_P(TooBigTest, IsLeftAloneIfTheSpiIsAnotherNamespaces) {
  connect_by_spi(here_ + 1);
  const Octets frame = too_big(GetParam(), kSpi, 1400);
  EXPECT_EQ(run("psp_ingress", frame).frame, frame);
}

TEST_P(TooBigTest, IsLeftAloneIfItQuotesNoRecentPacket) {
  connect_by_spi();
  for (const unsigned age_s : {62u, 3600u, 0u - 2u}) {
    const Octets frame = too_big(GetParam(), kSpi, 1400, age_s);
    EXPECT_EQ(run("psp_ingress", frame).frame, frame) << age_s;
  }
}

TEST_P(TooBigTest, IsLeftAloneIfTheSocketIsNotSecured) {
  connect_by_spi();
  associate([](psp_sock& sock) { sock.state = PSP_STATE_RX; });
  const Octets frame = too_big(GetParam(), kSpi, 1400);
  EXPECT_EQ(run("psp_ingress", frame).frame, frame);
}

TEST_P(TooBigTest, SurvivesEveryTruncation) {
  connect_by_spi();
  const Octets frame = too_big(GetParam(), kSpi, 1400);
  for (std::size_t size = GetParam() == 4 ? 34 : 54; size < frame.size(); size++)
    EXPECT_EQ(
        run("psp_ingress", Octets(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(size)))
            .verdict,
        kNext)
        << size;
}

// --- the guard of netdevs ---------------------------------------------------------------------

// GuardTest has a connection over the loopback device, secured at its client; loopback plays the
// netdev of the PSP device, and psp_tap_egress, which lets nothing pass, never stands there: what
// stands there is psp_ingress, which lets all of this pass.
class GuardTest : public DeliverTest {
 protected:
  void SetUp() override {
    DeliverTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    lo_ = {here_, ::if_nametoindex("lo")};
    bystander_ = door("psp_ingress");
    ASSERT_TRUE(make_clsact(lo_.ifindex, "lo"));
    stand(bystander_);
    peer_ = UniqueFd(::accept(listener_.get(), nullptr, nullptr));
    const auto attached = shared_->attach({});
    ASSERT_TRUE(attached) << attached.error();
    associate([](psp_sock& sock) { sock.state = PSP_STATE_TX; });
  }
  void TearDown() override {
    if (shared_) (void)shared_->detach();
  }

  Door door(const char* name) const {
    const int program = programs_->program(name);
    bpf_prog_info info{};
    std::uint32_t length = sizeof info;
    EXPECT_EQ(bpf_obj_get_info_by_fd(program, &info, &length), 0);
    return {lo_.ifindex, Side::kEgress, program, info.id, name};
  }
  static void stand(const Door& door) {
    const auto put_there = put(door, "lo");
    ASSERT_TRUE(put_there) << put_there.error();
  }
  bool guard(std::uint32_t program, std::uint16_t dev_id = kDevId) const {
    return shared_->guard(lo_, dev_id, program);
  }
  // passes: an octet that the client sends now reaches its peer.
  bool passes() {
    EXPECT_EQ(::send(socket_.get(), "x", 1, 0), 1);
    pollfd ready{peer_.get(), POLLIN, 0};
    char octets[16];
    return ::poll(&ready, 1, 100) == 1 && ::recv(peer_.get(), octets, sizeof octets, 0) > 0;
  }

  device::NetdevKey lo_{};
  Door bystander_;
  UniqueFd peer_;
};

TEST_P(GuardTest, WhatItSaysHoldsFromTheNextPacketOn) {
  EXPECT_FALSE(passes()) << "not guarded yet";
  ASSERT_TRUE(guard(bystander_.id));
  EXPECT_TRUE(passes());
  EXPECT_TRUE(passes());
  shared_->unguard(lo_);
  EXPECT_FALSE(passes()) << "the socket must not believe what it was told before";
  ASSERT_TRUE(guard(bystander_.id, kDevId + 1));
  EXPECT_FALSE(passes()) << "another device's";
  ASSERT_TRUE(guard(bystander_.id));
  EXPECT_TRUE(passes());
  EXPECT_GE(shared_->drops()[static_cast<std::size_t>(Drop::POLICY_ROUTE)], 3u);
}

TEST_P(GuardTest, ASocketSendsNothingWhereTheProgramIsNotTheOneThatPspdPutThere) {
  ASSERT_TRUE(guard(bystander_.id));
  EXPECT_TRUE(passes());
  ASSERT_TRUE(take_off(lo_.ifindex, {{{Side::kEgress, bystander_.name}}}, false));
  EXPECT_FALSE(passes()) << "taken away: also while pspd has not noticed";
  stand(bystander_);
  EXPECT_TRUE(passes()) << "back";
  ASSERT_TRUE(guard(bystander_.id + 1));
  EXPECT_FALSE(passes()) << "another program stands there, which lets all pass";
}

// At the door by which the guard goes: tcx, or on a kernel without it the clsact.
TEST_P(GuardTest, ASocketSendsNothingWhileAnotherProgramComesFirst) {
  ASSERT_TRUE(guard(bystander_.id));
  EXPECT_TRUE(passes());
  const Door rival = door("psp_tap_ingress");  // never runs: it comes with packets for nobody here
  const bool tcx = has_tcx(lo_.ifindex).value();
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(lo_.ifindex),
              .attach_point = BPF_TC_EGRESS);
  LIBBPF_OPTS(bpf_tc_opts, filter, .prog_fd = rival.program, .handle = 7, .priority = 1);
  if (tcx)
    stand(rival);
  else
    ASSERT_EQ(bpf_tc_attach(&hook, &filter), 0);
  EXPECT_FALSE(stands(bystander_).value());
  EXPECT_FALSE(passes());
  stand(bystander_);
  EXPECT_TRUE(stands(bystander_).value()) << "in front again";
  // Nobody's program was removed: it can be taken off now.
  filter.prog_fd = 0;
  filter.prog_id = 0;
  EXPECT_FALSE(tcx && programs_at(lo_.ifindex, {Side::kEgress, rival.name}).value().empty());
  ASSERT_TRUE(tcx ? take_off(lo_.ifindex, {{{Side::kEgress, rival.name}}}, false).has_value()
                  : bpf_tc_detach(&hook, &filter) == 0);
  EXPECT_TRUE(passes());
}

TEST_P(GuardTest, TheProgramOfAnEarlierPspdIsReplaced) {
  stand(bystander_);
  Netdev netdev;
  netdev.netns = here_;
  netdev.ifindex = lo_.ifindex;
  netdev.name = "lo";
  const auto later = NetdevPrograms::load(secrets_, *shared_, netdev, kTap, kDevId);
  ASSERT_TRUE(later);
  const int program = later->program("psp_ingress");
  bpf_prog_info info{};
  std::uint32_t length = sizeof info;
  ASSERT_EQ(bpf_obj_get_info_by_fd(program, &info, &length), 0);
  stand({lo_.ifindex, Side::kEgress, program, info.id, "psp_ingress"});
  const auto there = programs_at(lo_.ifindex, {Side::kEgress, "psp_ingress"});
  ASSERT_TRUE(there) << there.error();
  EXPECT_TRUE(std::ranges::all_of(
      *there, [&](const UniqueFd& one) { return program_info(one.get()).value().id == info.id; }));
}

INSTANTIATE_TEST_SUITE_P(Families, GuardTest, testing::Values(4u, 6u),
                         [](const auto& family) { return fmt::format("IPv{}", family.param); });
INSTANTIATE_TEST_SUITE_P(Families, TooBigTest, testing::Values(4u, 6u),
                         [](const auto& family) { return fmt::format("IPv{}", family.param); });
INSTANTIATE_TEST_SUITE_P(Families, DeliverTest, testing::Values(4u, 6u),
                         [](const auto& family) { return fmt::format("IPv{}", family.param); });

}  // namespace
}  // namespace psp::datapath
