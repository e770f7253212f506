// SPDX-License-Identifier: Apache-2.0
//
// Observer: the promises, watched at each step. It knows what the applications know and sees what
// is on the link; it believes nothing that pspd or the programs say of themselves. The first breach
// is kept, and ends the run.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "coverage.hh"
#include "packet.hh"
#include "schedule.hh"
#include "tcp.hh"

namespace psp::sim {

// End is one end of a connection, as its application knows it.
struct End {
  unsigned host = 0;
  unsigned place = 0, peer_place = 0;  // the namespaces: of a host, or of its container
  std::weak_ptr<Tcp> socket;
  std::uint64_t cookie = 0;  // id of the socket
  Tuple tuple;
  std::uint64_t stream = 0, peer_stream = 0;
  std::shared_ptr<Written> written{}, peer_written{};  // their real octets; null: none
  std::uint32_t iss = 0;
  std::shared_ptr<End> before{};    // the end that had these addresses before
  bool secured = false;             // tx-assoc has said yes
  std::uint32_t boundary = 0;       // sequence number of the first octet written after it
  std::uint32_t read_boundary = 0;  // ... and of the first one read
  bool has_rx = false;
  std::uint32_t rx_spi = 0, tx_spi = 0;  // 0: none
  unsigned life = 0;                     // of the pspd that has the keys
  std::uint32_t rotation = 0;            // how often its device had rotated
  bool superseded = false;               // the socket has begun another connection since
  bool left = false;                     // something of it has left the programs of its host
  bool heard = false;                    // data that was opened was let in after tx-assoc
  Time gone = 0;                         // since when there is no full socket; 0: there is one
  bool touched = false;  // something forged in clear was let in before it was secure
};

class Observer {
 public:
  // Host is what is true of a host now.
  struct Host {
    unsigned life = 0;  // of the pspd that runs; 0: none
    std::uint32_t rotations = 0;
    std::uint16_t verified = 0;  // the proof of its programs
  };

  Observer(Schedule& schedule, Coverage& coverage) : schedule_(schedule), coverage_(coverage) {}

  // begins: an end of a connection has a socket; one with these addresses before it is forgotten.
  void begins(const std::shared_ptr<End>& end);
  void gone(unsigned place, std::uint64_t cookie);
  // forget: that namespace is no more, and what has its addresses from now on is another one.
  void forget(unsigned place);

  // stopped: that pspd has ended in order, and took its programs off.
  void stopped(unsigned host, unsigned life) { stopped_[host] = life; }
  // holds: is there still somebody who keeps a socket secured that is not connected?
  bool holds(const End& end) const { return end.life > stopped_[end.host]; }

  // left: something of that socket's connection went on from the programs at its netdev.
  void left(unsigned place, const Sock& socket);
  // sent is each packet that a namespace puts on the link.
  void sent(unsigned place, const Octets& packet);
  // read: the application has read octets that begin at that sequence number.
  void read(const End& end, std::uint32_t seq, std::uint32_t irs, const Octets& octets);
  // let_in: TCP has been given a segment.
  void let_in(unsigned place, const Tcp& socket, const Segment& segment, const Skb& skb);

  // path_shrank: an ICMP error has lowered the MTU that a namespace knows of its peer.
  void path_shrank(unsigned place, const Skb& error, std::size_t mtu);

  // has_egress: does a packet of that namespace meet its psp_egress now?
  std::function<bool(unsigned place)> has_egress;

  void fail(const std::string& what);
  const std::optional<std::string>& breach() const { return breach_; }
  std::array<Host, 2> hosts{};
  std::array<std::uint64_t, 2> sealed{};  // PSP packets on the link

 private:
  void sent_clear(unsigned place, std::span<const std::uint8_t> ip);
  void sent_psp(unsigned place, std::span<const std::uint8_t> ip);
  static bool is_secret(const End& end, const Segment& segment);
  static bool wrote_in_clear(const End& end, const Segment& segment);
  bool harmless(const End& end, const Segment& segment) const;
  std::shared_ptr<End> find(unsigned place, const Tuple& tuple) const;
  void note_keys(const End& end);
  bool has_key(unsigned place, std::uint32_t spi);

  Schedule& schedule_;
  Coverage& coverage_;
  std::optional<std::string> breach_;
  std::map<std::pair<unsigned, Tuple>, std::shared_ptr<End>> ends_;
  std::set<std::pair<unsigned, std::uint32_t>> keys_;  // SPIs that a namespace sends under
  std::array<std::uint64_t, 2> last_iv_{};
  std::array<unsigned, 2> stopped_{};
  std::array<std::deque<std::pair<std::uint64_t, Time>>, 2> ivs_;  // of the last minute, and when
};

}  // namespace psp::sim
