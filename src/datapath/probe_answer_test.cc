// SPDX-License-Identifier: Apache-2.0
//
// What a stranger gets who sends probes: an answer that is never longer than the request, and not
// too many. Probes go through RxPath, as they would come from the wire; the answer is taken apart
// with the parsers of wire. The limits are shown by a clock that the test moves. That two hosts
// cannot be made to answer each other, nor to answer everybody, is shown frame by frame. From the
// asker's side: the tests of pspctl doctor.
#include "wire/probe.hh"

#include "path_test_support.hh"

namespace psp::datapath::test {
namespace {

std::uint64_t now_ms = 1;
std::uint64_t clock_ms() { return now_ms; }

// Request is what makes a probe on the wire.
struct Request {
  unsigned family = 4;
  std::size_t size = wire::kProbeSize;  // UDP payload
  std::uint16_t wanted = wire::kProbeSize;
  bool answer = false;
  std::uint8_t asker = 7;  // last octet of the address; IPv6: of the /64
};

Octets frame_of(const Request& request) {
  const std::size_t header = request.family == 4 ? kIpv4Header : kIpv6Header;
  Octets frame(kIpAt + header + kUdpHeader + request.size);
  for (std::uint8_t i = 0; i < 12; ++i) frame[kEthAt + i] = static_cast<std::uint8_t>(0x20 + 2 * i);
  wire::store_be(frame.data() + kEthertypeAt,
                 request.family == 4 ? kEthertypeIpv4 : kEthertypeIpv6);
  std::uint8_t* ip = frame.data() + kIpAt;
  ip[0] = request.family == 4 ? 0x45 : 0x60;
  if (request.family == 4) {
    const std::array<std::uint8_t, 8> addresses{10, 1, 2, request.asker, 10, 1, 2, 4};
    std::ranges::copy(addresses, ip + 12);
  } else {
    ip[8] = ip[24] = 0xfd;
    ip[15] = request.asker;
    ip[23] = 1;
    ip[39] = 2;
  }
  wire::set_ip_payload({ip, header},
                       {.family = static_cast<std::uint8_t>(request.family),
                        .header_length = static_cast<std::uint16_t>(header)},
                       kUdpHeader + request.size, wire::kProtocolUdp);
  std::uint8_t* udp = ip + header;
  wire::store_be<std::uint16_t>(udp, 40123);
  wire::store_be<std::uint16_t>(udp + 2, kUdpPort);
  wire::store_be(udp + 4, static_cast<std::uint16_t>(kUdpHeader + request.size));
  wire::write_probe({udp + kUdpHeader, request.size},
                    {.answer = request.answer, .wanted = request.wanted, .nonce = {1, 2, 3}});
  return frame;
}

struct ProbeRig : Rig {
  void ask(const Request& request) { rx.process(frame_of(request)); }
  std::uint64_t refused() const { return receiver.drops(Drop::PROBE_REFUSED); }
};

TEST(ProbeAnswer, GoesBackWithWhatArrived) {
  for (const unsigned family : {4u, 6u}) {
    ProbeRig rig;
    rig.rx.set_mtu(1450);
    const Octets asked = frame_of({.family = family, .size = 1000, .wanted = 700});
    rig.rx.process(asked);
    ASSERT_EQ(rig.opened.frames.size(), 1u);
    const Octets& frame = rig.opened.frames[0];
    EXPECT_EQ(load_tag(frame.data()).kind, PSP_FRAME_TO_WIRE_SEALED);
    EXPECT_TRUE(
        std::equal(frame.begin() + kEthAt, frame.begin() + kEthAt + 6, asked.begin() + kEthAt + 6))
        << "to whom it came from";
    const std::span packet(frame.data() + kIpAt, frame.size() - kIpAt);
    const auto ip = wire::parse_ip(packet);
    ASSERT_TRUE(ip);
    EXPECT_EQ(ip->total_length, packet.size());
    const std::size_t size = family == 4 ? 4 : 16, source = family == 4 ? 12 : 8;
    const std::uint8_t* before = asked.data() + kIpAt;
    EXPECT_TRUE(std::equal(before + source, before + source + size, packet.data() + source + size));
    EXPECT_TRUE(
        std::equal(packet.data() + source, packet.data() + source + size, before + source + size));
    const auto udp = packet.subspan(ip->header_length);
    EXPECT_EQ(wire::load_be<std::uint16_t>(udp.data()), 40123);
    EXPECT_EQ(wire::load_be<std::uint16_t>(udp.data() + 2), kUdpPort);
    const std::uint64_t sum = wire::pseudo_header_sum(packet, family, wire::kProtocolUdp,
                                                      static_cast<std::uint32_t>(udp.size()));
    EXPECT_EQ(wire::checksum_fold(wire::checksum_add(sum, udp)), 0xffff);
    const auto probe = wire::parse_probe(udp.subspan(kUdpHeader));
    ASSERT_TRUE(probe);
    EXPECT_TRUE(probe->answer);
    EXPECT_EQ(udp.size() - kUdpHeader, 700u);
    EXPECT_EQ(probe->received, 1000);
    EXPECT_EQ(probe->nonce[2], 3);
    EXPECT_EQ(probe->enabled, VersionSet::all());
    EXPECT_EQ(probe->mtu, 1450u);
    EXPECT_EQ(probe->source[15], family == 4 ? 7 : 1);
    EXPECT_EQ(probe->destination[10], family == 4 ? 0xff : 0);
    EXPECT_EQ(rig.receiver.drops(Drop::PROBE), 1u);
    EXPECT_TRUE(rig.receiver.driver.packets().empty());
  }
}

TEST(ProbeAnswer, IsNeverLongerThanTheRequestOrTheMtu) {
  for (const auto& [size, wanted, mtu, answer] :
       {std::tuple(std::size_t{200}, 1472, 1500u, std::size_t{200}),
        {1472, 0, 1500u, 128},
        {1472, 65535, 1500u, 1472},
        {1472, 1472, 1400u, 1372},
        {128, 65535, 9000u, 128}}) {
    ProbeRig rig;
    rig.rx.set_mtu(mtu);
    rig.ask({.size = size, .wanted = static_cast<std::uint16_t>(wanted)});
    ASSERT_EQ(rig.opened.frames.size(), 1u);
    EXPECT_EQ(rig.opened.frames[0].size(), kIpAt + kIpv4Header + kUdpHeader + answer);
  }
}

TEST(ProbeAnswer, IsNotAnsweredAgain) {
  ProbeRig rig;
  rig.ask({.answer = true});
  EXPECT_TRUE(rig.opened.frames.empty()) << "two hosts would never end";
  EXPECT_EQ(rig.receiver.drops(Drop::PROBE), 1u);
}

TEST(ProbeAnswer, IsForPlainPacketsOfOneHostToAnother) {
  const std::size_t ip = kIpAt, v4_source = ip + 12, v4_destination = ip + 16;
  using Change = std::pair<std::size_t, std::uint8_t>;
  for (const auto& changes :
       std::vector<std::vector<Change>>{{{v4_source, 224}},
                                        {{v4_source, 127}},
                                        {{v4_source, 0}},
                                        {{v4_source, 255}},
                                        {{v4_destination, 239}},
                                        {{kEthAt, 0xff}},
                                        {{kEthAt + 6, 0x01}},
                                        {{v4_source + 3, 4}},  // to itself
                                        {{kIpAt + kIpv4Header + kUdpHeader + 16, 'x'}}}) {
    ProbeRig rig;
    Octets frame = frame_of({});
    for (const auto& [at, value] : changes) frame[at] = value;
    wire::set_ip_payload({frame.data() + kIpAt, kIpv4Header}, {.family = 4, .header_length = 20},
                         kUdpHeader + wire::kProbeSize, wire::kProtocolUdp);
    rig.rx.process(frame);
    EXPECT_TRUE(rig.opened.frames.empty()) << changes[0].first;
    EXPECT_EQ(rig.refused(), 1u) << changes[0].first;
  }
}

TEST(ProbeAnswer, HasALimitForEachAskerAndForAll) {
  CaptureSink sink;
  ProbeAnswerer answerer(clock_ms);
  const auto asked = [&](std::uint8_t asker, unsigned family = 4) {
    const Octets frame = frame_of({.family = family, .asker = asker});
    const std::span packet(frame.data() + kIpAt, frame.size() - kIpAt);
    const auto header = wire::parse_ip(packet).value();
    return !answerer
                .answer({frame.data() + kEthAt,
                         packet.data(),
                         header,
                         packet.subspan(header.header_length + kUdpHeader),
                         {},
                         1500})
                .frame.empty();
  };
  const auto answers = [&](std::uint8_t asker, unsigned requests) {
    unsigned count = 0;
    for (unsigned i = 0; i < requests; ++i) count += asked(asker);
    return count;
  };
  EXPECT_EQ(answers(1, 1000), ProbeAnswerer::kAskerBurst);
  now_ms += 1000;
  EXPECT_EQ(answers(1, 1000), ProbeAnswerer::kAskerRate);
  now_ms += 10'000'000;
  EXPECT_EQ(answers(1, 1000), ProbeAnswerer::kAskerBurst) << "no more for having waited long";
  unsigned all = 0;
  for (unsigned asker = 0; asker < 256; ++asker)
    all += answers(static_cast<std::uint8_t>(asker), 20);
  EXPECT_LE(all, ProbeAnswerer::kBurst);
  EXPECT_GE(all, ProbeAnswerer::kBurst - ProbeAnswerer::kAskerBurst);
  now_ms += 10'000'000;
  EXPECT_TRUE(asked(1, 6));
}

TEST(ProbeAnswer, IsNotForPeersThatAreNotAllowed) {
  Device device;
  CaptureSink sink;
  RxPath rx(*device.engine, sink, {.peers = Peers({Network::parse("10.1.2.8/29").value()})});
  Octets frame = frame_of({});
  rx.process(frame);
  EXPECT_TRUE(sink.frames.empty());
  EXPECT_EQ(device.drops(Drop::PEER_NOT_ALLOWED), 1u);
  rx.process(frame_of({.asker = 9}));
  EXPECT_EQ(sink.frames.size(), 1u);
}

TEST(ProbeAnswer, DoesNotDisturbASegmentThatWaits) {
  ProbeRig rig;
  rig.send({.payload = 3 * 1408, .gso_size = 1408, .flags = kTcpAck});
  for (const auto& frame : rig.sealed.frames) rig.rx.process(frame);
  rig.ask({});
  rig.rx.flush();
  ASSERT_EQ(rig.opened.frames.size(), 2u);
  const auto segment = std::ranges::find_if(rig.opened.frames, [](const Octets& frame) {
    return load_tag(frame.data()).kind != PSP_FRAME_TO_WIRE_SEALED;
  });
  ASSERT_NE(segment, rig.opened.frames.end());
  EXPECT_EQ(read_opened(*segment).payload, pattern(3 * 1408));
}

}  // namespace
}  // namespace psp::datapath::test
