// SPDX-License-Identifier: Apache-2.0
//
// Frames on the TAP: virtio-net header, Ethernet header (six octets of it are a tag, see
// frame_tag.h), IP packet. What both directions need of them: tags, the parser of clear TCP frames,
// the buffer that holds a frame and the way out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <expected>
#include <memory>
#include <new>
#include <span>
#include <sys/mman.h>
#include <sys/uio.h>

#include "wire/bytes.hh"
#include "wire/drop.hh"
#include "wire/packet.hh"
#include "wire/tcp.hh"

#include "frame_tag.h"
#include "virtio.hh"

namespace psp::datapath {

inline constexpr std::size_t kEthHeader = 14;
inline constexpr std::size_t kEthAt = kVnetHeader;
inline constexpr std::size_t kTagAt = kEthAt + 6;  // the source MAC
inline constexpr std::size_t kEthertypeAt = kEthAt + 12;
inline constexpr std::size_t kIpAt = kEthAt + kEthHeader;
inline constexpr std::uint16_t kEthertypeIpv4 = 0x0800;
inline constexpr std::uint16_t kEthertypeIpv6 = 0x86dd;

inline constexpr std::size_t kMaxIpLength = 65535;  // what the length fields of IP and UDP can say
inline constexpr std::size_t kMaxIpHeader = 60;
// kMaxFrame: an IPv6 length does not count the header itself.
inline constexpr std::size_t kMaxFrame = kIpAt + kIpv6Header + kMaxIpLength;

// kMssReservation: the octets of IP options that pspd sets on a socket so that TCP leaves room for
// the PSP overhead. They never reach the wire.
inline constexpr std::size_t kMssReservation = kTransportOverhead;
static_assert(kMssReservation == 40);

// Sink takes finished frames. Thread: the caller's.
class Sink {
 public:
  virtual ~Sink() = default;
  // write takes one frame, virtio-net header first, or returns false: it is gone then.
  [[nodiscard]] virtual bool write(std::span<const iovec> frame) = 0;
};

// PacketBuffer is memory for frames: allocated once, kept out of core dumps, wiped when dropped.
// Throws std::bad_alloc if there is none.
class PacketBuffer {
 public:
  explicit PacketBuffer(std::size_t size)
      : size_((size + kPage - 1) / kPage * kPage),
        octets_(static_cast<std::uint8_t*>(std::aligned_alloc(kPage, size_))) {
    if (!octets_) throw std::bad_alloc();
    std::memset(octets_.get(), 0, size_);
    madvise(octets_.get(), size_, MADV_DONTDUMP);
  }
  PacketBuffer(PacketBuffer&&) = default;
  ~PacketBuffer() {
    if (!octets_) return;
    explicit_bzero(octets_.get(), size_);
    madvise(octets_.get(), size_, MADV_DODUMP);
  }
  std::uint8_t* data() { return octets_.get(); }
  const std::uint8_t* data() const { return octets_.get(); }
  std::size_t size() const { return size_; }

 private:
  static constexpr std::size_t kPage = 4096;
  struct Free {
    void operator()(std::uint8_t* p) const { std::free(p); }
  };
  std::size_t size_;
  std::unique_ptr<std::uint8_t, Free> octets_;
};

// FrameTag is struct psp_frame_tag with the value in host order.
struct FrameTag {
  std::uint8_t kind = 0;
  std::uint8_t info = 0;  // generation, or PSP_FRAME_F_*
  std::uint32_t value = 0;
};

inline FrameTag load_tag(const std::uint8_t* frame) {
  const std::uint8_t* p = frame + kTagAt;
  return {p[0], p[1], wire::load_be<std::uint32_t>(p + 2)};
}

inline void store_tag(std::uint8_t* frame, const FrameTag& tag) {
  std::uint8_t* p = frame + kTagAt;
  p[0] = tag.kind;
  p[1] = tag.info;
  wire::store_be(p + 2, tag.value);
}

// FrameKind is where a frame read from the TAP belongs.
enum class FrameKind : std::uint8_t {
  kOther,  // nothing that a program of ours sends here
  kRx,     // from the wire: for RxPath
  kTx,     // a tagged TCP segment: for TxPath
};

// classify looks at ethertype, protocol and tag. Fragments count as kRx: psp_ingress takes none,
// but RxPath is for other hosts' hooks, too, and counts them.
FrameKind classify(std::span<const std::uint8_t> frame);

// TcpFrame says where the parts of a clear TCP frame lie. Offsets count from the virtio-net header.
struct TcpFrame {
  VnetHeader vnet;
  wire::IpHeader ip;       // without the MSS reservation: header_length is what goes out
  bool reserved = false;   // TCP has left room for the PSP overhead
  bool cut = false;        // it has not, and this segment fills its MSS
  bool again = false;      // all of it has been sent before
  std::uint8_t flags = 0;  // of TCP
  std::uint32_t sequence = 0;
  std::size_t tcp_at = 0;
  std::size_t tcp_length = 0;  // header with options
  std::size_t payload_at = 0;
  std::size_t payload_length = 0;

  bool is_gso() const { return vnet.gso_type != kGsoNone; }
};

// parse_tcp_frame reads a frame that classify called kTx. Errors: TX_BAD_PACKET (a fragment,
// lengths that do not agree, IPv6 extension headers, a GSO type that is
// not this family's TCP).
std::expected<TcpFrame, Drop> parse_tcp_frame(std::span<const std::uint8_t> frame);

// copy_ip_header writes the IP header of `tcp` without the MSS reservation, tcp.ip.header_length
// octets, to `out`. Length and checksum are left to wire::set_ip_payload.
void copy_ip_header(std::span<const std::uint8_t> frame, const TcpFrame& tcp, std::uint8_t* out);

// same_outer: the two IP headers of a family differ in nothing but length, identification and
// checksum. Both have `header_length` octets.
bool same_outer(const std::uint8_t* a, const std::uint8_t* b, unsigned family,
                std::size_t header_length);

}  // namespace psp::datapath
