// SPDX-License-Identifier: Apache-2.0
//
// The tc programs as a table: what a packet is, which program sees it and with which mark, and what
// becomes of it: verdict, packet and mark out, drop counted. A row a case, for both families where
// nothing else is said. What needs a real socket is in deliver_test.cc and guard_test.cc.
#include <string>
#include <sys/mman.h>

#include "programs_fixture.hh"

namespace psp::kernel {
namespace {

using Table = std::vector<Row>;

constexpr std::uint8_t kFin = PSP_TCP_FLAG_FIN, kSyn = PSP_TCP_FLAG_SYN, kRst = PSP_TCP_FLAG_RST,
                       kAck = PSP_TCP_FLAG_ACK;

// --- changes to a frame ---------------------------------------------------------------------

Octets with(Octets frame, std::size_t at, std::uint8_t octet) {
  frame.at(at) = octet;
  return frame;
}

Octets tagged(Octets frame, unsigned kind, std::uint8_t info = 0, std::uint32_t value = 0) {
  set_tag(frame, static_cast<std::uint8_t>(kind), info, value);
  return frame;
}

Octets to(Octets frame, const std::array<std::uint8_t, 6>& mac) {
  std::ranges::copy(mac, frame.begin());
  return frame;
}

Octets from(Octets frame, const std::array<std::uint8_t, 6>& mac) {
  std::ranges::copy(mac, frame.begin() + kSourceMac);
  return frame;
}

Octets cut(const Octets& frame, std::size_t size) {
  return {frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(size)};
}

Octets with_ipv4_option(Octets frame) {
  frame[14] = 0x46;
  frame.insert(frame.begin() + 34, 4, 1);
  return frame;
}

Octets segment(unsigned family, std::size_t payload, unsigned flags, std::uint16_t local = 1000,
               std::uint16_t remote = 2000) {
  return tcp({family, local, remote}, payload, static_cast<std::uint8_t>(flags));
}

std::string family_name(unsigned family) { return fmt::format("IPv{}: ", family); }

// --- psp_ingress, from the wire -------------------------------------------------------------

void add_ingress(Table& rows, unsigned family) {
  const auto add = [&](const char* what, Octets in, int verdict) {
    rows.push_back({.what = family_name(family) + what,
                    .program = "psp_ingress",
                    .in = std::move(in),
                    .verdict = verdict,
                    .mark_out = verdict == kRedirect ? Mark::kOurs : Mark::kNone});
  };
  add("a PSP packet goes to pspd with the mark", psp_packet(family), kRedirect);
  add("UDP to the port before", psp_packet(family, 0, 999), kNext);
  add("UDP to the port behind", psp_packet(family, 0, 1001), kNext);
  add("TCP", segment(family, 10, kAck), kNext);
  add("to another host", with(psp_packet(family), 0, 0x02), kNext);
  if (family == 4) {
    add("behind IPv4 options", with_ipv4_option(psp_packet(4)), kRedirect);
    add("a first fragment", with(psp_packet(4), 14 + 6, 0x20), kNext);
    add("a later fragment", with(psp_packet(4), 14 + 7, 1), kNext);
    add("ARP", with(with(psp_packet(4), 12, 0x08), 13, 0x06), kNext);
  } else {
    add("behind an extension header", with(psp_packet(6), 14 + 6, 0), kNext);
  }
  // The kernel runs no program on less than an IP header. With the ports there it is PSP: pspd
  // counts what is too short.
  const std::size_t udp_at = family == 4 ? 34 : 54, whole = psp_packet(family).size();
  for (std::size_t size = udp_at; size < whole; size++)
    add("cut short", cut(psp_packet(family), size), size < udp_at + 4 ? kNext : kRedirect);
}

// Only versions that are enabled are PSP; but one that there is not is counted where versions are.
void add_versions(Table& rows, unsigned family) {
  for (std::uint8_t version = 0; version < 16; version++)
    for (const std::uint32_t enabled : {0b0011u, 0u}) {
      const bool wanted = enabled != 0 && (version < 2 || version > 3);
      rows.push_back({.what = fmt::format("IPv{}: version {} of {:#b}", family, version, enabled),
                      .program = "psp_ingress",
                      .in = psp_packet(family, version),
                      .verdict = wanted ? kRedirect : kNext,
                      .mark_out = wanted ? Mark::kOurs : Mark::kNone,
                      .enabled = enabled});
    }
}

// --- psp_tap_ingress, from pspd; psp_tap_egress, to it -----------------------------------------

void add_tap(Table& rows, unsigned family) {
  const std::string name = family_name(family);
  const Octets sealed = psp_packet(family), clear = segment(family, 10, kAck);
  const auto add = [&](Row row) {
    row.what = name + row.what;
    rows.push_back(std::move(row));
  };
  for (const unsigned kind : {PSP_FRAME_TO_WIRE_SEALED, PSP_FRAME_TO_WIRE_CLEAR})
    add({.what = "to the wire, under the netdev's address",
         .program = "psp_tap_ingress",
         .in = tagged(sealed, kind),
         .verdict = kRedirect,
         .out = from(sealed, kMac),
         .mark_out = Mark::kOurs});
  add({.what = "to the wire as sealed, and is not PSP",
       .program = "psp_tap_ingress",
       .in = tagged(clear, PSP_FRAME_TO_WIRE_SEALED),
       .verdict = kShot,
       .counted = Drop::POLICY_FORGED});
  for (unsigned version = 0; version < kVersions; version++) {
    const Octets opened = tagged(clear, PSP_FRAME_TO_STACK | version, 3, 0x80001234);
    add({.what = "opened: to the netdev's ingress, with its tag",
         .program = "psp_tap_ingress",
         .in = opened,
         .verdict = kRedirect,
         .out = to(opened, kMac),
         .mark_out = Mark::kOurs});
  }
  for (const unsigned kind : {0x00, PSP_FRAME_SEAL, PSP_FRAME_SPAN, PSP_FRAME_CLEAR, 0x84, 0xff})
    add({.what = fmt::format("a tag of no kind: {:#x}", kind),
         .program = "psp_tap_ingress",
         .in = tagged(sealed, kind),
         .verdict = kShot,
         .counted = Drop::POLICY_FORGED});

  add({.what = "PSP with the mark goes to pspd",
       .program = "psp_tap_egress",
       .in = sealed,
       .verdict = TC_ACT_OK,
       .mark = Mark::kOurs,
       .mark_out = Mark::kOurs});
  for (const Mark mark : {Mark::kNone, Mark::kAnother})
    add({.what = "PSP without it does not",
         .program = "psp_tap_egress",
         .in = sealed,
         .verdict = kShot,
         .mark = mark,
         .mark_out = mark,
         .counted = Drop::POLICY_FORGED});
  add({.what = "a segment of nobody does not",
       .program = "psp_tap_egress",
       .in = clear,
       .verdict = kShot,
       .mark = Mark::kOurs,
       .mark_out = Mark::kOurs,
       .counted = Drop::POLICY_FORGED});
}

// A frame that asks for a Tx key gets it only if its connection has that key.
void add_seals(Table& rows, unsigned family) {
  const auto add = [&](const char* what, std::uint32_t handle, Departed departed, bool may) {
    rows.push_back({.what = family_name(family) + what,
                    .program = "psp_tap_egress",
                    .in = tagged(segment(family, 10, kAck), PSP_FRAME_SEAL, 0, handle),
                    .verdict = may ? TC_ACT_OK : kShot,
                    .mark = Mark::kOurs,
                    .mark_out = Mark::kOurs,
                    .counted = may ? std::nullopt : std::optional(Drop::POLICY_FORGED),
                    .departed = departed});
  };
  add("asks for the connection's key", kHandle, Departed::kOurs, true);
  add("asks for somebody else's key", kHandle + 1, Departed::kOurs, false);
  add("asks for a key of another device", kHandle, Departed::kAnotherDevices, false);
  add("asks for a key of another pspd", kHandle, Departed::kAnotherPspds, false);
}

// --- psp_egress, of packets without a full socket ----------------------------------------------

void add_egress(Table& rows, unsigned family) {
  const auto add = [&](const char* what, const Octets& in, Departed departed, int verdict,
                       std::optional<Drop> counted = {}, Mark mark = Mark::kNone) {
    rows.push_back({.what = family_name(family) + what,
                    .program = "psp_egress",
                    .in = in,
                    .verdict = verdict,
                    .out = verdict == kRedirect ? tagged(in, PSP_FRAME_SEAL, 0, kHandle) : Octets{},
                    .mark = mark,
                    .mark_out = verdict == kRedirect ? Mark::kOurs : Mark::kNone,
                    .counted = counted,
                    .departed = departed});
  };
  add("a segment of nobody", segment(family, 10, kAck), Departed::kNothing, kNext);
  add("PSP of nobody", psp_packet(family), Departed::kNothing, kNext);
  add("a RST of the connection", segment(family, 0, kRst), Departed::kOurs, kRedirect);
  add("an ACK of it", segment(family, 0, kAck), Departed::kOurs, kRedirect);
  add("a RST to another port", segment(family, 0, kRst, 1000, 2001), Departed::kOurs, kNext);
  add("a RST the other way", segment(family, 0, kRst, 2000, 1000), Departed::kOurs, kNext);
  add("the same addresses in another namespace", segment(family, 0, kRst),
      Departed::kAnotherNamespaces, kNext);
  add("another device's connection", segment(family, 0, kRst), Departed::kAnotherDevices, kShot,
      Drop::POLICY_ROUTE);
  add("an earlier pspd's connection", segment(family, 0, kRst), Departed::kAnotherPspds, kShot,
      Drop::POLICY_EPOCH);
  add("data, which the kernel does not send so", segment(family, 1, kAck), Departed::kOurs, kShot,
      Drop::POLICY_FORGED);
  add("a FIN, neither", segment(family, 0, kFin | kAck), Departed::kOurs, kShot,
      Drop::POLICY_FORGED);
  add("a SYN: a new connection", segment(family, 0, kSyn), Departed::kOurs, kNext);
  add("a SYN and ACK", segment(family, 0, kSyn | kAck), Departed::kOurs, kNext);
  add("the answer to a SYN", segment(family, 0, kRst | kAck), Departed::kOurs, kNext);
  add("pspd's own clear octets", segment(family, 10, kAck), Departed::kOurs, kNext, {},
      Mark::kOurs);
}

// --- the test -------------------------------------------------------------------------------

class ProgramsTableTest : public NetdevProgramsTest {
 protected:
  using NetdevProgramsTest::check;
  void check(void (*add_rows)(Table&, unsigned)) {
    Table rows;
    for (const unsigned family : {4u, 6u}) add_rows(rows, family);
    for (const Row& row : rows) check(row);
  }
};

TEST_F(ProgramsTableTest, Ingress) { check(add_ingress); }
TEST_F(ProgramsTableTest, IngressByVersion) { check(add_versions); }
TEST_F(ProgramsTableTest, Tap) { check(add_tap); }
TEST_F(ProgramsTableTest, SealsOfTheTap) { check(add_seals); }
TEST_F(ProgramsTableTest, EgressWithoutFullSocket) { check(add_egress); }

// The socket that sends in these tests is in this namespace, the programs are another's.
TEST_F(ProgramsTableTest, WhatASocketOfAnotherNamespaceSendsIsOfNoDepartedConnection) {
  load(here_ + 1);
  for (const unsigned family : {4u, 6u}) {
    depart({family, 1000, 2000}, entry_of(Departed::kOurs), here_ + 1);
    EXPECT_EQ(run("psp_egress", segment(family, 0, kAck)).verdict, kNext);
  }
}

// A packet of a capture is a case like one that was made here: what is written is what is read.
TEST_F(ProgramsTableTest, APacketCanBeReadFromACapture) {
  const UniqueFd file(::memfd_create("packets", MFD_CLOEXEC));
  const std::string path = fmt::format("/proc/self/fd/{}", file.get());
  PacketCapture written;
  for (const unsigned family : {4u, 6u}) written.add_in(psp_packet(family), "PSP");
  written.add_out(segment(4, 10, kAck), "TCP");
  ASSERT_TRUE(written.write(path, "packets"));

  const auto packets = read_packets(path);
  ASSERT_TRUE(packets) << packets.error();
  ASSERT_EQ(packets->size(), 3u);
  for (const std::size_t sealed : {0u, 1u})
    check({.what = "a PSP packet of a capture",
           .program = "psp_ingress",
           .in = packets->at(sealed),
           .verdict = kRedirect,
           .out = psp_packet(sealed == 0 ? 4 : 6),
           .mark_out = Mark::kOurs});
  check({.what = "TCP of a capture",
         .program = "psp_ingress",
         .in = packets->at(2),
         .verdict = kNext});
}

}  // namespace
}  // namespace psp::kernel
