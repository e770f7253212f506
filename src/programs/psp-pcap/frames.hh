// SPDX-License-Identifier: Apache-2.0
//
// One frame of a capture: what it is, opened or sealed. Shared by all commands, so that what check
// and explain say is what decrypt does.
//
// A Frame is spans into the batch that it came in, and lives as long as that. Nothing of a capture
// is believed: lengths are looked at before they are used, and what cannot be read says why.
//
// Threading: look() any; an Opener, a Joined and a Sealer have one user each, but for what Sealer
// says.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "crypto/seal.hh"
#include "pcap/link.hh"
#include "pcap/record.hh"

#include "capture_keys.hh"

namespace psp::pcap_tool {

// Frame is a packet record looked at up to the PSP header.
struct Frame {
  enum class What : std::uint8_t {
    kNotIp,
    kUnknown,  // not understood: `note` says why
    kBroken,   // IP, but not a packet that can be read; `drop` and `note` say why
    kOther,    // IP, but not PSP
    kPsp,      // UDP to port 1000; `drop` is set if it is not a good PSP packet
  };
  What what = What::kNotIp;
  std::optional<Drop> drop = {};
  std::string_view note = {};  // instead of the text of the drop reason
  pcap::LinkHeader link;
  std::span<const std::uint8_t> octets;  // the whole frame
  std::span<const std::uint8_t> packet;  // from the IP header on
  wire::IpHeader ip;
  wire::PspPacket psp;  // kPsp without drop
  // Of a packet that is several datagrams: which of how many this is.
  std::size_t part = 0, parts = 1;

  std::string_view why() const { return !note.empty() ? note : drop ? text(*drop) : ""; }
};

// look reads the frame of a packet record, as far as `reach` says.
Frame look(const pcap::Record& record, std::span<const std::uint8_t> octets, pcap::Reach reach);

// destination_of is the destination address of an IP packet that look has read.
pcap::IpHost destination_of(const Frame& frame);

// Joined is a PSP packet of the capture that is several datagrams of the wire, because the host
// that captured it leaves segmentation to its network card, or joins what it receives.
class Joined {
 public:
  // find says if the frame looks like that. It is used by datagram().
  bool find(const Frame& frame);
  std::size_t parts() const { return parts_; }
  // datagram is a frame of its own, as it was on the wire but for the UDP checksum. Valid until the
  // next call, and as long as the frame that was found.
  Frame datagram(std::size_t part);

 private:
  Frame whole_;
  std::span<const std::uint8_t> payload_;
  std::size_t stride_ = 0, parts_ = 0;
  pcap::Buffer packet_;
};

// Opener opens PSP packets with the keys that there are.
class Opener {
 public:
  Opener(CaptureKeys& keys, crypto::EcnAtExit ecn) : keys_(keys), ecn_(ecn) {}

  struct Opened {
    std::optional<Drop> drop = {};  // nothing: opened
    std::string_view note = {};
    bool no_key = false;      // `drop` is only for want of a key
    bool authentic = false;   // the ICV is right, whatever `drop` says
    std::uint32_t entry = 0;  // of the key, if authentic
    std::size_t size = 0;     // of the clear IP packet
  };
  // open writes the clear IP packet to `out`, which has room for frame.packet.size() octets.
  Opened open(const Frame& frame, std::span<std::uint8_t> out);
  // open_each opens a kPsp frame or, if it is joined, each of its datagrams: take(frame, opened).
  // What is authentic as a whole is one datagram, whatever it looks like. `room` gives where to
  // write the next one, as for open.
  template <typename Room, typename Take>
  void open_each(const Frame& frame, Room room, Take take) {
    const Opened whole = open(frame, room());
    const bool failed = whole.no_key || (!whole.authentic && whole.drop == Drop::AUTH_FAIL);
    if (!failed || !joined_.find(frame)) return take(frame, whole);
    for (std::size_t part = 0; part < joined_.parts(); ++part) {
      const Frame one = joined_.datagram(part);
      take(one, open(one, room()));
    }
  }

 private:
  Joined joined_;
  CaptureKeys& keys_;
  crypto::EcnAtExit ecn_;
};

// Sealer seals packets as the options or a configuration file say. In two steps: lay_out takes
// packets in their order, since each gets the next IV; what remains needs the key and no order.
// Thread: one user, but for complete().
class Sealer {
 public:
  // Errors: no key for that SPI and version.
  static std::expected<Sealer, std::string> make(
      const Options& options, const std::optional<pcap::Configuration::Sealing>& sealing,
      CaptureKeys& keys);

  // Remains is what lay_out leaves to complete. Offsets count from the IP headers.
  struct Remains {
    std::uint32_t psp_at = 0;       // in the PSP packet
    std::uint32_t header_size = 0;  // of the PSP header
    std::uint32_t inner_at = 0;     // in the clear packet
    std::uint32_t inner_size = 0;
  };
  struct Sealed {
    bool skipped = false;  // not sealed, and nothing is wrong with that
    std::optional<Drop> drop = {};
    std::string_view note = {};
    std::size_t size = 0;
    std::uint8_t family = 4;  // of the outer header
    Remains remains = {};
  };
  // lay_out writes the PSP packet for frame.packet to `out`, which has room for kMost octets more:
  // all but payload and ICV.
  Sealed lay_out(const Frame& frame, std::span<std::uint8_t> out);
  // complete writes payload and ICV of a packet that is laid out at `out`. Thread: any, with an
  // AEAD of its own (make_aead).
  void complete(crypto::Aead& aead, const Remains& remains, std::span<const std::uint8_t> packet,
                std::uint8_t* out) const;
  // seal does both.
  Sealed seal(const Frame& frame, std::span<std::uint8_t> out);
  std::unique_ptr<crypto::Aead> make_aead(CaptureKeys& keys) const;
  // kMost is the most octets that a packet gains.
  static constexpr std::size_t kMost = kTransportOverhead + kVirtualizationCookie + kIpv6Header;

 private:
  Sealer() = default;
  std::expected<wire::PspPacket, Drop> write_headers(const Frame& frame,
                                                     std::span<std::uint8_t> out,
                                                     std::uint8_t& family) const;
  std::optional<Sealed> refuse_as_reference(const Frame& frame) const;

  bool reference_ = false;
  bool tunnel_ = false;
  wire::EncapOptions options_;
  CryptOffset transport_offset_, ipv4_offset_, ipv6_offset_;
  std::optional<std::uint16_t> source_port_;
  wire::TunnelPolicy policy_;
  std::unique_ptr<crypto::Aead> aead_;
};

}  // namespace psp::pcap_tool
