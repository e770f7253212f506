// SPDX-License-Identifier: Apache-2.0
//
// psp::Client speaks Linux's `psp` netlink family: to the kernel where it has the family, to pspd
// where it does not. The messages are the same octets; only the way they travel differs.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <psp/crypto/secret.hh>
#include <psp/wire/drop.hh>
#include <psp/wire/types.hh>

namespace psp {

// ClientError is a refusal, in the words of whoever refused.
struct ClientError {
  int sys_errno = 0;
  std::string text;           // extack text, or ours where the request got nowhere
  std::string bad_attribute;  // for example ".dev-id"; empty if none
  std::string missing_attribute;
  // message is all of it in one sentence: "tx-assoc: Tx key already set (Device or resource busy)".
  std::string message;
};

template <typename T>
using ClientResult = std::expected<T, ClientError>;

// AssociatedNetdev is a netdev that uses the device of another one.
struct AssociatedNetdev {
  std::uint32_t ifindex = 0;  // in its own network namespace
  std::int32_t nsid = -1;     // that namespace as the caller numbers it; -1: the caller's own
};

struct DeviceInfo {
  std::uint32_t id = 0;
  std::uint32_t ifindex = 0;  // of the main netdev; 0 if the caller is not in its namespace
  VersionSet versions_cap;
  VersionSet versions_ena;
  std::vector<AssociatedNetdev> associated;  // in the caller's namespace, if by_association
  bool by_association = false;  // the caller sees the device only by an associated netdev
};

struct StatsInfo {
  std::uint32_t dev_id = 0;
  std::uint64_t key_rotations = 0, stale_events = 0;
  std::uint64_t rx_packets = 0, rx_bytes = 0, rx_auth_fail = 0, rx_error = 0, rx_bad = 0;
  std::uint64_t tx_packets = 0, tx_bytes = 0, tx_error = 0;
};

// KeyInfo is an SPI and its key.
struct KeyInfo {
  Spi spi;
  crypto::SaKey key;
};

struct RxAssocInfo {
  std::uint32_t dev_id = 0;
  KeyInfo rx;
};

// Notification is one message of the groups `mgmt` and `use`.
struct Notification {
  enum class Kind { kDevAdd, kDevDel, kDevChange, kKeyRotate } kind = Kind::kDevAdd;
  DeviceInfo device;  // for kKeyRotate only the id
};

// AssocInfo is one secured connection, as pspd sees it (not in the kernel's family).
struct AssocInfo {
  std::uint64_t cookie = 0;
  std::uint32_t dev_id = 0;
  std::string ifname;
  unsigned family = 0;  // 4 or 6
  std::string local_address, peer_address;
  std::uint16_t local_port = 0, peer_port = 0;
  unsigned state = 0;     // enum psp_state
  std::string tcp_state;  // "established", ...
  Version version = Version::kAesGcm128;
  std::uint32_t generation = 0;
  bool stale = false;
  Spi rx_spi;
  std::optional<Spi> tx_spi;
  std::uint64_t rx_packets = 0, rx_bytes = 0, tx_packets = 0, tx_bytes = 0;
  std::uint64_t rx_drops = 0;
};

// CapturedKey is the key under which a captured packet is authentic.
struct CapturedKey {
  Version version = Version::kAesGcm128;
  Spi spi;
  crypto::SaKey key;  // empty: only the permission was asked for
};

// KeptPacket is a packet that a device did not accept or could not send, or that its sender wanted
// sampled.
struct KeptPacket {
  std::uint32_t dev_id = 0;
  std::uint64_t number = 0;       // counts those of the device from 1
  std::uint64_t nanoseconds = 0;  // since 1970
  bool transmit = false;
  std::optional<Drop> reason;        // nothing: sampled
  std::uint32_t length = 0;          // of the whole packet
  std::vector<std::uint8_t> octets;  // its beginning, from the IP header on
};

// DaemonInfo is what pspd says of itself (not in the kernel's family).
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
  };
  std::vector<Device> devices;
};

// default_socket is where pspd listens unless told otherwise: $PSP_SOCKET, else "@softpsp", an
// abstract unix socket, which like the kernel's family belongs to a network namespace.
std::string default_socket();

// Client is one connection. Thread: one user at a time.
class Client {
 public:
  enum class Provider { kKernel, kDaemon };

  // connect finds the kernel's family or else pspd at `socket` ("@name" is abstract). A kernel
  // whose family has no device gives way to a pspd that answers. pspd must run as root or as the
  // caller, else it is not trusted with a key (EPERM). No answer within 5 s: ETIMEDOUT.
  // Errors: the kernel has no family and no pspd answers: ENOENT, with a text that says so.
  static ClientResult<Client> connect(const std::string& socket = default_socket());
  // connect_daemon goes to pspd whatever the kernel has.
  static ClientResult<Client> connect_daemon(const std::string& socket = default_socket());

  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();

  Provider provider() const;

  ClientResult<std::vector<DeviceInfo>> devices();
  ClientResult<DeviceInfo> device(std::uint32_t id);
  ClientResult<void> set_versions(std::uint32_t id, VersionSet ena);
  ClientResult<void> key_rotate(std::uint32_t id);
  // dev_assoc lets another netdev use the device: one in the caller's network namespace, or in the
  // one that it knows as `nsid`. dev_disassoc takes that back.
  ClientResult<void> dev_assoc(std::uint32_t id, std::uint32_t ifindex,
                               std::optional<std::int32_t> nsid = {});
  ClientResult<void> dev_disassoc(std::uint32_t id, std::uint32_t ifindex,
                                  std::optional<std::int32_t> nsid = {});
  // fd stays the caller's. dev_id absent: the device of the socket's route.
  ClientResult<RxAssocInfo> rx_assoc(int fd, Version version,
                                     std::optional<std::uint32_t> dev_id = {});
  ClientResult<void> tx_assoc(int fd, Version version, const KeyInfo& tx,
                              std::optional<std::uint32_t> dev_id = {});
  ClientResult<std::vector<StatsInfo>> stats();
  ClientResult<StatsInfo> stats(std::uint32_t dev_id);

  // subscribe joins `mgmt` and `use`; next_notification then waits for one (nullopt: time is up).
  // Errors: ENOBUFS: the caller did not read and has lost some; it may go on. Others are the end.
  // notification_fd is readable when there may be one.
  ClientResult<void> subscribe(bool mgmt, bool use);
  ClientResult<std::optional<Notification>> next_notification(std::chrono::milliseconds timeout);
  int notification_fd() const;

  // Request is one operation of the psp family as numbers, for tools that know operations as data.
  struct Request {
    const char* name = "";  // begins the sentence of an error, for example "dev-get"
    std::uint8_t cmd = 0;
    bool dump = false;
    int fd = -1;                               // to go with it, or -1; stays the caller's
    std::span<const std::uint8_t> attributes;  // well-formed and 4-octet aligned
  };
  // request asks and shows `on_answer` the attributes of each answer; they are wiped behind it.
  ClientResult<void> request(
      const Request& request,
      const std::function<void(std::span<const std::uint8_t> attributes)>& on_answer);

  // What only pspd answers: EOPNOTSUPP from the kernel.
  ClientResult<std::vector<AssocInfo>> associations();
  ClientResult<DaemonInfo> daemon_info();
  // kept_packets are the newest of all devices; needs CAP_NET_ADMIN in pspd's namespace.
  ClientResult<std::vector<KeptPacket>> kept_packets();
  // captured_key is the key of the PSP datagram (UDP payload), which must be one of a secured
  // connection of that pspd; at most 16000 octets. An empty one: only whether keys may be asked
  // for. Errors: EPERM unless the caller is root and pspd runs with --allow-key-export; ENOENT: no
  // connection of this pspd.
  ClientResult<CapturedKey> captured_key(std::span<const std::uint8_t> datagram);

 private:
  struct Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace psp
