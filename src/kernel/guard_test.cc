// SPDX-License-Identifier: Apache-2.0
//
// psp_sock_out on a real connection: a secured socket sends by a netdev only if pspd has noted it
// and the program that it noted stands there, first in line, at this moment. Over loopback in a
// network namespace of the test's own, with the real programs and maps; an octet that arrives or
// does not is the oracle. But in one test what stands at the netdev lets all pass, so that silence
// is psp_sock_out's doing. Needs root; skipped else. That psp_egress seals: tests/netns.
#include <poll.h>

#include "hooks.hh"
#include "programs_fixture.hh"

namespace psp::kernel {
namespace {

// GuardTest has a connection over the loopback device, secured at its client; loopback plays the
// netdev of the PSP device, and psp_tap_egress, which lets nothing pass, never stands there: what
// stands there is psp_ingress, which lets all of this pass.
class GuardTest : public ConnectedTest {
 protected:
  void SetUp() override {
    ConnectedTest::SetUp();
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
    return shared_->guard(lo_, dev_id, {program, 0});
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

// psp_egress itself: what it cannot read in its table of states is not sent.
TEST_P(GuardTest, AStateThatThereIsNotSendsNothing) {
  const Door egress = door("psp_egress");
  stand(egress);
  ASSERT_TRUE(guard(egress.id));
  associate([](psp_sock& sock) { sock.state = PSP_STATE_NONE; });
  EXPECT_TRUE(passes()) << "else this test shows nothing";
  for (const std::uint32_t state : {unsigned{PSP_STATES}, PSP_STATES + 1u, 0xffffffffu}) {
    const std::uint64_t before = drops(Drop::TX_NO_ASSOC);
    associate([state](psp_sock& sock) { sock.state = state; });
    EXPECT_FALSE(passes()) << state;
    EXPECT_GT(drops(Drop::TX_NO_ASSOC), before) << state;
  }
}

TEST_P(GuardTest, ASocketThatThereIsNoRoomToNoteSendsNothing) {
  const Door egress = door("psp_egress");
  stand(egress);
  ASSERT_TRUE(guard(egress.id));
  const auto in_tx = [](psp_sock& sock) { sock.state = PSP_STATE_TX; };
  associate(in_tx);
  const std::uint64_t before = drops(Drop::TX_NO_ASSOC);
  EXPECT_FALSE(passes());
  EXPECT_GT(drops(Drop::TX_NO_ASSOC), before);
  std::uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  ASSERT_EQ(::getsockopt(socket_.get(), SOL_SOCKET, SO_COOKIE, &cookie, &size), 0);
  const psp_noted_entry noted{};
  ASSERT_EQ(bpf_map_update_elem(shared_->maps().noted, &cookie, &noted, BPF_ANY), 0);
  const std::uint64_t after = drops(Drop::TX_NO_ASSOC);
  EXPECT_FALSE(passes()) << "it goes to the TAP, which nobody reads here";
  EXPECT_EQ(drops(Drop::TX_NO_ASSOC), after) << "else the first half shows nothing";
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

}  // namespace
}  // namespace psp::kernel
