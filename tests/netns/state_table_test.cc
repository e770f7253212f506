// SPDX-License-Identifier: Apache-2.0
//
// Every cell of the receive half of the socket state table, on a real kernel socket: what is
// accepted must show its effect on the socket, what is dropped must show in exactly one counter.
//
// The oracle is the table of the Linux documentation, written out here by hand and not read from
// state_table.h. The far end is a puppet, so each segment is the one that is meant, and no other
// comes. Each cell is tried for IPv4, IPv6 and IPv4 on an IPv6 socket. The transmit half is in
// transmit_test.cc.
#include <gtest/gtest.h>
#include <tuple>

#include "puppet.hh"

namespace psp::lab {
namespace {

enum class Event {
  kClearData,
  kClearAck,
  kClearRst,
  kClearFin,
  kClearFinElsewhere,
  kClearFinWithData,
  kPspData,
  kPspOtherSocket,
  kPspOtherVersion,
  kPspWrongSpi,
  kPspWrongKey,
  kPspBrokenIcv,
};

struct Row {
  Event event;
  const char* name;
  bool accepted[PSP_STATES];  // NONE, RX, TX, FULL: as the Linux documentation has it
};

constexpr Row kRows[] = {
    {Event::kClearData, "ClearData", {true, true, false, false}},
    {Event::kClearAck, "ClearAck", {true, true, true, false}},
    {Event::kClearRst, "ClearRst", {true, true, true, false}},
    {Event::kClearFin, "ClearFin", {true, true, true, false}},
    {Event::kClearFinElsewhere, "ClearFinElsewhere", {true, true, false, false}},
    {Event::kClearFinWithData, "ClearFinWithData", {true, true, false, false}},
    {Event::kPspData, "PspData", {false, true, true, true}},
    {Event::kPspOtherSocket, "PspOfAnotherSocket", {false, false, false, false}},
    {Event::kPspOtherVersion, "PspOfAnotherVersion", {false, false, false, false}},
    {Event::kPspWrongSpi, "PspWithWrongSpi", {false, false, false, false}},
    {Event::kPspWrongKey, "PspWithWrongKey", {false, false, false, false}},
    {Event::kPspBrokenIcv, "PspWithBrokenIcv", {false, false, false, false}},
};

using Cell = std::tuple<Kind, psp_state, Row>;

class StateTable : public testing::TestWithParam<Cell> {
 protected:
  // The donors are two other secured connections of the same host.
  struct Donors {
    explicit Donors(Lab& lab)
        : same(lab.connect(Kind::kIpv4)), other_version(lab.connect(Kind::kIpv4)) {
      auto client = lab.client(From::kA);
      same_key = client.rx_assoc(same.a.get(), kVersion).value().rx;
      other_key = client.rx_assoc(other_version.a.get(), Version::kAesGcm256).value().rx;
    }
    Connection same, other_version;
    KeyInfo same_key, other_key;
  };

  static void SetUpTestSuite() {
    if (missing()) return;
    lab_ = std::make_unique<Lab>();
    lab_->start(From::kA);
    donors_ = std::make_unique<Donors>(*lab_);
  }
  static void TearDownTestSuite() {
    donors_.reset();
    lab_.reset();
  }
  void SetUp() override { PSP_NEEDS_LAB(); }

  void send(Puppet& puppet, Event event);
  void expect_accepted(Puppet& puppet, Event event);
  std::uint64_t drops(const Puppet& puppet, psp_state state, Event event);

  static inline std::unique_ptr<Lab> lab_;
  static inline std::unique_ptr<Donors> donors_;
  const Octets data_ = octets_of("sixteen octets..");
};

void StateTable::send(Puppet& puppet, Event event) {
  const Segment data = {
      .seq = puppet.seq(), .ack = puppet.ack(), .flags = kPsh | kAck, .payload = data_};
  const auto control = [&](std::uint8_t flags, std::uint32_t offset = 0) {
    return Segment{.seq = puppet.seq(offset),
                   .ack = puppet.ack(),
                   .flags = static_cast<std::uint8_t>(flags | kAck),
                   .window = 65535};
  };
  // Without an association a good PSP packet is one that another socket could have got.
  const KeyInfo& good = puppet.rx().key.empty() ? donors_->same_key : puppet.rx();
  const KeyInfo wrong = random_key(kVersion);
  switch (event) {
    case Event::kClearData:
      return puppet.send_clear(data);
    case Event::kClearAck:
      return puppet.send_clear(control(0));
    case Event::kClearRst:
      return puppet.send_clear(control(kRst));
    case Event::kClearFin:
      return puppet.send_clear(control(kFin));
    case Event::kClearFinElsewhere:
      return puppet.send_clear(control(kFin, 1));
    case Event::kClearFinWithData: {
      Segment both = data;
      both.flags |= kFin;
      return puppet.send_clear(both);
    }
    case Event::kPspData:
      return puppet.send_sealed(data, with(kVersion, good));
    case Event::kPspOtherSocket:
      return puppet.send_sealed(data, with(kVersion, donors_->same_key));
    case Event::kPspOtherVersion:
      return puppet.send_sealed(data, with(Version::kAesGcm256, donors_->other_key));
    case Event::kPspWrongSpi:
      return puppet.send_sealed(data, {kVersion, Spi{good.spi.value + 1000}, good.key.span()});
    case Event::kPspWrongKey:
      return puppet.send_sealed(data, {kVersion, good.spi, wrong.key.span()});
    case Event::kPspBrokenIcv: {
      Octets packet = seal(clear_packet(puppet.flow(), From::kB, data), with(kVersion, good));
      packet.back() ^= 1;
      return puppet.send_packet(packet);
    }
  }
}

void StateTable::expect_accepted(Puppet& puppet, Event event) {
  switch (event) {
    case Event::kClearAck:
      EXPECT_TRUE(eventually([&] { return send_window(puppet.fd()) >= 65535u << 4; }));
      return;
    case Event::kClearRst:
      EXPECT_EQ(socket_error(puppet.fd()), ECONNRESET);
      return;
    case Event::kClearFin:
      EXPECT_TRUE(at_end(puppet.fd()));
      return;
    case Event::kClearFinElsewhere:  // it waits behind the octet that is missing
      puppet.send_clear({.seq = puppet.seq(), .ack = puppet.ack(), .payload = {'x'}});
      EXPECT_EQ(receive(puppet.fd(), 1), octets_of("x"));
      EXPECT_TRUE(at_end(puppet.fd()));
      return;
    case Event::kClearFinWithData:
      EXPECT_EQ(receive(puppet.fd(), data_.size()), data_);
      EXPECT_TRUE(at_end(puppet.fd()));
      return;
    default:
      EXPECT_EQ(receive(puppet.fd(), data_.size()), data_);
  }
}

// drops is the counter that must rise when this cell drops.
std::uint64_t StateTable::drops(const Puppet& puppet, psp_state state, Event event) {
  switch (event) {
    case Event::kPspWrongSpi:
      return lab_->drops(From::kA, "UNKNOWN_KEY");
    case Event::kPspWrongKey:
    case Event::kPspBrokenIcv:
      return lab_->stats(From::kA).rx_auth_fail;
    case Event::kPspData:
    case Event::kPspOtherSocket:
    case Event::kPspOtherVersion:
      return lab_->drops(From::kA, state == PSP_STATE_NONE ? "POLICY_NO_ASSOC" : "POLICY_MISMATCH");
    default:
      const auto info = lab_->association(From::kA, puppet.fd());
      return info ? info->rx_drops : 0;
  }
}

TEST_P(StateTable, TakesWhatTheTableAcceptsAndDropsTheRest) {
  const auto& [kind, state, row] = GetParam();
  Puppet puppet(*lab_, kind, state);
  const std::uint64_t drops_before = drops(puppet, state, row.event);
  const std::uint32_t window_before = send_window(puppet.fd());
  send(puppet, row.event);
  if (row.accepted[state]) {
    expect_accepted(puppet, row.event);
    EXPECT_EQ(drops(puppet, state, row.event), drops_before);
    if (row.event == Event::kPspData) {
      EXPECT_EQ(puppet.state(), state == PSP_STATE_RX ? PSP_STATE_RX : PSP_STATE_FULL);
    }
    return;
  }
  EXPECT_TRUE(eventually([&] { return drops(puppet, state, row.event) == drops_before + 1; }))
      << drops(puppet, state, row.event) - drops_before;
  EXPECT_EQ(pending(puppet.fd()), Octets());
  EXPECT_FALSE(at_end(puppet.fd(), 0ms));
  EXPECT_EQ(socket_error(puppet.fd(), 0ms), 0);
  EXPECT_EQ(send_window(puppet.fd()), window_before);
  EXPECT_EQ(puppet.state(), static_cast<unsigned>(state));
}

std::string cell_name(const testing::TestParamInfo<Cell>& info) {
  static constexpr const char* kStates[] = {"None", "Rx", "Tx", "Full"};
  const auto& [kind, state, row] = info.param;
  return kind_name(kind) + "_" + kStates[state] + "_" + row.name;
}

INSTANTIATE_TEST_SUITE_P(
    Cells, StateTable,
    testing::Combine(testing::Values(Kind::kIpv4, Kind::kIpv6, Kind::kIpv4Mapped),
                     testing::Values(PSP_STATE_NONE, PSP_STATE_RX, PSP_STATE_TX, PSP_STATE_FULL),
                     testing::ValuesIn(kRows)),
    cell_name);

}  // namespace
}  // namespace psp::lab
