// SPDX-License-Identifier: Apache-2.0
//
// Whatever TCP hands over comes out at the other end octet by octet, and nothing on the way is
// bigger than it may be. Random frames go through TxPath and RxPath of two devices; the oracle is
// the frame that went in. Between them no stretch of the payload may be seen, and of damaged
// packets nothing may be delivered. Loss, reordering and a real TCP are not here: the simulator and
// tests/netns have them.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "path_test_support.hh"

namespace psp::datapath::test {
namespace {

TcpSpec random_spec() {
  TcpSpec spec;
  spec.family = *rc::gen::element(4u, 6u);
  spec.reserved = *rc::gen::arbitrary<bool>();
  spec.tcp_options = 4 * *rc::gen::inRange<std::size_t>(0, 11);
  const std::size_t most = 65535 - (headers_length(spec) - kIpAt);
  spec.payload = *rc::gen::oneOf(rc::gen::inRange<std::size_t>(0, 3000),
                                 rc::gen::inRange<std::size_t>(0, most + 1));
  const std::size_t mss = *rc::gen::inRange<std::size_t>(500, 9001);
  if (spec.payload > mss) spec.gso_size = mss;
  spec.complete_checksum = spec.gso_size == 0 && *rc::gen::arbitrary<bool>();
  spec.flags = kTcpAck;
  for (const std::uint8_t flag : {kTcpPsh, kTcpFin, kTcpCwr, std::uint8_t{0x40}})
    if (*rc::gen::arbitrary<bool>()) spec.flags |= flag;
  spec.sequence = *rc::gen::arbitrary<std::uint32_t>();
  spec.ack = *rc::gen::arbitrary<std::uint32_t>();
  spec.seed = *rc::gen::inRange(1u, 1000u);
  return spec;
}

void check_sealed(const std::vector<Octets>& frames, const TcpSpec& spec, std::size_t mtu) {
  for (const auto& frame : frames)
    for (const auto& packet : split_superframe(frame)) {
      RC_ASSERT(packet.size() <= mtu);
      RC_ASSERT(packet[0] == (spec.family == 4 ? 0x45 : (packet[0] & 0x6f)));
    }
}

RC_GTEST_PROP(Path, TheReceiverGetsTheSendersStream, ()) {
  const auto version = static_cast<Version>(*rc::gen::inRange(0, 4));
  const std::uint32_t mtu = *rc::gen::inRange(576u, 9001u);
  TxOptions options{.mtu = mtu};
  options.uso = *rc::gen::arbitrary<bool>();
  Rig rig(version, options);
  const TcpSpec spec = random_spec();
  rig.send(spec);
  check_sealed(rig.sealed.frames, spec, mtu);
  const Octets payload = pattern(spec.payload, spec.seed);
  if (encrypts(version) && spec.payload >= 16)
    for (const auto& frame : rig.sealed.frames) {
      const Octets window(payload.begin(),
                          payload.begin() + std::min<long>(static_cast<long>(payload.size()), 48));
      RC_ASSERT(!has_window_of(frame, window));
    }

  rig.deliver();
  Octets got;
  for (std::size_t i = 0; i < rig.opened.frames.size(); ++i) {
    const auto opened = read_opened(rig.opened.frames[i]);
    RC_ASSERT(opened.sequence == spec.sequence + static_cast<std::uint32_t>(got.size()));
    RC_ASSERT(wire::load_be<std::uint32_t>(opened.tcp.data() + kTcpAckAt) == spec.ack);
    RC_ASSERT(Octets(opened.tcp.begin() + 20, opened.tcp.end()) == pattern(spec.tcp_options, 99));
    std::uint8_t flags = spec.flags;
    if (i != 0) flags &= static_cast<std::uint8_t>(~kTcpCwr);
    if (i + 1 != rig.opened.frames.size()) flags &= static_cast<std::uint8_t>(~(kTcpPsh | kTcpFin));
    RC_ASSERT(opened.flags == flags);
    got.insert(got.end(), opened.payload.begin(), opened.payload.end());
  }
  RC_ASSERT(got == payload);
  RC_ASSERT(rig.opened.frames.size() <= 2u);
  RC_ASSERT(!testing::Test::HasFailure());
}

RC_GTEST_PROP(Path, ManyFramesOfManyFlowsKeepTheirOrder, ()) {
  Rig rig(Version::kAesGcm128);
  std::vector<std::uint32_t> next(3, 0xffff'0000u);
  std::vector<Octets> sent(3);
  for (int i = 0; i < 12; ++i) {
    TcpSpec spec = random_spec();
    const auto flow = *rc::gen::inRange<std::size_t>(0, 3);
    spec.family = flow == 2 ? 6 : 4;
    spec.payload = std::min<std::size_t>(spec.payload, 60000);
    spec.source_port = static_cast<std::uint16_t>(flow);
    spec.sequence = next[flow];
    spec.handle = rig.handle;
    next[flow] += static_cast<std::uint32_t>(spec.payload);
    const Octets payload = pattern(spec.payload, spec.seed);
    sent[flow].insert(sent[flow].end(), payload.begin(), payload.end());
    rig.send_raw(build_frame(spec));
    if (*rc::gen::arbitrary<bool>()) rig.tx.flush();
  }
  rig.tx.flush();
  rig.deliver();
  std::vector<Octets> got(3);
  for (const auto& frame : rig.opened.frames) {
    const auto opened = read_opened(frame);
    Octets& stream = got.at(wire::load_be<std::uint16_t>(opened.tcp.data()));
    RC_ASSERT(opened.sequence == 0xffff'0000u + static_cast<std::uint32_t>(stream.size()));
    stream.insert(stream.end(), opened.payload.begin(), opened.payload.end());
  }
  RC_ASSERT(got == sent);
  RC_ASSERT(!testing::Test::HasFailure());
}

RC_GTEST_PROP(Path, DamageIsNeverDelivered, ()) {
  Rig rig(static_cast<Version>(*rc::gen::inRange(0, 4)));
  TcpSpec spec = random_spec();
  spec.payload = std::min<std::size_t>(spec.payload, 20000);
  rig.send(spec);
  const Octets payload = pattern(spec.payload, spec.seed);
  for (auto& frame : rig.sealed.frames) {
    const std::size_t headers = kIpAt + (spec.family == 4 ? 20 : 40) + kUdpHeader;
    const auto at = *rc::gen::inRange<std::size_t>(headers, frame.size());
    frame[at] ^= static_cast<std::uint8_t>(*rc::gen::inRange(1, 256));
  }
  rig.deliver();
  for (const auto& frame : rig.opened.frames) {
    const auto opened = read_opened(frame);
    const std::size_t at = opened.sequence - spec.sequence;
    RC_ASSERT(at + opened.payload.size() <= payload.size());
    RC_ASSERT(std::equal(opened.payload.begin(), opened.payload.end(),
                         payload.begin() + static_cast<long>(at)));
  }
}

}  // namespace
}  // namespace psp::datapath::test
