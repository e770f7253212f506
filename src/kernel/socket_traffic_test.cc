// SPDX-License-Identifier: Apache-2.0
//
// psp_sock_in and psp_sock_out, a row a case: which segments a socket lets in, and which way a
// secured one may send. That a segment was opened, which the loopback device cannot know, a program
// of this test says.
#include <cerrno>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>

#include "socket_table_fixture.hh"

namespace psp::kernel {
namespace {

// --- psp_sock_in: what comes -----------------------------------------------------------------

enum class Segment { kData, kUrgent, kAck, kFin, kReset };

struct Incoming {
  const char* what;
  Change sock;  // empty: it carries nothing
  Segment segment;
  bool opened;  // under an association of this device
  bool passes;
  Drop counted = Drop::POLICY_CLEAR;  // if it does not pass
  std::uint32_t state_after = PSP_STATE_NONE;
  Guard guard = Guard::kOurs;
  bool at_latch = false;  // the stream stands where it stood at tx-assoc
};

class SocketInTest : public SocketTableTest {
 protected:
  void SetUp() override {
    SocketTableTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    // skb->tc_index = verified; go on
    const bpf_insn says_opened[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K,
         .dst_reg = 2,
         .src_reg = 0,
         .off = 0,
         .imm = secrets_.verified},
        {.code = BPF_STX | BPF_MEM | BPF_W,
         .dst_reg = 1,
         .src_reg = 2,
         .off = offsetof(__sk_buff, tc_index),
         .imm = 0},
        {.code = BPF_ALU64 | BPF_MOV | BPF_K,
         .dst_reg = 0,
         .src_reg = 0,
         .off = 0,
         .imm = TC_ACT_UNSPEC},
        {.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0},
    };
    opener_ = UniqueFd(bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "says_opened", "GPL", says_opened,
                                     std::size(says_opened), nullptr));
    ASSERT_TRUE(opener_) << std::strerror(errno);
    in_ = {lo_.ifindex, Side::kIngress, opener_.get(), program_info(opener_.get()).value().id,
           "says_opened"};
  }

  // latch is where the client's stream stands: TCP tells that to who repairs a socket.
  std::uint32_t latch() const {
    const int on = 1, off = -1, queue = TCP_RECV_QUEUE;  // off, without a word to the peer
    std::uint32_t next = 0;
    socklen_t size = sizeof next;
    EXPECT_EQ(::setsockopt(socket_.get(), IPPROTO_TCP, TCP_REPAIR, &on, sizeof on), 0);
    EXPECT_EQ(::setsockopt(socket_.get(), IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof queue), 0);
    EXPECT_EQ(::getsockopt(socket_.get(), IPPROTO_TCP, TCP_QUEUE_SEQ, &next, &size), 0);
    EXPECT_EQ(::setsockopt(socket_.get(), IPPROTO_TCP, TCP_REPAIR, &off, sizeof off), 0);
    return next;
  }

  void send_one(Segment segment) {
    switch (segment) {
      case Segment::kData:
        ASSERT_EQ(::send(peer_.get(), "x", 1, 0), 1);
        break;
      case Segment::kUrgent:
        ASSERT_EQ(::send(peer_.get(), "x", 1, MSG_OOB), 1);
        break;
      case Segment::kAck:  // of this
        ASSERT_EQ(::send(socket_.get(), "x", 1, 0), 1);
        break;
      case Segment::kFin:
        ASSERT_EQ(::shutdown(peer_.get(), SHUT_WR), 0);
        break;
      case Segment::kReset: {
        const linger at_once{.l_onoff = 1, .l_linger = 0};
        ::setsockopt(peer_.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        peer_.reset();
        break;
      }
    }
  }
  // arrived: TCP has the segment.
  bool arrived(Segment segment) const {
    char octet = 0;
    int left = 0;
    switch (segment) {
      case Segment::kData:
        return ::recv(socket_.get(), &octet, 1, 0) == 1;
      case Segment::kUrgent:
        return ::recv(socket_.get(), &octet, 1, MSG_OOB) == 1;
      case Segment::kAck:
        return ::ioctl(socket_.get(), SIOCOUTQ, &left) == 0 && left == 0;
      case Segment::kFin:
        return ::recv(socket_.get(), &octet, 1, 0) == 0;
      case Segment::kReset:
        return ::recv(socket_.get(), &octet, 1, 0) < 0 && errno == ECONNRESET;
    }
    return false;
  }

  void check(const Incoming& row) {
    SCOPED_TRACE(row.what);
    begin(row.sock, row.guard);
    if (row.at_latch) {
      const std::uint32_t next = latch();
      associate([&](psp_sock& sock) {
        row.sock(sock);
        sock.upgrade_rcv_nxt = next;
      });
    }
    if (row.opened) {
      ASSERT_TRUE(put(in_, "lo"));
    }
    const std::uint64_t before = dropped(row.counted);
    send_one(row.segment);
    expect_outcome(
        row.passes, [&] { return arrived(row.segment); },
        [&] { return dropped(row.counted) > before; });
    if (row.opened) {
      ASSERT_TRUE(take_off(lo_.ifindex, {{{Side::kIngress, in_.name}}}, false));
    }
    const auto after = carried();
    ASSERT_EQ(after.has_value(), static_cast<bool>(row.sock));
    if (!after) return;
    EXPECT_EQ(after->state, row.state_after);
    if (row.opened && row.passes) {
      EXPECT_EQ(after->rx_packets, 1u);
    }
  }

  UniqueFd opener_;
};

TEST_P(SocketInTest, JudgesByTheTableOfStates) {
  using enum Segment;
  const auto none = in_state(PSP_STATE_NONE), rx = in_state(PSP_STATE_RX),
             tx = in_state(PSP_STATE_TX), full = in_state(PSP_STATE_FULL);
  const Incoming table[] = {
      {.what = "data, no association",
       .sock = {},
       .segment = kData,
       .opened = false,
       .passes = true},
      {"data in NONE", none, kData, false, true},
      {"FIN in NONE", none, kFin, false, true},
      {"RST in NONE", none, kReset, false, true},
      {"data in RX", rx, kData, false, true, {}, PSP_STATE_RX},
      {"urgent data in RX", rx, kUrgent, false, true, {}, PSP_STATE_RX},
      {"ACK in RX", rx, kAck, false, true, {}, PSP_STATE_RX},
      {"FIN in RX", rx, kFin, false, true, {}, PSP_STATE_RX},
      {"RST in RX", rx, kReset, false, true, {}, PSP_STATE_RX},
      {"data in TX", tx, kData, false, false, Drop::POLICY_CLEAR, PSP_STATE_TX},
      {"urgent data in TX", tx, kUrgent, false, false, Drop::POLICY_CLEAR, PSP_STATE_TX},
      {"ACK in TX", tx, kAck, false, true, {}, PSP_STATE_TX},
      {"RST in TX", tx, kReset, false, true, {}, PSP_STATE_TX},
      {"FIN in TX, somewhere", tx, kFin, false, false, Drop::POLICY_CLEAR, PSP_STATE_TX},
      {"FIN in TX, where the clear stream ended",
       tx,
       kFin,
       false,
       true,
       {},
       PSP_STATE_TX,
       Guard::kOurs,
       true},
      {"data in FULL", full, kData, false, false, Drop::POLICY_CLEAR, PSP_STATE_FULL},
      {"ACK in FULL", full, kAck, false, false, Drop::POLICY_CLEAR, PSP_STATE_FULL},
      {"FIN in FULL", full, kFin, false, false, Drop::POLICY_CLEAR, PSP_STATE_FULL, Guard::kOurs,
       true},
      {"RST in FULL", full, kReset, false, false, Drop::POLICY_CLEAR, PSP_STATE_FULL},
  };
  for (const Incoming& row : table) check(row);
}

TEST_P(SocketInTest, LetsInWhatWasOpenedForThisDevice) {
  using enum Segment;
  const auto rx = in_state(PSP_STATE_RX), tx = in_state(PSP_STATE_TX),
             full = in_state(PSP_STATE_FULL);
  const Incoming table[] = {
      {"opened data in RX", rx, kData, true, true, {}, PSP_STATE_RX},
      {"opened data in TX", tx, kData, true, true, {}, PSP_STATE_FULL},
      {"opened data in FULL", full, kData, true, true, {}, PSP_STATE_FULL},
      {"opened FIN in FULL", full, kFin, true, true, {}, PSP_STATE_FULL},
      {"opened by a netdev that is nobody's", tx, kData, true, false, Drop::POLICY_CLEAR,
       PSP_STATE_TX, Guard::kNothing},
      {"opened by another device", full, kData, true, false, Drop::POLICY_CLEAR, PSP_STATE_FULL,
       Guard::kAnotherDevices},
      {"said to be opened where psp_ingress is not the first to see it", full, kData, true, false,
       Drop::POLICY_CLEAR, PSP_STATE_FULL, Guard::kAnotherProgram},
  };
  for (const Incoming& row : table) check(row);
}

TEST_P(SocketInTest, KeepsClearDataFromWhatIsSwitchingDeadOrRestored) {
  using enum Segment;
  const Incoming table[] = {
      {"data while tx-assoc looks", in_state(PSP_STATE_RX, switching), kData, false, false,
       Drop::POLICY_CLEAR, PSP_STATE_RX},
      {"ACK while tx-assoc looks",
       in_state(PSP_STATE_RX, switching),
       kAck,
       false,
       true,
       {},
       PSP_STATE_RX},
      {"data in RX of an earlier pspd",
       in_state(PSP_STATE_RX, earlier),
       kData,
       false,
       true,
       {},
       PSP_STATE_RX},
      {"data in TX of an earlier pspd", in_state(PSP_STATE_TX, earlier), kData, false, false,
       Drop::POLICY_EPOCH, PSP_STATE_TX},
      {"RST in FULL of an earlier pspd", in_state(PSP_STATE_FULL, earlier), kReset, false, false,
       Drop::POLICY_EPOCH, PSP_STATE_FULL},
      {"data for a restored socket", in_state(PSP_STATE_NONE, restored), kData, false, false,
       Drop::POLICY_CLEAR, PSP_STATE_NONE},
  };
  for (const Incoming& row : table) check(row);
}

// --- psp_sock_out: what goes -----------------------------------------------------------------

struct Outgoing {
  const char* what;
  Change sock;
  Guard guard;
  bool passes;
  Drop counted = Drop::POLICY_ROUTE;  // if it does not pass
};

class SocketOutTest : public SocketTableTest {};

TEST_P(SocketOutTest, ASecuredSocketSendsByANetdevOfItsDeviceOnly) {
  const auto tx = in_state(PSP_STATE_TX);
  const Outgoing table[] = {
      {"no association", {}, Guard::kNothing, true},
      {"NONE", in_state(PSP_STATE_NONE), Guard::kNothing, true},
      {"RX", in_state(PSP_STATE_RX), Guard::kNothing, true},
      {"TX by a netdev that is nobody's", tx, Guard::kNothing, false},
      {"TX by its device's", tx, Guard::kOurs, true},
      {"TX by another device's", tx, Guard::kAnotherDevices, false},
      {"TX where another program stands first", tx, Guard::kAnotherProgram, false},
      {"FULL by its device's", in_state(PSP_STATE_FULL), Guard::kOurs, true},
      {"RX of an earlier pspd", in_state(PSP_STATE_RX, earlier), Guard::kOurs, true},
      {"TX of an earlier pspd", in_state(PSP_STATE_TX, earlier), Guard::kOurs, false,
       Drop::POLICY_EPOCH},
      {"restored", in_state(PSP_STATE_NONE, restored), Guard::kOurs, false, Drop::POLICY_CLEAR},
  };
  for (const Outgoing& row : table) {
    SCOPED_TRACE(row.what);
    begin(row.sock, row.guard);
    const std::uint64_t before = dropped(row.counted);
    ASSERT_EQ(::send(socket_.get(), "x", 1, 0), 1);
    char octet = 0;
    expect_outcome(
        row.passes, [&] { return ::recv(peer_.get(), &octet, 1, 0) == 1; },
        [&] { return dropped(row.counted) > before; });
  }
}

INSTANTIATE_TEST_SUITE_P(Families, SocketInTest, testing::Values(4u, 6u), kFamilyName);
INSTANTIATE_TEST_SUITE_P(Families, SocketOutTest, testing::Values(4u, 6u), kFamilyName);

}  // namespace
}  // namespace psp::kernel
