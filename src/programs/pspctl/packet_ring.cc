// SPDX-License-Identifier: Apache-2.0
//
// The ring by TPACKET_V3: the kernel fills blocks of frames and hands each over when it is full or
// some time has passed. The filter is compiled by libpcap for frames without the virtio-net header,
// which the kernel puts before them after it has filtered.
#include "packet_ring.hh"

#include <arpa/inet.h>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fmt/format.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <pcap/pcap.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <thread>
#include <utility>

#include "base/ifreq.hh"
#include "base/socket_options.hh"

namespace psp::ctl {

namespace {

constexpr std::size_t kBlock = std::size_t{1} << 20;  // more than the largest frame
constexpr unsigned kBlockTimeout = 40;                // ms until a block is handed over half full
constexpr int kWholeFrame = 262144;

// VnetHeader is struct virtio_net_hdr, whose Linux header does not compile as C++. Little-endian.
struct VnetHeader {
  std::uint8_t flags, gso_type;
  std::uint16_t header_length, gso_size, checksum_start, checksum_offset;
};
constexpr std::uint8_t kNeedsChecksum = 1, kGsoUdpL4 = 5;

std::unexpected<Failure> failed(const std::string& what) {
  const bool refused = errno == EPERM || errno == EACCES;
  return std::unexpected(Failure{refused ? ExitStatus::kPermission : ExitStatus::kFailed,
                                 fmt::format("capture: {}: {}{}", what, std::strerror(errno),
                                             refused ? " (needs root, or CAP_NET_RAW)" : "")});
}

Outcome<void> set(int fd, int option, const void* value, socklen_t size, const char* what) {
  if (::setsockopt(fd, SOL_PACKET, option, value, size) != 0) return failed(what);
  return {};
}

void read_vnet(const std::uint8_t* at, RingFrame& frame) {
  VnetHeader vnet;
  std::memcpy(&vnet, at, sizeof vnet);
  if (vnet.gso_type == kGsoUdpL4) frame.segment = vnet.gso_size;
  frame.checksum_missing = (vnet.flags & kNeedsChecksum) != 0;
  frame.checksum_start = vnet.checksum_start;
  frame.checksum_offset = vnet.checksum_offset;
}

// status_of is the word by which the kernel and we hand a block to each other.
std::atomic_ref<std::uint32_t> status_of(std::uint8_t* block) {
  return std::atomic_ref(reinterpret_cast<tpacket_block_desc*>(block)->hdr.bh1.block_status);
}

}  // namespace

PacketRing::PacketRing(PacketRing&& other) noexcept
    : fd_(std::move(other.fd_)),
      device_(std::move(other.device_)),
      ring_(std::exchange(other.ring_, nullptr)),
      size_(other.size_),
      blocks_(other.blocks_),
      next_(other.next_),
      counts_(other.counts_) {}

PacketRing::~PacketRing() {
  if (ring_ != nullptr) ::munmap(ring_, size_);
}

Outcome<PacketRing> PacketRing::open(const std::string& device, const std::string& filter,
                                     std::uint32_t mib) {
  PacketRing ring;
  ring.device_ = device;
  ring.fd_ = UniqueFd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!ring.fd_) return failed("packet socket");
  ifreq request = request_for(device);
  const unsigned index = ::if_nametoindex(device.c_str());
  if (index == 0 || ::ioctl(ring.fd_.get(), SIOCGIFHWADDR, &request) != 0)
    return std::unexpected(
        Failure{ExitStatus::kFailed, fmt::format("capture: no netdev \"{}\" here", device)});
  const auto hardware = request.ifr_hwaddr.sa_family;
  if (hardware != ARPHRD_ETHER && hardware != ARPHRD_LOOPBACK)
    return std::unexpected(Failure{ExitStatus::kNotSupported,
                                   fmt::format("capture: {} is no Ethernet device", device)});
  if (auto done = ring.attach_filter(filter); !done) return std::unexpected(done.error());
  if (auto done = ring.map(mib); !done) return std::unexpected(done.error());
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(index);
  if (::bind(ring.fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return failed(device);
  return ring;
}

Outcome<void> PacketRing::attach_filter(const std::string& filter) {
  bpf_program program{};
  pcap_t* compiler = pcap_open_dead(DLT_EN10MB, kWholeFrame);
  const bool good = pcap_compile(compiler, &program, filter.c_str(), 1, PCAP_NETMASK_UNKNOWN) == 0;
  const std::string problem = good ? "" : pcap_geterr(compiler);
  pcap_close(compiler);
  if (!good) return usage_error(fmt::format("--filter: {}", problem));
  static_assert(sizeof(bpf_insn) == sizeof(sock_filter));
  const sock_fprog code{static_cast<unsigned short>(program.bf_len),
                        reinterpret_cast<sock_filter*>(program.bf_insns)};
  const bool done = set_option(fd_.get(), SOL_SOCKET, SO_ATTACH_FILTER, code);
  pcap_freecode(&program);
  if (!done) return failed("filter");
  return {};
}

Outcome<void> PacketRing::map(std::uint32_t mib) {
  const int version = TPACKET_V3, on = 1;
  if (auto ok = set(fd_.get(), PACKET_VERSION, &version, sizeof version, "TPACKET_V3"); !ok)
    return ok;
  if (auto ok = set(fd_.get(), PACKET_VNET_HDR, &on, sizeof on, "PACKET_VNET_HDR"); !ok) return ok;
  blocks_ = std::max<std::size_t>(mib, 2);
  tpacket_req3 request{};
  request.tp_block_size = kBlock;
  request.tp_block_nr = static_cast<unsigned>(blocks_);
  request.tp_frame_size = 2048;  // only has to divide
  request.tp_frame_nr = static_cast<unsigned>(blocks_ * (kBlock / 2048));
  request.tp_retire_blk_tov = kBlockTimeout;
  if (auto ok = set(fd_.get(), PACKET_RX_RING, &request, sizeof request, "ring"); !ok) return ok;
  size_ = blocks_ * kBlock;
  void* at = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (at == MAP_FAILED) return failed("ring");
  ring_ = static_cast<std::uint8_t*>(at);
  return {};
}

void PacketRing::take(const std::function<bool(RingFrame&)>& on_frame) {
  for (std::size_t i = 0; i < blocks_; ++i) {
    std::uint8_t* block = ring_ + next_ * kBlock;
    if ((status_of(block).load(std::memory_order_acquire) & TP_STATUS_USER) == 0) return;
    const bool more = take_block(block, on_frame);
    status_of(block).store(TP_STATUS_KERNEL, std::memory_order_release);
    next_ = (next_ + 1) % blocks_;
    if (!more) return;
  }
}

bool PacketRing::take_block(std::uint8_t* block, const std::function<bool(RingFrame&)>& on_frame) {
  const auto& header = reinterpret_cast<tpacket_block_desc*>(block)->hdr.bh1;
  std::uint8_t* at = block + header.offset_to_first_pkt;
  for (std::uint32_t i = 0; i < header.num_pkts; ++i) {
    const auto* packet = reinterpret_cast<const tpacket3_hdr*>(at);
    const auto* from =
        reinterpret_cast<const sockaddr_ll*>(at + TPACKET_ALIGN(sizeof(tpacket3_hdr)));
    RingFrame frame{.octets = {at + packet->tp_mac, packet->tp_snaplen}, .length = packet->tp_len};
    frame.nanoseconds = packet->tp_sec * std::uint64_t{1'000'000'000} + packet->tp_nsec;
    frame.outgoing = from->sll_pkttype == PACKET_OUTGOING;
    if ((packet->tp_status & TP_STATUS_VLAN_VALID) != 0)
      frame.vlan = static_cast<std::uint16_t>(packet->hv1.tp_vlan_tci);
    read_vnet(at + packet->tp_mac - sizeof(VnetHeader), frame);
    if (!on_frame(frame)) return false;
    at += packet->tp_next_offset;
  }
  return true;
}

void PacketRing::settle() {
  std::this_thread::sleep_for(std::chrono::milliseconds(2 * kBlockTimeout));
}

PacketRing::Counts PacketRing::counts() {
  // Reading sets them back to zero. tp_packets counts dropped ones too.
  if (const auto stats = get_option<tpacket_stats_v3>(fd_.get(), SOL_PACKET, PACKET_STATISTICS)) {
    counts_.received += stats->tp_packets;
    counts_.dropped += stats->tp_drops;
  }
  return counts_;
}

Outcome<void> PacketRing::check() const {
  const int error = get_option<int>(fd_.get(), SOL_SOCKET, SO_ERROR).value_or(0);
  if (error == 0) return {};
  errno = error;
  return failed(device_);
}

}  // namespace psp::ctl
