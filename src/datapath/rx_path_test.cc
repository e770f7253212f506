// SPDX-License-Identifier: Apache-2.0
//
// Opening and coalescing, frame by frame: what is written to the TAP for what comes from the wire,
// in which order, and what each packet that is not written is counted as. Frames are sealed by a
// second device; what comes out is read as the kernel's TSO would use it. For each rule of GRO two
// segments differ in that one thing. Content that TxPath would never make is sealed by hand. Not
// here: the kernel's own opinion of these frames (tests/netns).
#include "rx_path.hh"

#include "crypto/seal.hh"

#include "path_test_support.hh"

namespace psp::datapath::test {
namespace {

constexpr std::uint16_t kMss = 1408;

TEST(RxPath, JoinsASuperframeIntoOneTsoPacket) {
  for (const unsigned family : {4u, 6u}) {
    Rig rig(Version::kAesGcm256);
    rig.send({.family = family,
              .payload = 40 * kMss + 100,
              .gso_size = kMss,
              .flags = kTcpAck | kTcpPsh | kTcpFin | kTcpCwr});
    rig.deliver();
    ASSERT_EQ(rig.opened.frames.size(), 1u);
    const auto opened = read_opened(rig.opened.frames[0]);
    EXPECT_EQ(opened.payload, pattern(40 * kMss + 100));
    EXPECT_EQ(opened.vnet.gso_size, family == 4 ? kMss : kMss - 20) << "what fits the MTU";
    EXPECT_TRUE(opened.vnet.gso_type & kGsoEcn);
    EXPECT_EQ(opened.flags, kTcpAck | kTcpPsh | kTcpFin | kTcpCwr);
    EXPECT_EQ(opened.sequence, TcpSpec{}.sequence);
    EXPECT_EQ(opened.tag.kind, PSP_FRAME_TO_STACK | 1);
    EXPECT_EQ(opened.tag.info, 0);
    EXPECT_EQ(opened.tag.value, rig.spi.value);
    EXPECT_EQ(opened.ip_octets[family == 4 ? 1 : 0], family == 4 ? 0xb9 : 0x6b);
  }
}

TEST(RxPath, PutsTheSendersAddressIntoTheDestination) {
  Rig rig;
  rig.send({});
  Octets& frame = rig.sealed.frames.at(0);
  for (int i = 0; i < 6; ++i) frame[kTagAt + i] = static_cast<std::uint8_t>(0x40 + i);
  rig.deliver();
  const Octets& opened = rig.opened.frames.at(0);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(opened[kEthAt + i], 0x40 + i);
}

TEST(RxPath, TagsTheGenerationOfTheKey) {
  Rig rig;
  rig.send({});
  rig.receiver.driver.key_rotate(1);
  rig.deliver();
  EXPECT_EQ(load_tag(rig.opened.frames.at(0).data()).info, 0) << "the key before";
  const auto key = rig.receiver.driver.rx_spi_alloc(Version::kAesGcm128).value();
  const auto handle =
      rig.sender.driver.tx_key_add(Version::kAesGcm128, key.spi, key.key.span()).value();
  rig.sealed.frames.clear();
  rig.send_raw(build_frame({.handle = handle}));
  rig.deliver();
  EXPECT_EQ(load_tag(rig.opened.frames.at(1).data()).info, 1);
}

TEST(RxPath, KeepsWhatItDoesNotAcceptAsItWasOnTheWire) {
  Rig rig;
  rig.send({.payload = 3 * kMss, .gso_size = kMss});
  Octets& frame = rig.sealed.frames.at(0);
  frame[frame.size() - kMss - 100] ^= 1;  // in the second of three
  Octets bad = split_superframe(frame).at(1);
  bad[kIpv4Header + kUdpChecksumAt] = bad[kIpv4Header + kUdpChecksumAt + 1] = 0;
  rig.deliver();
  const auto packets = rig.receiver.driver.packets();
  ASSERT_EQ(packets.size(), 1u);
  EXPECT_EQ(packets[0].reason, Drop::AUTH_FAIL);
  EXPECT_EQ(packets[0].path, device::PacketPath::kReceive);
  EXPECT_EQ(packets[0].length, bad.size());
  EXPECT_EQ(packets[0].octets, bad);
}

// with_bits seals the segment of the sealed `frame` again, with these bits in the header.
Octets with_bits(Rig& rig, Octets frame, bool sample, bool drop) {
  const Octets inner = open_segments({frame}, *rig.receiver.engine).at(0).tcp;
  const auto key = rig.receiver.driver.rx_spi_alloc(Version::kAesGcm128).value();
  wire::PspHeader header;
  header.spi = key.spi;
  header.iv = 77;
  header.sample = sample;
  header.drop_after_sampling = drop;
  const auto datagram = std::span(frame).subspan(kIpAt + kIpv4Header + kUdpHeader);
  wire::write_header(datagram, header);
  const auto aead = crypto::openssl_backend().make_aead();
  aead->rekey(Version::kAesGcm128, key.key.span());
  crypto::seal_datagram(*aead, Version::kAesGcm128, datagram, header.size(), inner);
  return frame;
}

TEST(RxPath, SamplesAndDropsAsTheSenderAsks) {
  for (const auto& [sample, drop] : {std::pair{true, false}, {false, true}, {true, true}}) {
    Rig rig;
    rig.send({.payload = 200, .flags = kTcpAck | kTcpPsh});
    Octets& frame = rig.sealed.frames.at(0);
    frame = with_bits(rig, frame, sample, drop);
    rig.deliver();
    EXPECT_EQ(rig.opened.frames.size(), drop ? 0u : 1u);
    EXPECT_EQ(rig.receiver.drops(Drop::SAMPLED), drop ? 1u : 0u);
    const auto packets = rig.receiver.driver.packets();
    ASSERT_EQ(packets.size(), sample ? 1u : 0u);
    if (!sample) continue;
    EXPECT_FALSE(packets[0].reason);
    EXPECT_EQ(packets[0].length, frame.size() - kIpAt);
  }
}

TEST(RxPath, JoinsSegmentsThatCameOneByOne) {
  Rig rig(Version::kAesGcm128, {.uso = false});
  rig.send({.payload = 10 * kMss, .gso_size = kMss});
  ASSERT_EQ(rig.sealed.frames.size(), 10u);
  rig.deliver();
  ASSERT_EQ(rig.opened.frames.size(), 1u);
  EXPECT_EQ(read_opened(rig.opened.frames[0]).payload, pattern(10 * kMss));
}

TEST(RxPath, DoesNotHoldBackPushedDataOrAcks) {
  Rig rig;
  rig.send({.payload = 500, .flags = kTcpAck | kTcpPsh});
  rig.send({.payload = 0});
  rig.rx.process(rig.sealed.frames.at(0));
  EXPECT_EQ(rig.opened.frames.size(), 1u);
  rig.rx.process(rig.sealed.frames.at(1));
  EXPECT_EQ(rig.opened.frames.size(), 2u);
}

TEST(RxPath, HandsBulkToTheStackFourPacketsAtATime) {
  Rig rig;
  TcpSpec spec{.payload = 12 * kMss, .gso_size = kMss, .flags = kTcpAck | kTcpPsh};
  for (unsigned i = 0; i < 6; ++i) {
    spec.seed = i;
    rig.send(spec);
    spec.sequence += 12 * kMss;
  }
  std::vector<std::size_t> seen;
  for (const auto& frame : rig.sealed.frames) {
    rig.rx.process(frame);
    seen.push_back(rig.opened.frames.size());
  }
  EXPECT_EQ(seen, (std::vector<std::size_t>{0, 0, 0, 4, 4, 4}));
  rig.rx.flush();
  ASSERT_EQ(rig.opened.frames.size(), 6u);
  for (unsigned i = 0; i < 6; ++i)
    EXPECT_EQ(read_opened(rig.opened.frames[i]).payload, pattern(12 * kMss, i));
}

TEST(RxPath, BulkThatWaitsGoesBeforeWhatDoesNot) {
  Rig rig;
  rig.send({.payload = 12 * kMss, .gso_size = kMss, .flags = kTcpAck | kTcpPsh});
  rig.send({.payload = 500, .flags = kTcpAck | kTcpPsh, .source_port = 50000});
  rig.rx.process(rig.sealed.frames.at(0));
  EXPECT_TRUE(rig.opened.frames.empty());
  rig.rx.process(rig.sealed.frames.at(1));
  ASSERT_EQ(rig.opened.frames.size(), 2u);
  EXPECT_EQ(read_opened(rig.opened.frames[0]).payload.size(), 12 * kMss);
  EXPECT_EQ(read_opened(rig.opened.frames[1]).payload.size(), 500u);
}

TEST(RxPath, CountsEverySegmentOfThePacketsThatCouldNotBeWritten) {
  Rig rig;
  rig.send({.payload = 12 * kMss, .gso_size = kMss, .flags = kTcpAck | kTcpPsh});
  rig.send({.payload = 500, .flags = kTcpAck | kTcpPsh, .source_port = 50000});
  rig.opened.refuse = true;
  for (const auto& frame : rig.sealed.frames) rig.rx.process(frame);
  EXPECT_EQ(rig.receiver.drops(Drop::RX_WRITE), 13u);
}

TEST(RxPath, ASmallPacketWaitsForNothingEvenIfItCameInSegments) {
  Rig rig;
  rig.send({.payload = 3 * kMss, .gso_size = kMss, .flags = kTcpAck | kTcpPsh});
  rig.rx.process(rig.sealed.frames.at(0));
  EXPECT_EQ(rig.opened.frames.size(), 1u);
}

TEST(RxPath, NeverExceedsWhatAnIpLengthCanSay) {
  Rig rig;
  TcpSpec spec{.payload = 44 * kMss, .gso_size = kMss};
  for (int i = 0; i < 4; ++i) {
    rig.send(spec);
    spec.sequence += 44 * kMss;
  }
  rig.deliver();
  std::uint32_t total = 0;
  for (const auto& frame : rig.opened.frames) {
    const auto opened = read_opened(frame);
    EXPECT_LE(opened.ip.total_length, 65535u);
    EXPECT_EQ(opened.sequence, TcpSpec{}.sequence + total);
    total += static_cast<std::uint32_t>(opened.payload.size());
  }
  EXPECT_EQ(total, 4u * 44 * kMss);
  EXPECT_EQ(rig.opened.frames.size(), 4u);
}

// Two segments in a row that differ in one thing; how many packets reach the stack?
std::size_t packets_for(TcpSpec first, TcpSpec second) {
  Rig rig(Version::kAesGcm128, {.uso = false});
  rig.send(first);
  rig.send(second);
  rig.deliver();
  Octets both = pattern(first.payload, first.seed);
  const Octets rest = pattern(second.payload, second.seed);
  both.insert(both.end(), rest.begin(), rest.end());
  Octets got;
  for (const auto& frame : rig.opened.frames) {
    const auto opened = read_opened(frame);
    got.insert(got.end(), opened.payload.begin(), opened.payload.end());
  }
  EXPECT_EQ(got, both);
  return rig.opened.frames.size();
}

TEST(RxPath, JoinsByTheRulesOfGro) {
  const TcpSpec first{.payload = 200, .seed = 1};
  TcpSpec second = first;
  second.sequence += 200;
  second.seed = 2;
  const auto with = [&](auto change) {
    TcpSpec changed = second;
    change(changed);
    return packets_for(first, changed);
  };
  EXPECT_EQ(with([](TcpSpec&) {}), 1u);
  EXPECT_EQ(with([](TcpSpec& s) { s.payload = 199; }), 1u);
  EXPECT_EQ(with([](TcpSpec& s) { s.flags |= kTcpPsh | kTcpFin; }), 1u);
  EXPECT_EQ(with([](TcpSpec& s) { s.payload = 201; }), 2u);
  EXPECT_EQ(with([](TcpSpec& s) { s.payload = 0; }), 2u);
  EXPECT_EQ(with([](TcpSpec& s) { s.sequence += 1; }), 2u);
  EXPECT_EQ(with([](TcpSpec& s) { s.sequence -= 1; }), 2u);
  EXPECT_EQ(with([](TcpSpec& s) { s.ack += 1; }), 2u);
  EXPECT_EQ(with([](TcpSpec& s) { s.source_port += 1; }), 2u);
  EXPECT_EQ(with([](TcpSpec& s) { s.tcp_options = 16; }), 2u);
  EXPECT_EQ(with([](TcpSpec& s) { s.tcp_options = 8; }), 2u);
  EXPECT_EQ(with([](TcpSpec& s) { s.flags |= kTcpCwr; }), 2u);
  EXPECT_EQ(with([](TcpSpec& s) { s.flags |= kTcpUrg; }), 2u);
  EXPECT_EQ(with([](TcpSpec& s) { s.flags |= kTcpRst; }), 2u);
  EXPECT_EQ(with([](TcpSpec& s) { s.flags |= 0x40; }), 2u) << "ECE";
  EXPECT_EQ(with([](TcpSpec& s) { s.family = 6; }), 2u);
  TcpSpec pushed = first;
  pushed.flags |= kTcpPsh;
  EXPECT_EQ(packets_for(pushed, second), 2u);
}

TEST(RxPath, EndsAPacketWithItsFirstShortSegment) {
  Rig rig(Version::kAesGcm128, {.uso = false});
  TcpSpec spec{.payload = 200};
  for (const std::size_t payload : {200u, 150u, 150u, 150u}) {
    spec.payload = payload;
    rig.send(spec);
    spec.sequence += static_cast<std::uint32_t>(payload);
  }
  rig.deliver();
  ASSERT_EQ(rig.opened.frames.size(), 2u);
  EXPECT_EQ(read_opened(rig.opened.frames[0]).payload.size(), 350u);
  EXPECT_EQ(read_opened(rig.opened.frames[1]).payload.size(), 300u);
}

// join makes one frame of two IPv4 ones of equal size, as GRO does.
Octets join(const Octets& first, const Octets& second) {
  constexpr std::size_t kPayloadAt = kIpAt + kIpv4Header + kUdpHeader;
  Octets frame = first;
  frame.insert(frame.end(), second.begin() + kPayloadAt, second.end());
  const std::size_t payload = frame.size() - kPayloadAt;
  wire::set_ip_payload(std::span(frame).subspan(kIpAt), {.family = 4, .header_length = kIpv4Header},
                       kUdpHeader + payload, wire::kProtocolUdp);
  wire::store_be(frame.data() + kPayloadAt - 4, static_cast<std::uint16_t>(kUdpHeader + payload));
  VnetHeader vnet = load_vnet(first.data());
  vnet.gso_type = kGsoUdpL4;
  vnet.gso_size = static_cast<std::uint16_t>(first.size() - kPayloadAt);
  store_vnet(frame.data(), vnet);
  return frame;
}

TEST(RxPath, EndsAPacketWithAPushInsideAJoinedFrame) {
  for (const bool push : {false, true}) {
    Rig rig;
    TcpSpec spec{.payload = 200};
    if (push) spec.flags |= kTcpPsh;
    rig.send(spec);
    spec.sequence += 200;
    rig.send(spec);
    rig.rx.process(join(rig.sealed.frames.at(0), rig.sealed.frames.at(1)));
    rig.rx.flush();
    EXPECT_EQ(rig.opened.frames.size(), push ? 2u : 1u);
  }
}

TEST(RxPath, JoinsEvenTheSmallestSegments) {
  for (std::size_t payload = 1; payload <= 70; ++payload)
    for (const std::size_t options : {0u, 12u, 40u}) {
      Rig rig;
      rig.send({.payload = 20 * payload, .gso_size = payload, .tcp_options = options});
      rig.deliver();
      ASSERT_EQ(rig.opened.frames.size(), 1u);
      const auto opened = read_opened(rig.opened.frames[0]);
      EXPECT_EQ(opened.payload, pattern(20 * payload));
      EXPECT_EQ(opened.sequence, TcpSpec{}.sequence);
      EXPECT_EQ(Octets(opened.tcp.begin() + 20, opened.tcp.end()), pattern(options, 99));
    }
}

TEST(RxPath, LosesOnlyTheDatagramThatWasDamaged) {
  for (std::size_t victim = 0; victim < 8; ++victim) {
    Rig rig;
    rig.send({.payload = 8 * kMss, .gso_size = kMss});
    Octets& frame = rig.sealed.frames.at(0);
    const std::size_t stride = load_vnet(frame.data()).gso_size;
    frame[kIpAt + kIpv4Header + kUdpHeader + victim * stride + 700] ^= 1;
    rig.deliver();
    EXPECT_EQ(rig.receiver.drops(Drop::AUTH_FAIL), 1u);
    EXPECT_EQ(rig.receiver.drops(Drop::BAD_INNER), 0u);
    Octets expected = pattern(8 * kMss);
    Octets got(expected.size());
    std::fill_n(expected.begin() + static_cast<long>(victim * kMss), kMss, std::uint8_t{0});
    for (const auto& opened_frame : rig.opened.frames) {
      const auto opened = read_opened(opened_frame);
      std::ranges::copy(opened.payload,
                        got.begin() + static_cast<long>(opened.sequence - TcpSpec{}.sequence));
    }
    EXPECT_EQ(got, expected) << victim;
    EXPECT_LE(rig.opened.frames.size(), 2u);
  }
}

TEST(RxPath, CountsPacketsThatAreNotWhole) {
  Rig rig;
  rig.send({.payload = 50});
  const Octets good = rig.sealed.frames.at(0);
  const auto drop_of = [&](auto change, Drop reason) {
    Octets frame = good;
    change(frame);
    const auto before = rig.receiver.drops(reason);
    rig.rx.process(frame);
    return rig.receiver.drops(reason) - before;
  };
  const auto fix_checksum = [](Octets& f) {
    wire::store_be<std::uint16_t>(f.data() + kIpAt + 10, 0);
    const auto sum =
        wire::checksum_fold(wire::checksum_add(0, std::span(f).subspan(kIpAt, kIpv4Header)));
    wire::store_be(f.data() + kIpAt + 10, static_cast<std::uint16_t>(~sum));
  };
  constexpr std::size_t kUdpAt = kIpAt + kIpv4Header;
  EXPECT_EQ(drop_of([](Octets& f) { f.resize(20); }, Drop::TRUNCATED), 1u);
  EXPECT_EQ(drop_of([](Octets& f) { f.resize(60); }, Drop::BAD_LENGTH), 1u);
  EXPECT_EQ(drop_of([](Octets& f) { f[kEthertypeAt] = 0x81; }, Drop::BAD_IP), 1u);
  EXPECT_EQ(drop_of([](Octets& f) { f[kIpAt + 8] ^= 1; }, Drop::BAD_IP), 1u) << "checksum";
  EXPECT_EQ(drop_of([](Octets& f) { f[kIpAt + 6] = 0x20; }, Drop::FRAGMENT), 1u);
  EXPECT_EQ(drop_of([](Octets& f) { f[kUdpAt + 3] ^= 1; }, Drop::BAD_IP), 1u) << "port";
  EXPECT_EQ(drop_of([](Octets& f) { f[kUdpAt + 5] ^= 1; }, Drop::BAD_LENGTH), 1u);
  EXPECT_EQ(drop_of([](Octets& f) { f[kUdpAt + 8 + 3] &= 0xfe; }, Drop::BAD_HEADER), 1u);
  EXPECT_EQ(drop_of(
                [&](Octets& f) {  // nothing behind UDP
                  f.resize(kUdpAt + kUdpHeader);
                  wire::store_be<std::uint16_t>(f.data() + kIpAt + 2, 28);
                  wire::store_be<std::uint16_t>(f.data() + kUdpAt + 4, 8);
                  fix_checksum(f);
                },
                Drop::TRUNCATED),
            1u);
  rig.rx.flush();
  EXPECT_TRUE(rig.opened.frames.empty());
  EXPECT_EQ(drop_of([](Octets& f) { f.resize(f.size() + 5); }, Drop::BAD_LENGTH), 0u);
  rig.rx.flush();
  EXPECT_EQ(rig.opened.frames.size(), 1u) << "Ethernet padding is not part of the packet";
}

// seal_inner is a PSP frame of that content, also of content that TxPath would not make.
Octets seal_inner(Rig& rig, std::uint8_t next_header, const Octets& inner,
                  std::optional<std::uint64_t> cookie = std::nullopt, std::uint8_t ext = 1) {
  wire::PspHeader header;
  header.next_header = next_header;
  header.ext_length = ext;
  header.cookie = cookie;
  header.spi = rig.spi;
  header.iv = rig.sender.engine->reserve_ivs(1);
  const std::size_t size = header.size() + inner.size() + kIcv;
  Octets frame = build_frame({.payload = size, .reserved = false, .tcp_options = 0});
  Octets packet(frame.begin() + kIpAt, frame.begin() + kIpAt + kIpv4Header);
  packet.resize(kIpv4Header + kUdpHeader + size);
  const wire::IpHeader ip{.family = 4, .header_length = kIpv4Header};
  wire::set_ip_payload(packet, ip, kUdpHeader + size, wire::kProtocolUdp);
  std::uint8_t* udp = packet.data() + kIpv4Header;
  wire::store_be<std::uint16_t>(udp + 2, 1000);
  wire::store_be(udp + 4, static_cast<std::uint16_t>(kUdpHeader + size));
  const std::span datagram(udp + kUdpHeader, size);
  wire::write_header(datagram, header);
  const auto session = rig.sender.engine->tx_begin(rig.handle);
  crypto::seal_datagram(*session->aead, session->version, datagram, header.size(), inner);
  frame.resize(kIpAt);
  frame.insert(frame.end(), packet.begin(), packet.end());
  store_vnet(frame.data(), {});
  return frame;
}

// tcp_segment is a bare TCP segment of 20 octets of header.
Octets tcp_segment(std::uint32_t sequence, std::size_t payload, unsigned seed) {
  Octets segment(kMinTcpHeader);
  wire::store_be(segment.data() + kTcpSeqAt, sequence);
  segment[kTcpOffsetAt] = 0x50;
  segment[kTcpFlagsAt] = kTcpAck;
  const Octets octets = pattern(payload, seed);
  segment.insert(segment.end(), octets.begin(), octets.end());
  return segment;
}

TEST(RxPath, RefusesWhatIsNotATcpSegmentInside) {
  for (const bool behind : {false, true}) {
    Rig rig;
    const auto refused = [&](std::uint8_t next_header, const Octets& inner) {
      if (behind) rig.rx.process(seal_inner(rig, 6, tcp_segment(1, 100, 1)));
      const auto before = rig.receiver.drops(Drop::BAD_INNER);
      rig.rx.process(seal_inner(rig, next_header, inner));
      rig.rx.flush();
      return rig.receiver.drops(Drop::BAD_INNER) - before;
    };
    Octets segment = tcp_segment(101, 50, 2);
    EXPECT_EQ(refused(6, segment), 0u);
    EXPECT_EQ(refused(17, segment), 1u);
    EXPECT_EQ(refused(4, segment), 1u);
    segment[kTcpOffsetAt] = 0x40;
    EXPECT_EQ(refused(6, segment), 1u) << "header of 16";
    EXPECT_EQ(refused(6, Octets(19)), 1u);
    EXPECT_EQ(refused(6, Octets()), 1u);
    Octets longer = tcp_segment(101, 20, 2);
    longer[kTcpOffsetAt] = 0xf0;
    EXPECT_EQ(refused(6, longer), 1u) << "header longer than the segment";
    for (const auto& frame : rig.opened.frames) read_opened(frame);
  }
}

TEST(RxPath, TakesCookiesAndExtensionsAway) {
  for (const std::uint8_t ext : {2, 3, 100, 255}) {
    Rig rig;
    rig.rx.process(seal_inner(rig, 6, tcp_segment(1, 100, 1)));
    rig.rx.process(seal_inner(rig, 6, tcp_segment(101, 100, 2), 0x1122334455667788u, ext));
    rig.rx.process(seal_inner(rig, 6, tcp_segment(201, 100, 3)));
    rig.rx.flush();
    Octets got;
    for (const auto& frame : rig.opened.frames) {
      const auto opened = read_opened(frame);
      got.insert(got.end(), opened.payload.begin(), opened.payload.end());
    }
    Octets expected;
    for (unsigned seed = 1; seed <= 3; ++seed) {
      const Octets part = pattern(100, seed);
      expected.insert(expected.end(), part.begin(), part.end());
    }
    EXPECT_EQ(got, expected);
  }
}

TEST(RxPath, KeepsAssociationsApart) {
  Rig rig(Version::kAesGcm128, {.uso = false});
  const auto key = rig.receiver.driver.rx_spi_alloc(Version::kAesGcm128).value();
  const auto other =
      rig.sender.driver.tx_key_add(Version::kAesGcm128, key.spi, key.key.span()).value();
  TcpSpec spec{.payload = 100, .handle = rig.handle};
  rig.send_raw(build_frame(spec));
  spec.handle = other;
  spec.sequence += 100;
  rig.send_raw(build_frame(spec));
  rig.deliver();
  ASSERT_EQ(rig.opened.frames.size(), 2u);
  EXPECT_EQ(load_tag(rig.opened.frames[0].data()).value, rig.spi.value);
  EXPECT_EQ(load_tag(rig.opened.frames[1].data()).value, key.spi.value);
}

TEST(RxPath, TakesTheNewestWindow) {
  Rig rig(Version::kAesGcm128, {.uso = false});
  Octets second = tcp_segment(101, 100, 2);
  wire::store_be<std::uint16_t>(second.data() + kTcpWindowAt, 0xabcd);
  rig.rx.process(seal_inner(rig, 6, tcp_segment(1, 100, 1)));
  rig.rx.process(seal_inner(rig, 6, second));
  rig.rx.flush();
  ASSERT_EQ(rig.opened.frames.size(), 1u);
  EXPECT_EQ(
      wire::load_be<std::uint16_t>(read_opened(rig.opened.frames[0]).tcp.data() + kTcpWindowAt),
      0xabcd);
}

TEST(RxPath, CountsWhatTheKernelDoesNotTake) {
  Rig rig;
  rig.send({.payload = 5 * kMss, .gso_size = kMss});
  rig.opened.refuse = true;
  rig.deliver();
  EXPECT_EQ(rig.receiver.drops(Drop::RX_WRITE), 5u);
}

}  // namespace
}  // namespace psp::datapath::test
