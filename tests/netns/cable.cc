// SPDX-License-Identifier: Apache-2.0
//
// A thread, poll, and a packet socket at each end. It reads frames with their virtio-net header and
// takes superframes apart as a NIC would, so that a test sees the packets of the wire. What a test
// puts on the wire itself goes by the same sockets, so it comes in the order that the test has.
#include "cable.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <span>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "wire/bytes.hh"
#include "wire/packet.hh"

namespace psp::lab {
namespace {

// VnetHeader is struct virtio_net_hdr, whose Linux header does not compile as C++.
struct VnetHeader {
  std::uint8_t flags, gso_type;
  std::uint16_t hdr_len, gso_size, csum_start, csum_offset;  // little-endian
};
constexpr std::uint8_t kGsoNone = 0, kGsoUdpL4 = 5, kGsoEcn = 0x80;
constexpr std::size_t kVnet = sizeof(VnetHeader);
constexpr std::size_t kEthernet = 14;
constexpr std::size_t kFrameMax = kVnet + kEthernet + 40 + 65535;
constexpr int kSocketBuffer = 32 * 1024 * 1024;

void set_option(int fd, int level, int option, int value) {
  if (::setsockopt(fd, level, option, &value, sizeof value) != 0) throw failure("setsockopt");
}

UniqueFd open_end(const Netns& netns, const std::string& device) {
  const InNetns inside(netns);
  UniqueFd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) throw failure("packet socket");
  (void)set_option(fd.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
  (void)set_option(fd.get(), SOL_PACKET, PACKET_VNET_HDR, 1);
  (void)set_option(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, kSocketBuffer);
  (void)set_option(fd.get(), SOL_SOCKET, SO_SNDBUFFORCE, kSocketBuffer);
  sockaddr_ll where{};
  where.sll_family = AF_PACKET;
  where.sll_protocol = htons(ETH_P_ALL);
  where.sll_ifindex = static_cast<int>(::if_nametoindex(device.c_str()));
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&where), sizeof where) != 0)
    throw failure("bind to " + device);
  return fd;
}

// wire_packets is what a frame is on the wire: the packets of a UDP GSO frame one by one; a TCP GSO
// frame as one, with the size of its biggest segment.
std::vector<Seen> wire_packets(From from, const VnetHeader& vnet,
                               std::span<const std::uint8_t> packet) {
  std::vector<Seen> all;
  const auto ip = wire::parse_ip(packet);
  const unsigned gso = vnet.gso_type & ~kGsoEcn;
  if (!ip || gso == kGsoNone) {
    all.push_back(see_packet(from, packet));
    return all;
  }
  if (gso != kGsoUdpL4) {
    all.push_back(see_packet(from, packet));
    all.back().size = vnet.hdr_len - kEthernet + vnet.gso_size;
    return all;
  }
  const std::size_t headers = ip->header_length + kUdpHeader;
  for (std::size_t at = headers; at < packet.size(); at += vnet.gso_size) {
    const std::size_t size = std::min<std::size_t>(vnet.gso_size, packet.size() - at);
    Octets one(packet.begin(), packet.begin() + static_cast<std::ptrdiff_t>(headers));
    one.insert(one.end(), packet.begin() + static_cast<std::ptrdiff_t>(at),
               packet.begin() + static_cast<std::ptrdiff_t>(at + size));
    wire::set_ip_payload(one, *ip, kUdpHeader + size, wire::kProtocolUdp);
    wire::store_be(one.data() + ip->header_length + 4,
                   static_cast<std::uint16_t>(kUdpHeader + size));
    all.push_back(see_packet(from, one));
  }
  return all;
}

}  // namespace

Cable::Cable(const Netns& netns, const std::string& a_end, const std::string& b_end)
    : a_(open_end(netns, a_end)),
      b_(open_end(netns, b_end)),
      stop_(::eventfd(0, EFD_CLOEXEC)),
      buffer_(kFrameMax),
      thread_([this] { run(); }) {}

Cable::~Cable() {
  ::eventfd_write(stop_.get(), 1);
  thread_.join();
}

void Cable::run() {
  pollfd ends[] = {{a_.get(), POLLIN, 0}, {b_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  while (::poll(ends, std::size(ends), -1) > 0 && ends[2].revents == 0) {
    if (ends[0].revents) take(From::kA);
    if (ends[1].revents) take(From::kB);
  }
}

void Cable::take(From from) {
  const int in = from == From::kA ? a_.get() : b_.get();
  const int out = from == From::kA ? b_.get() : a_.get();
  for (int burst = 0; burst < 64; burst++) {
    const ssize_t n = ::recv(in, buffer_.data(), buffer_.size(), 0);
    if (n < static_cast<ssize_t>(kVnet + kEthernet)) return;
    const auto ethertype = wire::load_be<std::uint16_t>(buffer_.data() + kVnet + 12);
    bool pass = carry_;
    if (ethertype == ETHERTYPE_IP || ethertype == ETHERTYPE_IPV6) {
      const std::lock_guard guard(mutex_);
      if (log_ || filter_) {
        VnetHeader vnet;
        std::memcpy(&vnet, buffer_.data(), kVnet);
        const std::span packet(buffer_.data() + kVnet + kEthernet,
                               static_cast<std::size_t>(n) - kVnet - kEthernet);
        for (Seen& seen : wire_packets(from, vnet, packet)) {
          if (filter_ && !filter_(seen)) pass = false;
          if (log_) seen_.push_back(std::move(seen));
        }
      }
    }
    if (pass) (void)::send(out, buffer_.data(), static_cast<std::size_t>(n), 0);
  }
}

void Cable::set_filter(std::function<bool(const Seen&)> filter) {
  const std::lock_guard guard(mutex_);
  filter_ = std::move(filter);
}

void Cable::send(From from, const Octets& packet) {
  Octets frame(kVnet + kEthernet);
  std::uint8_t* ethernet = frame.data() + kVnet;
  for (std::size_t at : {0u, 6u}) ethernet[at] = 2;
  ethernet[5] = from == From::kA ? 2 : 1;
  ethernet[11] = from == From::kA ? 1 : 2;
  const bool v4 = !packet.empty() && packet[0] >> 4 == 4;
  wire::store_be(ethernet + 12, static_cast<std::uint16_t>(v4 ? ETHERTYPE_IP : ETHERTYPE_IPV6));
  frame.insert(frame.end(), packet.begin(), packet.end());
  const int out = from == From::kA ? b_.get() : a_.get();
  EXPECT_EQ(::send(out, frame.data(), frame.size(), 0), static_cast<ssize_t>(frame.size()))
      << std::strerror(errno);
}

std::size_t Cable::mark() const {
  const std::lock_guard guard(mutex_);
  return seen_.size();
}

std::vector<Seen> Cable::since(std::size_t mark) const {
  const std::lock_guard guard(mutex_);
  return {seen_.begin() + static_cast<std::ptrdiff_t>(mark), seen_.end()};
}

std::optional<Seen> Cable::find(std::size_t mark, const std::function<bool(const Seen&)>& wanted,
                                std::chrono::milliseconds patience) const {
  std::optional<Seen> found;
  eventually(
      [&] {
        const std::lock_guard guard(mutex_);
        for (; mark < seen_.size(); mark++)
          if (wanted(seen_[mark])) {
            found = seen_[mark];
            return true;
          }
        return false;
      },
      patience);
  return found;
}

}  // namespace psp::lab
