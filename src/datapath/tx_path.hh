// SPDX-License-Identifier: Apache-2.0
//
// From the stack to the wire: a clear TCP frame, usually a TSO packet of up to 64 KB, is cut into
// segments, each is sealed, and they leave as one UDP superframe that the kernel or the NIC cuts
// again (USO).
//
//   read    [vnet | Ethernet | IP (MSS reservation) | TCP | payload .................. ]
//   seal    each segment's TCP header is written into the frame just before its payload, over
//           octets of the previous segment that are sealed already: no copy of the payload
//   write   [vnet | Ethernet | IP | UDP | PSP TCP' payload' ICV | PSP TCP' payload' ICV | ...]
//
// A superframe stays open for more segments of the same flow until flush(), so that 64 KB of clear
// text do not become one big and one tiny write.
//
// Threading: one TxPath belongs to one worker thread; set_mtu may be called from any thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>

#include "device/engine.hh"

#include "frame.hh"
#include "siphash.hh"

namespace psp::datapath {

// TxOptions are the same for all workers of a device, so that a connection keeps its source port.
struct TxOptions {
  SipKey port_key{};                 // secret of the process for the choice of source ports
  std::uint16_t port_first = 32768;  // net.ipv4.ip_local_port_range
  std::uint16_t port_last = 60999;
  bool udp_checksum = true;  // false: 0 where the kernel does not need one (single frames)
  bool uso = true;           // false: the TAP takes no UDP superframes
  std::uint32_t mtu = 1500;  // of the netdev; set_mtu changes it
};

class TxPath {
 public:
  // `engine` and `sink` outlive the TxPath.
  TxPath(device::Engine& engine, Sink& sink, const TxOptions& options);

  // process seals one frame as read from the TAP, or passes on what must stay in clear. The frame
  // is used as scratch space. Finished superframes go to the sink, the last one possibly only at
  // flush(). Every frame that does not make it is counted: TX_BAD_PACKET, TX_NO_ASSOC (also: no
  // clear boundary yet), TX_TOO_BIG, TX_WRITE.
  void process(std::span<std::uint8_t> frame);

  // flush writes what is held back. To be called before the worker sleeps.
  void flush();

  // set_mtu: no sealed packet is longer, IP header included. Thread: any.
  void set_mtu(std::uint32_t mtu) { mtu_.store(mtu, std::memory_order_relaxed); }

 private:
  // Superframe is what stands in output_: `count` datagrams (UDP payloads) from kDatagramsAt on,
  // all `datagram` octets long, only the last may be shorter.
  struct Superframe {
    std::array<std::uint8_t, kEthHeader> ethernet;
    std::array<std::uint8_t, kMaxIpHeader> ip;
    wire::IpHeader ip_info;
    std::uint16_t source_port = 0;
    std::size_t datagram = 0;
    std::size_t count = 0;
    std::size_t limit = 0;  // of count
    std::size_t octets = 0;
    bool complete = false;  // nothing can follow
  };

  void seal(std::span<std::uint8_t> frame, const TcpFrame& tcp, const device::TxSession& session);
  void span(std::span<std::uint8_t> frame, const TcpFrame& tcp, const device::TxSession& session);
  void write_clear(std::span<std::uint8_t> frame, const TcpFrame& tcp, std::size_t length,
                   std::uint8_t flags);
  std::size_t segment_size(const TcpFrame& tcp) const;
  void join_flow(std::span<const std::uint8_t> frame, const TcpFrame& tcp);
  std::uint8_t* append(std::size_t size);
  bool write_datagrams(std::uint8_t* first, std::size_t size, std::size_t count);
  std::uint16_t source_port(std::span<const std::uint8_t> frame, const TcpFrame& tcp) const;
  void drop(Drop reason, std::size_t packets);
  void refuse(Drop reason, std::span<const std::uint8_t> frame);
  void log_packet(Drop reason, std::span<const std::uint8_t> frame);

  device::Engine& engine_;
  Sink& sink_;
  const TxOptions options_;
  std::atomic<std::uint32_t> mtu_;
  PacketBuffer output_;
  Superframe open_;
};

}  // namespace psp::datapath
