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
// Segments of several reads are joined too, and bulk packets wait until four are there or the
// worker has read all there is: the program that reads from the socket is woken less often. flush()
// ends all waiting.
//
// Threading: one RxPath belongs to one worker thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <sys/uio.h>
#include <vector>

#include "device/engine.hh"

#include "frame.hh"
#include "peers.hh"
#include "probe_answer.hh"

namespace psp::datapath {

struct RxOptions {
  std::uint32_t mtu = 1500;  // of the netdev
  Peers peers;
};

class RxPath {
 public:
  // `engine` and `sink` outlive the RxPath.
  RxPath(device::Engine& engine, Sink& sink, RxOptions options = {});

  // process opens one frame as read from the TAP. Packets go to the sink in the order in which they
  // came, the last kPackets of them possibly only at flush(). Datagrams that do not make it are
  // counted, the ones around them are not touched by it: TRUNCATED, BAD_IP, BAD_LENGTH, FRAGMENT,
  // BAD_INNER, RX_WRITE, PEER_NOT_ALLOWED and what Engine::open returns. Probes are answered. The
  // checksum of UDP and of the TCP segment inside are not looked at, the ICV is stronger.
  void process(std::span<const std::uint8_t> frame);

  // set_mtu takes effect with the next frame. Thread: any.
  void set_mtu(std::uint32_t mtu) { mtu_.store(mtu, std::memory_order_relaxed); }

  // flush writes what is held back. To be called before the worker sleeps.
  void flush();

 private:
  // kPackets: what is written in one go. Twice as many gained nothing, and more leave the cache.
  static constexpr std::size_t kPackets = 4;

  // Outer is the frame in process().
  struct Outer {
    const std::uint8_t* ethernet = nullptr;
    const std::uint8_t* ip_octets = nullptr;
    wire::IpHeader ip;
  };
  // Packet is a finished one, in its buffer.
  struct Packet {
    iovec frame;
    std::size_t segments;
  };
  // Batch is the TCP packet that grows in output(): headers end at kTcpAt, TCP starts there.
  struct Batch {
    bool open = false;
    bool complete = false;  // nothing can follow
    wire::IpHeader ip;
    std::size_t segments = 0;
    std::size_t header_length = 0;  // of TCP
    std::size_t segment_size = 0;   // payload of the first segment
    std::size_t end = 0;            // in output()
    std::uint32_t next_sequence = 0;
    std::uint8_t version = 0;
    std::uint8_t generation = 0;
    Spi spi;
  };

  std::expected<std::span<const std::uint8_t>, Drop> parse(std::span<const std::uint8_t> frame);
  bool same_flow() const;
  void open_datagram(std::span<const std::uint8_t> datagram);
  void answer_probe(std::span<const std::uint8_t> datagram);
  bool may_deliver(const device::RxMeta& meta, std::span<const std::uint8_t> datagram);
  void log_packet(std::optional<Drop> reason, std::span<const std::uint8_t> datagram);
  void open_behind(std::span<const std::uint8_t> datagram);
  void open_alone(std::span<const std::uint8_t> datagram);
  bool continues(const std::uint8_t* header, std::size_t size, const device::RxMeta& meta) const;
  void extend(const std::uint8_t* header, std::size_t size);
  void start(std::size_t size, const device::RxMeta& meta);
  void finish();
  void write();
  std::uint8_t* output() { return outputs_[finished_].data(); }
  const std::uint8_t* output() const { return outputs_[finished_].data(); }

  device::Engine& engine_;
  Sink& sink_;
  const Peers peers_;
  std::atomic<std::uint32_t> mtu_;
  ProbeAnswerer answerer_;
  std::vector<PacketBuffer> outputs_;       // kPackets
  std::array<Packet, kPackets> packets_{};  // those in the first finished_ buffers
  std::size_t finished_ = 0;                // less than kPackets
  Outer outer_;
  Batch batch_;
};

}  // namespace psp::datapath
