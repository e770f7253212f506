// SPDX-License-Identifier: Apache-2.0
//
// Segmentation and sealing, frame by frame: what comes out is taken apart, opened by a second
// device and compared with what went in. Superframes are cut as the kernel's UDP segmentation would
// cut them. Of a sealed frame no stretch of its clear text may be found in what was written; of one
// that spans the boundary, the octets in clear are counted to the last. Random frames:
// path_property_test.cc. Not here: whether the tag was right, which is for the BPF programs' tests.
#include "tx_path.hh"

#include "path_test_support.hh"

namespace psp::datapath::test {
namespace {

TEST(TxPath, KeepsTheHeadersOfWhatItCannotSend) {
  for (const unsigned family : {4u, 6u}) {
    Rig rig;
    const Octets frame = build_frame({.family = family, .payload = 500, .handle = 0x0500'0005});
    rig.send_raw(frame);
    const auto packets = rig.sender.driver.packets();
    ASSERT_EQ(packets.size(), 1u);
    EXPECT_EQ(packets[0].reason, Drop::TX_NO_ASSOC);
    EXPECT_EQ(packets[0].path, device::PacketPath::kTransmit);
    EXPECT_EQ(packets[0].length, frame.size() - kIpAt);
    const std::size_t headers = frame.size() - kIpAt - 500;
    EXPECT_EQ(packets[0].octets,
              Octets(frame.begin() + kIpAt, frame.begin() + static_cast<long>(kIpAt + headers)))
        << "and nothing of what is in clear behind them";
  }
}

TEST(TxPath, SealsASingleSegmentAsAPlainFrame) {
  for (const unsigned family : {4u, 6u})
    for (unsigned version = 0; version < kVersions; ++version) {
      Rig rig(static_cast<Version>(version));
      const TcpSpec spec{.family = family, .payload = 1000};
      rig.send(spec);
      ASSERT_EQ(rig.sealed.frames.size(), 1u);
      const Octets& frame = rig.sealed.frames[0];
      EXPECT_EQ(load_vnet(frame.data()).gso_type, kGsoNone);
      EXPECT_EQ(load_tag(frame.data()).kind, PSP_FRAME_TO_WIRE_SEALED);
      EXPECT_EQ(frame[kEthAt], 0xd0) << "the next hop's address stays";
      const auto segments = open_segments(rig.sealed.frames, *rig.receiver.engine);
      ASSERT_EQ(segments.size(), 1u);
      EXPECT_EQ(segments[0].payload, pattern(1000));
      EXPECT_TRUE(segments[0].checksum_ok);
      const auto stats = rig.sender.driver.get_stats();
      EXPECT_EQ(stats.tx_packets, 1u);
      EXPECT_EQ(stats.tx_bytes, 1032u);
      EXPECT_EQ(stats.tx_error, 0u);
    }
}

TEST(TxPath, KeepsTheIpHeaderButForLengthAndProtocol) {
  Rig rig;
  rig.send({.payload = 10});
  const auto packet = split_superframe(rig.sealed.frames.at(0)).at(0);
  EXPECT_EQ(packet[0], 0x45) << "the MSS reservation is gone";
  EXPECT_EQ(packet[1], 0xb9);
  EXPECT_EQ(wire::load_be<std::uint16_t>(packet.data() + 4), 0x4711);
  EXPECT_EQ(packet[6], 0x40);
  EXPECT_EQ(packet[8], 61);

  rig.sealed.frames.clear();
  rig.send({.family = 6, .payload = 10});
  const auto packet6 = split_superframe(rig.sealed.frames.at(0)).at(0);
  EXPECT_EQ(wire::load_be<std::uint32_t>(packet6.data()), 0x6b9a'bcdeu);
  EXPECT_EQ(packet6[7], 61);
}

TEST(TxPath, CutsATsoPacketIntoDatagramsOfEqualSize) {
  Rig rig;
  rig.send(
      {.payload = 44 * 1408, .gso_size = 1408, .flags = kTcpAck | kTcpPsh | kTcpFin | kTcpCwr});
  ASSERT_EQ(rig.sealed.frames.size(), 1u);
  EXPECT_EQ(load_vnet(rig.sealed.frames[0].data()).gso_size, 1408 + 32 + 32);
  const auto segments = open_segments(rig.sealed.frames, *rig.receiver.engine);
  ASSERT_EQ(segments.size(), 44u);
  std::uint32_t sequence = TcpSpec{}.sequence;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    EXPECT_EQ(segments[i].sequence, sequence);
    EXPECT_EQ(segments[i].packet_size, 1500u);
    EXPECT_TRUE(segments[i].checksum_ok);
    EXPECT_EQ((segments[i].flags & kTcpCwr) != 0, i == 0) << i;
    EXPECT_EQ((segments[i].flags & (kTcpPsh | kTcpFin)) != 0, i == 43) << i;
    EXPECT_EQ(segments[i].iv, segments[0].iv + i);
    sequence += 1408;
  }
  EXPECT_EQ(payload_of(segments), pattern(44 * 1408));
}

TEST(TxPath, CarriesWhatDoesNotFitOverToTheNextSuperframe) {
  Rig rig;
  for (unsigned i = 0; i < 44; ++i) {
    TcpSpec spec{.payload = 45 * 1408, .gso_size = 1408, .handle = rig.handle};
    spec.sequence = i * 45 * 1408;
    rig.send_raw(build_frame(spec));
  }
  rig.tx.flush();
  EXPECT_EQ(rig.sealed.frames.size(), 45u) << "45 full superframes, not 44 full and 44 tiny ones";
  const auto segments = open_segments(rig.sealed.frames, *rig.receiver.engine);
  ASSERT_EQ(segments.size(), 44u * 45u);
  for (std::size_t i = 0; i < segments.size(); ++i) EXPECT_EQ(segments[i].sequence, i * 1408);
}

TEST(TxPath, DoesNotJoinDifferentConnections) {
  Rig rig;
  for (std::uint16_t port = 1; port <= 3; ++port)
    rig.send_raw(build_frame(
        {.payload = 2 * 1408, .gso_size = 1408, .handle = rig.handle, .source_port = port}));
  rig.tx.flush();
  ASSERT_EQ(rig.sealed.frames.size(), 3u);
}

TEST(TxPath, LowersTheSegmentSizeItselfWithoutReservation) {
  Rig rig;
  rig.send({.payload = 20 * 1448, .gso_size = 1448, .reserved = false});
  const auto segments = open_segments(rig.sealed.frames, *rig.receiver.engine);
  ASSERT_EQ(segments.size(), 21u);
  for (const auto& segment : segments) EXPECT_LE(segment.packet_size, 1500u);
  EXPECT_EQ(payload_of(segments), pattern(20 * 1448));
}

TEST(TxPath, LeavesRoomForPspBelowAPathMtuThatIsNotTheDevices) {
  Rig rig;
  rig.send({.payload = 9600, .gso_size = 1000, .reserved = false});
  const auto segments = open_segments(rig.sealed.frames, *rig.receiver.engine);
  ASSERT_EQ(segments.size(), 10u);
  EXPECT_EQ(segments[0].payload.size(), 960u);
}

TEST(TxPath, StaysBelowTheLimitOfAnIpLengthAtTheEdge) {
  // 62 datagrams of 1057 octets are 65534: they would fit but for the headers.
  Rig rig;
  rig.send({.payload = 62 * 993, .gso_size = 993});
  ASSERT_EQ(rig.sealed.frames.size(), 2u);
  EXPECT_EQ(open_segments(rig.sealed.frames, *rig.receiver.engine).size(), 62u);
}

TEST(TxPath, DoesNotJoinPacketsWithDifferentIpHeaders) {
  Rig rig;
  const Octets first = build_frame({.payload = 2000, .gso_size = 1000, .handle = rig.handle});
  Octets second = first;
  second[kIpAt + 1] ^= 0x20;  // another traffic class
  rig.send_raw(first);
  rig.send_raw(second);
  rig.tx.flush();
  ASSERT_EQ(rig.sealed.frames.size(), 2u);
  EXPECT_NE(rig.sealed.frames[0][kIpAt + 1], rig.sealed.frames[1][kIpAt + 1]);
}

TEST(TxPath, CutsAFullSegmentInTwo) {
  Rig rig;
  rig.send({.payload = 1448, .reserved = false, .flags = kTcpAck | kTcpPsh});
  const auto segments = open_segments(rig.sealed.frames, *rig.receiver.engine);
  ASSERT_EQ(segments.size(), 2u);
  EXPECT_EQ(segments[0].payload.size(), 724u);
  EXPECT_EQ(segments[0].flags, kTcpAck);
  EXPECT_EQ(segments[1].flags, kTcpAck | kTcpPsh);
  EXPECT_EQ(payload_of(segments), pattern(1448));
}

TEST(TxPath, CutsASegmentThatFillsAPathBelowTheMtu) {
  Rig rig;
  Octets frame = build_frame({.payload = 1348, .reserved = false, .handle = rig.handle});
  frame[kTagAt + 1] = PSP_FRAME_F_CUT;
  rig.send_raw(std::move(frame));
  rig.tx.flush();
  const auto segments = open_segments(rig.sealed.frames, *rig.receiver.engine);
  ASSERT_EQ(segments.size(), 2u);
  EXPECT_EQ(segments[0].payload.size(), 674u);
}

TEST(TxPath, FollowsTheMtu) {
  Rig rig;
  rig.tx.set_mtu(9000);
  rig.send({.payload = 8908});
  EXPECT_EQ(open_segments(rig.sealed.frames, *rig.receiver.engine).size(), 1u);
  rig.sealed.frames.clear();
  rig.tx.set_mtu(1500);
  rig.send({.payload = 8908, .gso_size = 8908});
  const auto segments = open_segments(rig.sealed.frames, *rig.receiver.engine);
  EXPECT_EQ(segments.size(), 7u);
  for (const auto& segment : segments) EXPECT_LE(segment.packet_size, 1500u);
}

TEST(TxPath, DropsWhatCannotFitTheMtu) {
  Rig rig;
  rig.tx.set_mtu(20 + 40 + 32);
  rig.send({.payload = 1});
  EXPECT_TRUE(rig.sealed.frames.empty());
  EXPECT_EQ(rig.sender.drops(Drop::TX_TOO_BIG), 1u);
  rig.send({.payload = 0});
  EXPECT_EQ(rig.sealed.frames.size(), 1u) << "an ACK fits";
}

TEST(TxPath, RedoesACompleteChecksum) {
  Rig rig;
  rig.send({.payload = 333, .complete_checksum = true});
  EXPECT_TRUE(open_segments(rig.sealed.frames, *rig.receiver.engine).at(0).checksum_ok);
}

TEST(TxPath, MovesTheUrgentPointerAlong) {
  Rig rig;
  rig.tx.set_mtu(20 + 40 + 32 + 5);
  rig.send({.payload = 15, .flags = kTcpAck | kTcpUrg});  // urgent octet ends at 7
  const auto segments = open_segments(rig.sealed.frames, *rig.receiver.engine);
  ASSERT_EQ(segments.size(), 3u);
  const auto urgent = [&](std::size_t i) {
    return wire::load_be<std::uint16_t>(segments[i].tcp.data() + kTcpUrgentAt);
  };
  EXPECT_EQ(urgent(0), 7);
  EXPECT_EQ(urgent(1), 2);
  EXPECT_TRUE(segments[1].flags & kTcpUrg);
  EXPECT_FALSE(segments[2].flags & kTcpUrg);
  for (const auto& segment : segments) EXPECT_TRUE(segment.checksum_ok);
}

TEST(TxPath, LeavesTheUdpChecksumOutOfSingleFramesOnDemand) {
  Rig rig(Version::kAesGcm128, {.udp_checksum = false});
  rig.send({.payload = 10});
  EXPECT_EQ(load_vnet(rig.sealed.frames.at(0).data()).flags, 0);
  split_superframe(rig.sealed.frames[0]);  // expects checksum 0 then
  rig.send({.payload = 2000, .gso_size = 1000});
  EXPECT_EQ(load_vnet(rig.sealed.frames.at(1).data()).flags, kVnetNeedsCsum);
}

TEST(TxPath, WritesOneByOneWithoutUso) {
  Rig rig(Version::kAesGcm256, {.uso = false});
  rig.send({.family = 6, .payload = 10000, .gso_size = 1408});
  EXPECT_EQ(rig.sealed.frames.size(), 8u);
  const auto segments = open_segments(rig.sealed.frames, *rig.receiver.engine);
  EXPECT_EQ(payload_of(segments), pattern(10000));
}

TEST(TxPath, KeepsTheSourcePortOfAConnectionInRange) {
  Rig rig(Version::kAesGcm128, {.port_key = {1, 2}, .port_first = 50000, .port_last = 50009});
  std::vector<std::uint16_t> ports;
  for (std::uint16_t port = 0; port < 200; ++port) {
    for (int twice = 0; twice < 2; ++twice) rig.send({.payload = 10, .source_port = port});
    const auto at = [&](std::size_t i) {
      return wire::load_be<std::uint16_t>(rig.sealed.frames.at(i).data() + kIpAt + kIpv4Header);
    };
    EXPECT_EQ(at(port * 2u), at(port * 2u + 1u));
    ports.push_back(at(port * 2u));
  }
  EXPECT_EQ(std::ranges::min(ports), 50000);
  EXPECT_EQ(std::ranges::max(ports), 50009);
}

TEST(TxPath, TakesThePortRangeOfOnePort) {
  Rig rig(Version::kAesGcm128, {.port_first = 65535, .port_last = 65535});
  rig.send({});
  EXPECT_EQ(wire::load_be<std::uint16_t>(rig.sealed.frames.at(0).data() + kIpAt + 20), 65535);
}

TEST(TxPath, DropsFramesWithoutAssociation) {
  Rig rig;
  rig.send_raw(build_frame({.handle = rig.handle + 1}));
  rig.send_raw(build_frame({.handle = 0}));
  rig.send_raw(build_frame({.handle = 0xffff'ffffu}));
  EXPECT_EQ(rig.sender.drops(Drop::TX_NO_ASSOC), 3u);
  rig.sender.driver.tx_key_del(rig.handle);
  rig.send({});
  EXPECT_EQ(rig.sender.drops(Drop::TX_NO_ASSOC), 4u);
  rig.tx.flush();
  EXPECT_TRUE(rig.sealed.frames.empty());
}

TEST(TxPath, CountsWhatTheKernelDoesNotTake) {
  Rig rig;
  rig.sealed.refuse = true;
  rig.send({.payload = 5 * 1000, .gso_size = 1000});
  EXPECT_EQ(rig.sender.drops(Drop::TX_WRITE), 5u);
  EXPECT_EQ(rig.sender.driver.get_stats().tx_packets, 0u);
  rig.sealed.refuse = false;
  rig.send({.payload = 5 * 1000, .gso_size = 1000});
  EXPECT_EQ(rig.sender.driver.get_stats().tx_packets, 5u);
}

TEST(TxPath, NeverWritesClearTextOfASealedFrame) {
  for (const Version version : {Version::kAesGcm128, Version::kAesGcm256})
    for (const unsigned family : {4u, 6u})
      for (const bool refuse : {false, true}) {
        Rig rig(version);
        for (std::size_t payload : {16u, 100u, 1448u, 5000u}) {
          rig.sealed.refuse = refuse;
          rig.send({.family = family, .payload = payload, .reserved = false});
          rig.send({.family = family, .payload = payload, .gso_size = 536});
          rig.sealed.refuse = false;
          rig.send({.family = family, .payload = 16});
          for (const auto& frame : rig.sealed.frames)
            EXPECT_FALSE(has_window_of(frame, pattern(payload)));
        }
      }
}

TEST(TxPathSpan, CutsAtTheClearBoundaryWhereverItLies) {
  constexpr std::size_t kPayload = 60;
  for (const unsigned family : {4u, 6u})
    for (std::size_t cut = 0; cut <= kPayload; ++cut) {
      Rig rig;
      const TcpSpec spec{.family = family,
                         .payload = kPayload,
                         .flags = kTcpAck | kTcpPsh | kTcpFin,
                         .sequence = 0xffff'ffe0u,
                         .kind = PSP_FRAME_SPAN};
      rig.sender.driver.set_clear_boundary(rig.handle,
                                           spec.sequence + static_cast<std::uint32_t>(cut));
      rig.send(spec);
      if (cut == 0) {
        EXPECT_TRUE(rig.sealed.frames.empty());
        EXPECT_EQ(rig.sender.drops(Drop::TX_BAD_PACKET), 1u);
        continue;
      }
      ASSERT_EQ(rig.sealed.frames.size(), 2u) << cut;
      EXPECT_EQ(load_tag(rig.sealed.frames[0].data()).kind, PSP_FRAME_TO_WIRE_CLEAR);
      const auto clear = read_opened(rig.sealed.frames[0]);
      const Octets all = pattern(kPayload);
      EXPECT_EQ(clear.payload, Octets(all.begin(), all.begin() + static_cast<long>(cut)));
      EXPECT_EQ(clear.flags, kTcpAck | kTcpPsh) << "the FIN belongs to the rest";
      EXPECT_EQ(clear.sequence, spec.sequence);
      EXPECT_EQ(load_tag(rig.sealed.frames[1].data()).kind, PSP_FRAME_TO_WIRE_SEALED);
      const auto sealed = open_segments({rig.sealed.frames[1]}, *rig.receiver.engine);
      ASSERT_EQ(sealed.size(), 1u);
      EXPECT_EQ(sealed[0].payload, Octets(all.begin() + static_cast<long>(cut), all.end()));
      EXPECT_EQ(sealed[0].flags, spec.flags);
      EXPECT_EQ(sealed[0].sequence, spec.sequence + static_cast<std::uint32_t>(cut));
      EXPECT_TRUE(sealed[0].checksum_ok);
    }
}

TEST(TxPathSpan, SendsOnlyWhatWasInClearAgainAndAsItWas) {
  for (const unsigned family : {4u, 6u}) {
    Rig rig;
    const TcpSpec spec{.family = family,
                       .payload = 60,
                       .flags = kTcpAck | kTcpPsh | kTcpFin,
                       .kind = PSP_FRAME_SPAN};
    rig.sender.driver.set_clear_boundary(rig.handle, spec.sequence + 20);
    Octets frame = build_frame(spec);
    store_tag(frame.data(),
              {PSP_FRAME_SPAN, PSP_FRAME_F_MSS_RESERVED | PSP_FRAME_F_AGAIN, rig.handle});
    rig.tx.process(frame);
    rig.tx.flush();
    ASSERT_EQ(rig.sealed.frames.size(), 1u);
    const auto clear = read_opened(rig.sealed.frames[0]);
    EXPECT_EQ(load_tag(rig.sealed.frames[0].data()).kind, PSP_FRAME_TO_WIRE_CLEAR);
    EXPECT_EQ(clear.payload.size(), 20u);
    EXPECT_EQ(clear.flags, kTcpAck | kTcpPsh);
  }
}

TEST(TxPathSpan, CutsInsideATsoPacket) {
  Rig rig;
  const TcpSpec spec{
      .payload = 30000, .gso_size = 1408, .flags = kTcpAck | kTcpCwr, .kind = PSP_FRAME_SPAN};
  rig.sender.driver.set_clear_boundary(rig.handle, spec.sequence + 5000);
  rig.send(spec);
  ASSERT_EQ(rig.sealed.frames.size(), 2u);
  const auto clear = read_opened(rig.sealed.frames[0]);
  EXPECT_EQ(clear.payload.size(), 5000u);
  EXPECT_EQ(clear.vnet.gso_size, 1408);
  EXPECT_EQ(clear.flags, kTcpAck | kTcpCwr);
  const auto sealed = open_segments({rig.sealed.frames[1]}, *rig.receiver.engine);
  const Octets all = pattern(30000);
  EXPECT_EQ(payload_of(sealed), Octets(all.begin() + 5000, all.end()));
  EXPECT_EQ(sealed[0].flags, kTcpAck) << "CWR went with the first segment";
}

TEST(TxPathSpan, DropsWithoutBoundaryInside) {
  Rig rig;
  rig.send({.kind = PSP_FRAME_SPAN});
  EXPECT_EQ(rig.sender.drops(Drop::TX_NO_ASSOC), 1u) << "no boundary known";
  const TcpSpec spec{.kind = PSP_FRAME_SPAN};
  for (const std::uint32_t boundary :
       {spec.sequence - 1, spec.sequence + 100, spec.sequence + 101}) {
    rig.sender.driver.set_clear_boundary(rig.handle, boundary);
    rig.send(spec);
  }
  EXPECT_EQ(rig.sender.drops(Drop::TX_BAD_PACKET), 3u);
  EXPECT_TRUE(rig.sealed.frames.empty());
}

TEST(TxPathClear, PassesOnWithoutTheReservation) {
  for (const unsigned family : {4u, 6u})
    for (const std::size_t gso_size : {0u, 700u})
      for (const bool reserved : {false, true}) {
        Rig rig;
        rig.send_raw(build_frame({.family = family,
                                  .payload = 1400,
                                  .gso_size = gso_size,
                                  .reserved = reserved,
                                  .flags = kTcpAck | kTcpPsh | kTcpFin,
                                  .kind = PSP_FRAME_CLEAR}));
        ASSERT_EQ(rig.sealed.frames.size(), 1u);
        const auto clear = read_opened(rig.sealed.frames[0]);
        EXPECT_EQ(clear.tag.kind, PSP_FRAME_TO_WIRE_CLEAR);
        EXPECT_EQ(clear.payload, pattern(1400));
        EXPECT_EQ(clear.ip.header_length, family == 4 ? 20 : 40);
        EXPECT_EQ(clear.vnet.gso_size, gso_size);
        EXPECT_EQ(clear.flags, kTcpAck | kTcpPsh | kTcpFin);
      }
}

}  // namespace
}  // namespace psp::datapath::test
