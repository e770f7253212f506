// SPDX-License-Identifier: Apache-2.0
//
// Engine: one worker's half of the software device. It opens packets and prepares the sealing of
// others; the control half is SoftwareDriver (software_driver.hh), which makes it.
//
// Threading: an Engine belongs to one worker thread. Between it and the driver: device keys as
// immutable snapshots behind an epoch counter, Tx keys in a table whose slots are seqlocks, one
// atomic IV counter, statistics as relaxed atomics written by their worker only. Nothing on the
// packet path takes a lock, except to pick up a new snapshot after a rotation.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>

#include "crypto/aead.hh"
#include "device/packet_log.hh"
#include "wire/drop.hh"
#include "wire/header.hh"

namespace psp::device {

class SoftwareDriver;

// RxMeta is what the device tells software about a packet that it authenticated.
struct RxMeta {
  wire::PspHeader header;  // with IV and, decrypted, the cookie
  Version version;
  std::uint8_t generation = 0;   // of the device key that opened it
  std::size_t inner_offset = 0;  // where the inner packet starts in the output of open()
  std::size_t inner_size = 0;
};

// TxSession is a Tx key ready for use; valid until the engine's next tx_begin.
struct TxSession {
  crypto::Aead* aead = nullptr;
  Version version = Version::kAesGcm128;
  Spi spi;
  bool has_clear_boundary = false;
  std::uint32_t clear_boundary = 0;  // TCP sequence number of the first sealed octet
};

// Engine seals and opens on one worker thread.
class Engine {
 public:
  ~Engine();

  // open authenticates the PSP datagram `datagram` (UDP payload) and writes all behind the PSP base
  // header up to the ICV in clear to `out` (datagram.size() - 32 octets; the same place or no
  // overlap). Counts every outcome. Errors: those of wire::parse_header, BAD_VERSION, BAD_SPI,
  // VERSION_DISABLED, AUTH_FAIL, STALE_KEY, UNKNOWN_KEY.
  std::expected<RxMeta, Drop> open(std::span<const std::uint8_t> datagram, std::uint8_t* out);

  // enabled are the versions that are enabled for receive.
  VersionSet enabled() const;

  // refresh lets go of keys that are no longer needed: those of rotated-out device keys and deleted
  // Tx keys. open() and tx_begin() never use them, with or without this call; it only ends their
  // life in memory. A worker calls it about once a second, also when no packets come.
  void refresh();

  // tx_begin loads the Tx key with that handle. Errors: TX_NO_ASSOC (counted).
  std::expected<TxSession, Drop> tx_begin(std::uint32_t handle);
  std::uint64_t reserve_ivs(std::uint32_t count);
  void count_tx(std::uint64_t packets, std::uint64_t bytes);  // bytes: behind the IV to the ICV
  void count_drop(Drop reason);
  // log_packet offers a packet of `length` octets to the device's log: `head` and `rest`, from the
  // IP header on. No reason: it is to be sampled.
  void log_packet(PacketPath path, std::optional<Drop> reason, std::size_t length,
                  std::span<const std::uint8_t> head, std::span<const std::uint8_t> rest = {});

 private:
  friend class SoftwareDriver;
  struct State;
  explicit Engine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace psp::device
