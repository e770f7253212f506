// SPDX-License-Identifier: Apache-2.0
//
// From the wire to the stack: PSP packets, usually many datagrams of one flow still joined in one
// frame, are opened one by one and consecutive TCP segments are written as one TSO packet, the way
// GRO joins them.
//
//   read    [vnet | Ethernet | IP | UDP | PSP seg ICV | PSP seg ICV | ... ]
//   open    each segment is decrypted so that its payload lands just behind the previous one; the
//           octets that its TCP header overwrites are saved before and put back after
//   write   [vnet | Ethernet with tag | IP | TCP | payload payload payload ...]
//
// Segments of several reads are joined too; flush() ends that.
//
// Threading: one RxPath belongs to one worker thread.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include <psp/device/software_driver.hh>

#include "frame.hh"

namespace psp::datapath {

class RxPath {
 public:
  // `engine` and `sink` outlive the RxPath.
  RxPath(device::Engine& engine, Sink& sink);

  // process opens one frame as read from the TAP. What is ready goes to the sink, the last packet
  // possibly only at flush(). Datagrams that do not make it are counted, the ones around them are
  // not touched by it: TRUNCATED, BAD_IP, BAD_LENGTH, FRAGMENT, BAD_INNER, RX_WRITE and what
  // Engine::open returns. The checksum of UDP and of the TCP segment inside are not looked at, the
  // ICV is stronger.
  void process(std::span<const std::uint8_t> frame);

  // flush writes what is held back. To be called before the worker sleeps.
  void flush();

 private:
  // Outer is the frame in process().
  struct Outer {
    const std::uint8_t* ethernet = nullptr;
    const std::uint8_t* ip_octets = nullptr;
    wire::IpHeader ip;
  };
  // Batch is the TCP packet that stands in output_: headers end at kTcpAt, TCP starts there.
  struct Batch {
    bool open = false;
    bool complete = false;  // nothing can follow
    wire::IpHeader ip;
    std::size_t segments = 0;
    std::size_t header_length = 0;  // of TCP
    std::size_t segment_size = 0;   // payload of the first segment
    std::size_t end = 0;            // in output_
    std::uint32_t next_sequence = 0;
    std::uint8_t version = 0;
    std::uint8_t generation = 0;
    Spi spi;
  };

  std::expected<std::span<const std::uint8_t>, Drop> parse(std::span<const std::uint8_t> frame);
  bool same_flow() const;
  void open_datagram(std::span<const std::uint8_t> datagram);
  bool stays(const device::RxMeta& meta, std::span<const std::uint8_t> datagram);
  void keep(std::optional<Drop> reason, std::span<const std::uint8_t> datagram);
  void open_behind(std::span<const std::uint8_t> datagram);
  void open_alone(std::span<const std::uint8_t> datagram);
  bool continues(const std::uint8_t* header, std::size_t size, const device::RxMeta& meta) const;
  void extend(const std::uint8_t* header, std::size_t size);
  void start(std::size_t size, const device::RxMeta& meta);

  device::Engine& engine_;
  Sink& sink_;
  PacketBuffer output_;
  Outer outer_;
  Batch batch_;
};

}  // namespace psp::datapath
