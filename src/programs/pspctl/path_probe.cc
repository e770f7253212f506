// SPDX-License-Identifier: Apache-2.0
//
// A packet socket sends where sealed packets leave, behind netfilter, and hears before tc takes PSP
// packets for pspd. Each probe has a port of its own: GRO cannot join them.
//
// Each probe has a nonce, and only an answer with it counts; an ICMP error counts only if it quotes
// a probe of ours. Who sits on the way can forge either, so a probe says whether the way is open,
// and nothing about who is at its end. A lost probe is sent again, a few times, until a deadline.
#include "path_probe.hh"

#include <algorithm>
#include <arpa/inet.h>
#include <bitset>
#include <cerrno>
#include <cstring>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <pcap/pcap.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/socket_options.hh"
#include "base/unique_fd.hh"
#include "base/v4_mapped.hh"
#include "crypto/aead.hh"
#include "wire/bytes.hh"
#include "wire/checksum.hh"
#include "wire/packet.hh"

namespace psp::ctl {
namespace {

using Octets = std::vector<std::uint8_t>;
using std::chrono::steady_clock;
using namespace std::chrono_literals;

// So often, or a way that loses every third packet looks like one that lets none pass.
constexpr std::size_t kTries = 8;
constexpr auto kPatience = 150ms;  // between two tries; their answers may come later
constexpr std::size_t kSmallSizes[] = {1400, 1280};
constexpr std::uint8_t kProtocolIcmp6 = 58;

struct Ask {
  std::uint16_t port = 0;                // source; 0: an ICMP echo, of which there is one
  std::size_t there = 0;                 // IP length
  std::size_t back = 0;                  // of the answer
  std::array<std::uint8_t, 16> nonce{};  // its last octet is the number of the try
  std::optional<wire::Probe> answer{};
  std::size_t came_back = 0;  // IP length of the answer
  std::bitset<kTries> sent{}, answered{};
  std::size_t tries_before = 0;  // by another ask
};

bool was_sent(const Ask& ask, std::size_t number) { return number < kTries && ask.sent[number]; }

// is_of: this nonce is that of one of its tries.
bool is_of(const Ask& ask, const std::array<std::uint8_t, 16>& nonce) {
  return std::equal(nonce.begin(), nonce.end() - 1, ask.nonce.begin()) &&
         was_sent(ask, nonce.back());
}

template <typename T>
T random_value() {
  std::array<std::uint8_t, sizeof(T)> octets;
  crypto::random_bytes(octets);
  T value;
  std::memcpy(&value, octets.data(), sizeof value);
  return value;
}

class Prober {
 public:
  explicit Prober(const Way& way) : way_(way), echo_id_(random_value<std::uint16_t>()) {}
  int open();
  // ask sends what is not answered yet, up to kTries times. Returns 0 or an errno.
  int ask(std::vector<Ask>& asks);
  // count is what became of the tries of those that were answered: a try whose answer can still
  // come is none.
  Tries count(const std::vector<Ask>& asks) const;
  Ask request(std::uint16_t port, std::size_t there, std::size_t back) const;
  std::size_t headers() const { return header() + kUdpHeader; }
  bool echo = false;
  std::optional<Refusal> refusal;
  std::uint32_t path_mtu = 0;
  std::uint32_t stray = 0;

 private:
  std::size_t header() const { return way_.family == 4 ? kIpv4Header : kIpv6Header; }
  Octets ip_packet(std::size_t size, std::uint8_t protocol) const;
  Octets probe_packet(const Ask& ask, std::size_t number) const;
  Octets echo_packet(std::size_t number) const;
  int send(const Octets& packet) const;
  bool waits(const std::vector<Ask>& asks) const;
  void listen(std::vector<Ask>& asks, steady_clock::time_point until);
  void note(Ask& ask, std::size_t number);
  void hear(std::span<const std::uint8_t> packet, std::uint32_t ifindex, std::vector<Ask>& asks);
  void hear_icmp(std::span<const std::uint8_t> icmp, const ProbeAddress& from,
                 std::vector<Ask>& asks);
  bool is_quoted(std::span<const std::uint8_t> quote, const std::vector<Ask>& asks) const;
  ProbeAddress address(const std::uint8_t* ip, bool destination) const;

  const Way way_;
  const std::uint16_t echo_id_;
  UniqueFd fd_;
  // Of the last ask: when each try was sent, and how long the slowest answer took.
  std::array<steady_clock::time_point, kTries> sent_at_{};
  steady_clock::duration slowest_{};
};

int Prober::open() {
  fd_ = UniqueFd(::socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd_) return errno;
  // The filter first: nothing else may be in the queue.
  pcap_t* compiler = pcap_open_dead(DLT_RAW, 65535);
  bpf_program program{};
  const char* filter = way_.family == 4
                           ? "(udp dst port 1000 and udp[12:4] = 0) or icmp"
                           : "(ip6[6] = 17 and ip6[42:2] = 1000 and ip6[52:4] = 0) or ip6[6] = 58";
  const bool good = pcap_compile(compiler, &program, filter, 1, PCAP_NETMASK_UNKNOWN) == 0;
  pcap_close(compiler);
  if (!good) return EINVAL;
  const sock_fprog code{static_cast<unsigned short>(program.bf_len),
                        reinterpret_cast<sock_filter*>(program.bf_insns)};
  const int filtered = set_option(fd_.get(), SOL_SOCKET, SO_ATTACH_FILTER, code) ? 0 : errno;
  pcap_freecode(&program);
  if (filtered != 0) return filtered;
  sockaddr_ll here{};
  here.sll_family = AF_PACKET;
  here.sll_protocol = htons(ETH_P_ALL);  // only these hear before tc
  return ::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&here), sizeof here) == 0 ? 0 : errno;
}

Ask Prober::request(std::uint16_t port, std::size_t there, std::size_t back) const {
  const std::size_t least = headers() + wire::kProbeSize;
  return {.port = port,
          .there = std::max(there, least),
          .back = std::max(back, least),
          .nonce = random_value<std::array<std::uint8_t, 16>>()};
}

ProbeAddress Prober::address(const std::uint8_t* ip, bool destination) const {
  return to_address16(way_.family == 4 ? std::span(ip + (destination ? 16 : 12), 4)
                                       : std::span(ip + (destination ? 24 : 8), 16));
}

Octets Prober::ip_packet(std::size_t size, std::uint8_t protocol) const {
  Octets packet(size);
  if (way_.family == 4) {
    packet[0] = 0x45;
    packet[6] = 0x40;  // DF
    packet[8] = 64;
    std::copy_n(way_.source.begin() + 12, 4, packet.begin() + 12);
    std::copy_n(way_.peer.begin() + 12, 4, packet.begin() + 16);
  } else {
    packet[0] = 0x60;
    packet[7] = 64;
    std::ranges::copy(way_.source, packet.begin() + 8);
    std::ranges::copy(way_.peer, packet.begin() + 24);
  }
  wire::set_ip_payload(packet,
                       {.family = static_cast<std::uint8_t>(way_.family),
                        .header_length = static_cast<std::uint16_t>(header())},
                       size - header(), protocol);
  return packet;
}

// finish writes the checksum of what is behind the IP header.
void finish(Octets& packet, std::size_t header, std::size_t checksum_at, std::uint64_t sum) {
  const std::span rest(packet.data() + header, packet.size() - header);
  const auto value =
      static_cast<std::uint16_t>(~wire::checksum_fold(wire::checksum_add(sum, rest)));
  wire::store_be(rest.data() + checksum_at, value != 0 ? value : std::uint16_t{0xffff});
}

Octets Prober::probe_packet(const Ask& ask, std::size_t number) const {
  auto nonce = ask.nonce;
  nonce.back() = static_cast<std::uint8_t>(number);
  Octets packet = ip_packet(ask.there, wire::kProtocolUdp);
  std::uint8_t* udp = packet.data() + header();
  const std::size_t length = packet.size() - header();
  wire::store_be(udp, ask.port);
  wire::store_be(udp + 2, kUdpPort);
  wire::store_be(udp + 4, static_cast<std::uint16_t>(length));
  wire::write_probe(std::span(udp, length).subspan(kUdpHeader),
                    {.wanted = static_cast<std::uint16_t>(ask.back - headers()), .nonce = nonce});
  finish(packet, header(), 6,
         wire::pseudo_header_sum(packet, way_.family, wire::kProtocolUdp,
                                 static_cast<std::uint32_t>(length)));
  return packet;
}

Octets Prober::echo_packet(std::size_t number) const {
  const bool v4 = way_.family == 4;
  const std::uint8_t protocol = v4 ? std::uint8_t{IPPROTO_ICMP} : kProtocolIcmp6;
  Octets packet = ip_packet(header() + 16, protocol);
  packet[header()] = v4 ? ICMP_ECHO : ICMP6_ECHO_REQUEST;
  wire::store_be(packet.data() + header() + 4, echo_id_);
  wire::store_be(packet.data() + header() + 6, static_cast<std::uint16_t>(number));
  finish(packet, header(), 2, v4 ? 0 : wire::pseudo_header_sum(packet, way_.family, protocol, 16));
  return packet;
}

int Prober::send(const Octets& packet) const {
  sockaddr_ll to{};
  to.sll_family = AF_PACKET;
  to.sll_protocol = htons(way_.family == 4 ? ETH_P_IP : ETH_P_IPV6);
  to.sll_ifindex = static_cast<int>(way_.ifindex);
  to.sll_halen = ETH_ALEN;
  std::ranges::copy(way_.next_hop, to.sll_addr);
  const ssize_t sent = ::sendto(fd_.get(), packet.data(), packet.size(), 0,
                                reinterpret_cast<const sockaddr*>(&to), sizeof to);
  return sent < 0 && errno != EMSGSIZE && errno != ENOBUFS && errno != EAGAIN ? errno : 0;
}

// waits: something is not answered yet. Who answers probes need not answer the echo.
bool Prober::waits(const std::vector<Ask>& asks) const {
  return std::ranges::any_of(asks, [&](const Ask& ask) {
    return ask.port == 0 ? !echo && !asks.front().answer : !ask.answer;
  });
}

int Prober::ask(std::vector<Ask>& asks) {
  const std::uint32_t known = path_mtu;  // a router that tells of a smaller one changes the request
  slowest_ = {};
  for (std::size_t round = 0; round < kTries && waits(asks) && path_mtu == known; ++round) {
    sent_at_[round] = steady_clock::now();
    if (sent_at_[round] >= way_.until) return 0;
    for (Ask& ask : asks) {
      if (ask.port != 0 && ask.answer) continue;
      const int error = send(ask.port == 0 ? echo_packet(round) : probe_packet(ask, round));
      if (error != 0) return error;
      ask.sent.set(round);
    }
    listen(asks, std::min(steady_clock::now() + kPatience, way_.until));
  }
  return 0;
}

Tries Prober::count(const std::vector<Ask>& asks) const {
  Tries tries;
  const auto late = steady_clock::now() - 2 * slowest_;
  for (const Ask& ask : asks)
    for (std::size_t i = 0; i < kTries && ask.answered.any(); ++i) {
      tries.answered += ask.answered[i];
      tries.sent += ask.answered[i] || (ask.sent[i] && sent_at_[i] < late);
    }
  return tries;
}

void Prober::listen(std::vector<Ask>& asks, steady_clock::time_point until) {
  Octets packet(65536);
  while (waits(asks)) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - steady_clock::now());
    pollfd ready{.fd = fd_.get(), .events = POLLIN, .revents = 0};
    if (left.count() <= 0 || ::poll(&ready, 1, static_cast<int>(left.count())) <= 0) return;
    sockaddr_ll from{};
    socklen_t length = sizeof from;
    const ssize_t size = ::recvfrom(fd_.get(), packet.data(), packet.size(), 0,
                                    reinterpret_cast<sockaddr*>(&from), &length);
    if (size > 0 && from.sll_pkttype == PACKET_HOST)
      hear(std::span(packet).first(static_cast<std::size_t>(size)),
           static_cast<std::uint32_t>(from.sll_ifindex), asks);
  }
}

void Prober::hear(std::span<const std::uint8_t> packet, std::uint32_t ifindex,
                  std::vector<Ask>& asks) {
  const auto ip = wire::parse_ip(packet);
  if (!ip || ip->family != way_.family || ip->fragment) return;
  const auto rest = packet.first(ip->total_length).subspan(ip->header_length);
  if (ip->protocol == IPPROTO_ICMP || ip->protocol == kProtocolIcmp6)
    return hear_icmp(rest, address(packet.data(), false), asks);
  if (ip->protocol != wire::kProtocolUdp || rest.size() < kUdpHeader) return;
  const auto probe = wire::parse_probe(rest.subspan(kUdpHeader));
  if (!probe || !probe->answer) return;
  const auto asked =
      std::ranges::find_if(asks, [&](const Ask& ask) { return is_of(ask, probe->nonce); });
  if (asked == asks.end() || asked->port == 0) return;
  if (std::ranges::find(way_.back, ifindex) == way_.back.end()) {
    stray = ifindex;  // or a netdev below one of those: then the packet is heard again
    return;
  }
  asked->answer = probe;
  asked->came_back = ip->total_length;
  note(*asked, probe->nonce.back());
}

void Prober::note(Ask& ask, std::size_t number) {
  ask.answered.set(number);
  slowest_ = std::max(slowest_, steady_clock::now() - sent_at_[number]);
}

// is_quoted: the packet that an ICMP error quotes is a probe of ours.
bool Prober::is_quoted(std::span<const std::uint8_t> quote, const std::vector<Ask>& asks) const {
  if (quote.size() < header() + 4 || quote[0] >> 4 != way_.family) return false;
  const std::size_t at = way_.family == 4 ? std::size_t{quote[0] & 15u} * 4 : header();
  const std::uint8_t protocol = quote[way_.family == 4 ? 9 : 6];
  if (quote.size() < at + 4 || protocol != wire::kProtocolUdp ||
      address(quote.data(), true) != way_.peer ||
      wire::load_be<std::uint16_t>(quote.data() + at + 2) != kUdpPort)
    return false;
  const auto port = wire::load_be<std::uint16_t>(quote.data() + at);
  return std::ranges::any_of(asks, [port](const Ask& ask) { return ask.port == port; });
}

// judge_error is what an ICMP error of that type says; none: nothing that matters here.
std::optional<Refusal::What> judge_error(unsigned family, std::uint8_t type, std::uint8_t code,
                                         bool from_peer) {
  using What = Refusal::What;
  const What port = from_peer ? What::kPort : What::kFirewall;
  if (family == 4) {
    if (type != ICMP_DEST_UNREACH) return std::nullopt;
    if (code == ICMP_PORT_UNREACH) return port;
    if (code == ICMP_FRAG_NEEDED) return What::kTooBig;
    const bool policy = code == ICMP_NET_ANO || code == ICMP_HOST_ANO || code == ICMP_PKT_FILTERED;
    return policy ? What::kFirewall : What::kUnreachable;
  }
  if (type == ICMP6_PACKET_TOO_BIG) return What::kTooBig;
  if (type != ICMP6_DST_UNREACH) return std::nullopt;
  if (code == ICMP6_DST_UNREACH_NOPORT) return port;
  const bool policy = code == ICMP6_DST_UNREACH_ADMIN || code == 5 || code == 6;  // RFC 4443
  return policy ? What::kFirewall : What::kUnreachable;
}

void Prober::hear_icmp(std::span<const std::uint8_t> icmp, const ProbeAddress& from,
                       std::vector<Ask>& asks) {
  constexpr std::size_t kIcmpHeader = 8;
  if (icmp.size() < kIcmpHeader) return;
  const std::uint8_t reply = way_.family == 4 ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY;
  if (icmp[0] == reply) {
    const auto number = wire::load_be<std::uint16_t>(icmp.data() + 6);
    const auto asked = std::ranges::find(asks, 0, &Ask::port);
    if (from != way_.peer || wire::load_be<std::uint16_t>(icmp.data() + 4) != echo_id_ ||
        asked == asks.end() || !was_sent(*asked, number))
      return;
    echo = true;
    note(*asked, number);
    return;
  }
  const auto what = judge_error(way_.family, icmp[0], icmp[1], from == way_.peer);
  if (!what || !is_quoted(icmp.subspan(kIcmpHeader), asks)) return;
  if (*what != Refusal::What::kTooBig) {
    refusal = Refusal{*what, from, 0};
    return;
  }
  const std::uint32_t mtu = way_.family == 4 ? wire::load_be<std::uint16_t>(icmp.data() + 6)
                                             : wire::load_be<std::uint32_t>(icmp.data() + 4);
  if (mtu != 0 && mtu < way_.mtu) path_mtu = mtu;
}

void add(Tries& sum, const Tries& more) {
  sum.sent += more.sent;
  sum.answered += more.answered;
}

bool is_open(const Ask& ask) { return ask.port != 0 && !ask.answer; }

// ask_again is for those that were not answered where others were: a way that loses half of all
// leaves eight in a row unanswered once in two hundred times.
int ask_again(Prober& prober, std::vector<Ask>& asks, Tries& tries) {
  std::vector<Ask> open;
  for (Ask& ask : asks)
    if (is_open(ask)) open.push_back(prober.request(ask.port, ask.there, ask.back));
  if (const int error = prober.ask(open); error != 0) return error;
  add(tries, prober.count(open));
  auto again = open.begin();
  for (Ask& ask : asks) {
    if (!is_open(ask)) continue;
    const std::size_t before = ask.sent.count();
    if (again->answer) tries.sent += static_cast<int>(before);  // then these were lost
    again->tries_before = before;
    ask = *again++;
  }
  return 0;
}

// try_sizes asks with packets of several sizes: each there with a small answer, and there and back.
int try_sizes(Prober& prober, std::size_t full, Heard& heard) {
  std::vector<Ask> asks;
  const auto add_size = [&](std::size_t size) {
    for (const std::size_t back : {std::size_t{0}, size})
      asks.push_back(prober.request(random_value<std::uint16_t>() | 0x8000, size, back));
  };
  add_size(full);
  for (const std::size_t size : kSmallSizes)
    if (size < full) add_size(size);
  const std::uint32_t known = prober.path_mtu;
  if (const int error = prober.ask(asks); error != 0) return error;
  add(heard.probes, prober.count(asks));
  if (prober.path_mtu == known && heard.probes.answered < heard.probes.sent &&
      std::ranges::any_of(asks, is_open))
    if (const int error = ask_again(prober, asks, heard.probes); error != 0) return error;
  heard.tries_of_a_size = static_cast<int>(asks[1].tries_before + asks[1].sent.count());
  for (const Ask& ask : asks) {
    if (!ask.answer) continue;
    heard.there = std::max(heard.there, static_cast<std::uint32_t>(ask.there));
    heard.back = std::max(heard.back, static_cast<std::uint32_t>(ask.came_back));
  }
  return 0;
}

}  // namespace

std::expected<Heard, int> probe_path(const Way& way) {
  Prober prober(way);
  Heard heard;
  if (const int error = prober.open(); error != 0) return std::unexpected(error);
  std::vector<Ask> asks = {prober.request(random_value<std::uint16_t>() | 0x8000, 0, 0),
                           prober.request(kUdpPort, 0, 0), prober.request(0, 0, 0)};
  if (const int error = prober.ask(asks); error != 0) return std::unexpected(error);
  heard.echo = prober.echo;
  heard.echoes = prober.count({asks[2]});
  asks.pop_back();
  heard.probes = prober.count(asks);
  if (is_open(asks[0]) && !is_open(asks[1]))
    if (const int error = ask_again(prober, asks, heard.probes); error != 0)
      return std::unexpected(error);
  heard.answer = asks[0].answer;
  heard.reply = asks[1].answer;
  heard.refusal = prober.refusal;
  heard.stray = prober.stray;
  if (!heard.answer) return heard;

  std::uint32_t full = way.mtu;
  for (int i = 0; i < 3; ++i) {  // routers may tell of smaller and smaller links
    if (const int error = try_sizes(prober, full, heard); error != 0) return std::unexpected(error);
    if (prober.path_mtu == 0 || prober.path_mtu >= full) break;
    full = heard.path_mtu = prober.path_mtu;
  }
  return heard;
}

}  // namespace psp::ctl
