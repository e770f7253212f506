// SPDX-License-Identifier: Apache-2.0
//
// For tests of the tc programs by themselves: packet in, verdict and packet out, through
// BPF_PROG_TEST_RUN. No daemon and no TAP; sockets are real where a program looks one up. Test
// packets have destination MAC zero, which is the loopback device's own. (The kernel does not show
// skb->tc_index here: what it carries is tested on real connections in tests/netns.) A Row is a
// case in full; PSP_FIXTURE_PCAP=DIR shows all packets (packet_capture_fixture.hh).
#pragma once

#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>
#include <functional>
#include <gtest/gtest.h>
#include <linux/pkt_cls.h>
#include <net/if.h>
#include <optional>
#include <string>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <vector>

#include "device/socket_state.h"
#include "wire/bytes.hh"
#include "wire/drop.hh"
#include "wire/packet.hh"

#include "netns.hh"
#include "netns_test_support.hh"
#include "packet_capture_fixture.hh"
#include "programs.hh"

namespace psp::kernel {

inline constexpr int kNext = TC_ACT_UNSPEC;
inline constexpr int kShot = TC_ACT_SHOT;
inline constexpr int kRedirect = TC_ACT_REDIRECT;
inline constexpr std::uint32_t kTap =
    4711;  // no such device: a redirect to it is a verdict all the same
inline constexpr std::uint16_t kDevId = 7;
inline constexpr std::uint32_t kSpi = 0x80001234;  // of the association of ConnectedTest
inline constexpr std::array<std::uint8_t, 6> kMac = {0x02, 0x11, 0x22, 0x33, 0x44, 0x55};
inline constexpr std::array<std::uint8_t, 6> kNoMac = {};
inline constexpr std::size_t kSourceMac = 6;

// A connection between two addresses of the loopback device, seen from its client.
struct Flow {
  unsigned family = 4;
  std::uint16_t local_port = 0, remote_port = 0;
  bool inbound = false;  // a packet from the remote to the local end
};

inline Octets ethernet(unsigned family) {
  Octets frame(14);
  wire::store_be<std::uint16_t>(&frame[12], family == 4 ? 0x0800 : 0x86dd);
  frame[kSourceMac] = 0x66;
  return frame;
}

inline void append_ip(Octets& frame, unsigned family, std::uint8_t protocol, std::size_t payload) {
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

inline Octets tcp(const Flow& flow, std::size_t payload = 10, std::uint8_t flags = 0x10) {
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

inline Octets psp_packet(unsigned family, std::uint8_t version = 0, std::uint16_t port = kUdpPort) {
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

inline void set_tag(Octets& frame, std::uint8_t kind, std::uint8_t info, std::uint32_t value) {
  frame[kSourceMac] = kind;
  frame[kSourceMac + 1] = info;
  wire::store_be(&frame[kSourceMac + 2], value);
}

inline std::array<std::uint8_t, 6> mac_at(const Octets& frame, std::size_t at) {
  std::array<std::uint8_t, 6> mac;
  std::copy_n(frame.begin() + static_cast<std::ptrdiff_t>(at), mac.size(), mac.begin());
  return mac;
}

struct Outcome {
  int verdict = 0;
  Octets frame;
  __sk_buff skb{};
};

// Mark is that of a packet: the programs' own, none, or somebody else's.
enum class Mark { kNone, kOurs, kAnother };

// Departed is what is noted of the connection 1000 -> 2000, whose socket has gone.
enum class Departed { kNothing, kOurs, kAnotherNamespaces, kAnotherDevices, kAnotherPspds };
inline constexpr std::uint32_t kHandle = 0x01020304;  // of its Tx key

// Row is a case: what a packet is, which program sees it, and what becomes of it.
struct Row {
  std::string what;
  const char* program;
  Octets in;
  int verdict;
  Octets out = {};  // empty: as it came in
  Mark mark = Mark::kNone;
  Mark mark_out = Mark::kNone;
  std::optional<Drop> counted = {};
  Departed departed = Departed::kNothing;
  std::uint32_t enabled = 0b0011;  // versions
};

class NetdevProgramsTest : public testing::Test {
 protected:
  ~NetdevProgramsTest() override { write_capture(); }

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
    capture(program, frame, outcome);
    return outcome;
  }

  // check runs a case, and says where it differs.
  void check(const Row& row) {
    SCOPED_TRACE(row.what);
    ASSERT_TRUE(programs_->set_versions(VersionSet{row.enabled}));
    for (const unsigned family : {4u, 6u}) forget({family, 1000, 2000});
    if (row.departed != Departed::kNothing)
      depart({row.in[12] == 0x08 ? 4u : 6u, 1000, 2000}, entry_of(row.departed),
             row.departed == Departed::kAnotherNamespaces ? here_ + 1 : here_);
    const DropCounts before = programs_->drops();
    what_ = row.what;
    const Outcome outcome = run(row.program, row.in, mark_of(row.mark));
    what_.clear();
    EXPECT_EQ(outcome.verdict, row.verdict);
    EXPECT_EQ(outcome.skb.mark, mark_of(row.mark_out));
    EXPECT_EQ(outcome.frame, row.out.empty() ? row.in : row.out);
    const DropCounts after = programs_->drops();
    for (std::size_t reason = 0; reason < after.size(); reason++)
      EXPECT_EQ(after[reason] - before[reason],
                row.counted && static_cast<std::size_t>(*row.counted) == reason)
          << reason;
  }

  std::uint32_t mark_of(Mark mark) const {
    if (mark == Mark::kNone) return 0;
    return mark == Mark::kOurs ? secrets_.mark : secrets_.mark + 2;
  }

  psp_tuple_entry entry_of(Departed departed) const {
    psp_tuple_entry entry{};
    entry.epoch = departed == Departed::kAnotherPspds ? secrets_.epoch + 1 : secrets_.epoch;
    entry.tx_handle = kHandle;
    entry.rx.dev_id = departed == Departed::kAnotherDevices ? kDevId + 1 : kDevId;
    return entry;
  }

  // tuple_of is the key of a connection between two addresses of the loopback device.
  static psp_tuple tuple_of(const Flow& flow, std::uint64_t netns) {
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
    return tuple;
  }

  // depart notes a connection with a Tx key whose socket has gone; forget, in whatever namespace it
  // was noted, undoes that.
  void depart(const Flow& flow, const psp_tuple_entry& entry, std::uint64_t netns) const {
    const psp_tuple tuple = tuple_of(flow, netns);
    ASSERT_EQ(bpf_map_update_elem(shared_->maps().departed, &tuple, &entry, BPF_ANY), 0);
  }
  void forget(const Flow& flow) const {
    for (const std::uint64_t netns : {here_, here_ + 1}) {
      const psp_tuple tuple = tuple_of(flow, netns);
      bpf_map_delete_elem(shared_->maps().departed, &tuple);
    }
  }

  std::uint64_t drops(Drop reason) const {
    return programs_->drops()[static_cast<std::size_t>(reason)];
  }

  // capture notes a run, for whoever wants to see it.
  void capture(const char* program, const Octets& in, const Outcome& outcome) {
    if (capture_dir_ == nullptr) return;
    const std::string comment =
        fmt::format("{}: {}, verdict {}, mark {:#x}", program, what_.empty() ? "a run" : what_,
                    outcome.verdict, outcome.skb.mark);
    capture_.add_in(in, comment);
    if (outcome.verdict != kShot) capture_.add_out(outcome.frame, comment);
  }
  void write_capture() const {
    if (capture_.empty()) return;
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    std::string name = fmt::format("{}.{}", test->test_suite_name(), test->name());
    std::ranges::replace(name, '/', '-');
    const auto written = capture_.write(fmt::format("{}/{}.pcapng", capture_dir_, name), name);
    EXPECT_TRUE(written) << written.error();
  }

  const char* capture_dir_ = std::getenv("PSP_FIXTURE_PCAP");
  PacketCapture capture_;
  std::string what_;  // the run that comes is about

  test::PrivateNetns netns_;
  Secrets secrets_;
  std::optional<SocketPrograms> shared_;
  std::optional<NetdevPrograms> programs_;
  static inline std::uint64_t here_ = 0;  // cookie of this namespace
};

// ConnectedTest has a TCP connection over the loopback device, whose client end can be given an
// association.
class ConnectedTest : public NetdevProgramsTest, public testing::WithParamInterface<unsigned> {
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
    sock.rx = {.spi = kSpi, .rotation = 0, .dev_id = kDevId, .generation = 3, .version = 1};
    sock.netns = here_;
    if (change) change(sock);
    const int fd = socket_.get();
    ASSERT_EQ(bpf_map_update_elem(shared_->maps().assoc, &fd, &sock, BPF_ANY), 0);
  }

  // opened is a segment of the connection as pspd hands it to the stack.
  Octets opened(std::uint8_t version, std::uint8_t generation, std::uint32_t spi) const {
    Octets frame = tcp(flow_);
    set_tag(frame, PSP_FRAME_TO_STACK | version, generation, spi);
    return frame;
  }
  // deliver hands over one that the association matches.
  Outcome deliver() { return run("psp_ingress", opened(1, 3, kSpi), secrets_.mark); }

  UniqueFd listener_, socket_;
  Flow flow_;
};

}  // namespace psp::kernel
