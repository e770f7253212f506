// SPDX-License-Identifier: Apache-2.0
//
// The messages of `softpsp`, pspd's own family, their operations and policies (spec/softpsp.yaml):
// secured connections, facts about pspd, captured keys and packets. What libpsp-genl.so hands on
// (softpsp forward) never comes to the server and is not here.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "crypto/secret.hh"
#include "device/sa/sa_id.h"
#include "netlink/messages/message.hh"
#include "wire/drop.hh"
#include "wire/types.hh"

namespace psp {

// AssocInfo is one secured connection, as pspd sees it: the answer to assoc-get.
struct AssocInfo {
  std::uint64_t cookie = 0;
  std::string ifname;
  unsigned family = 0;  // 4 or 6
  std::string local_address, peer_address;
  std::uint16_t local_port = 0, peer_port = 0;
  unsigned state = 0;     // enum psp_state
  std::string tcp_state;  // "established", ...
  psp_sa_id rx{};         // what it receives under; the rotation is not in the message
  bool stale = false;
  std::optional<Spi> tx_spi;
  std::uint64_t rx_packets = 0, rx_bytes = 0, tx_packets = 0, tx_bytes = 0;
  std::uint64_t rx_drops = 0;

  Version version() const { return to_version(rx.version).value_or(Version::kAesGcm128); }
};

// CapturedKey is the key under which a captured packet is authentic: the answer to key-get.
struct CapturedKey {
  Version version = Version::kAesGcm128;
  Spi spi;
  crypto::SaKey key;  // empty: only the permission was asked for
};

// KeptPacket is a packet that a device did not accept or could not send, or that its sender wanted
// sampled: the answer to packet-get.
struct KeptPacket {
  std::uint32_t dev_id = 0;
  std::uint64_t number = 0;       // counts those of the device from 1
  std::uint64_t nanoseconds = 0;  // since 1970
  bool transmit = false;
  std::optional<Drop> reason;        // nothing: sampled
  std::uint32_t length = 0;          // of the whole packet
  std::vector<std::uint8_t> octets;  // its beginning, from the IP header on
};

// DaemonInfo is what pspd says of itself: the answer to info-get.
struct DaemonInfo {
  std::string version;  // of pspd
  std::string crypto_backend;
  std::uint32_t pid = 0;
  // Another number for each start of pspd, which a pid is not: in a container it is always 1. 0: it
  // does not say.
  std::uint64_t instance = 0;
  struct Device {
    std::uint32_t id = 0;
    std::string ifname;
    std::string tap;
    std::uint32_t mtu = 0;
    std::uint32_t generation = 0;
    std::uint64_t spi_remaining = 0;  // in the namespace that has the fewest
    std::vector<std::pair<std::string, std::uint64_t>> drops;  // by reason, nonzero ones
    std::uint64_t repairs = 0;  // how often pspd put back what others had changed of its own
    std::string trouble = {};   // what of it is wrong now, or empty
    std::uint64_t refused = 0;  // requests for keys refused for want of room
  };
  std::vector<Device> devices;  // each a message of its own
};

namespace netlink {

struct Family;

// SubscribeRequest is that of subscribe.
struct SubscribeRequest {
  std::uint32_t groups = 0;  // SOFTPSP_GROUP_MGMT, SOFTPSP_GROUP_USE
};

// KeyRequest is that of key-get.
struct KeyRequest {
  std::optional<std::span<const std::uint8_t>> datagram = {};
};

// ServeInfo is the answer to serve-get.
struct ServeInfo {
  std::uint32_t dev_id = 0;
};

// softpsp_family is all that the server must know of the family.
const Family& softpsp_family();

}  // namespace netlink
}  // namespace psp
