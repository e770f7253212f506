// SPDX-License-Identifier: Apache-2.0
//
// The software engine: PSP whose hardware is the processor. A SoftwareDriver is what a device is in
// one network namespace: device keys, SPIs and Tx keys that no other namespace shares. One control
// object, any number of worker engines that seal and open packets. SoftwareDevice (see there) is
// the Driver of a whole device.
//
// Threading: SoftwareDriver belongs to the control thread. Each Engine belongs to one worker
// thread. Between them: device keys as immutable snapshots behind an epoch counter, Tx keys in a
// table whose slots are seqlocks, one atomic IV counter, statistics as relaxed atomics written by
// their worker only. Nothing on the packet path takes a lock, except to pick up a new snapshot
// after a rotation.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include <psp/crypto/aead.hh>
#include <psp/device/driver.hh>
#include <psp/device/packet_log.hh>
#include <psp/wire/drop.hh>
#include <psp/wire/header.hh>

namespace psp::device {

// IvAllocator hands out IVs that never repeat and only grow, from a counter in picoseconds as the
// specification wants. One for all devices and workers of a process, so that a (key, IV) pair
// cannot repeat even if the same Tx key is used on two sockets. Thread: any.
class IvAllocator {
 public:
  // `now_ps` is a clock in picoseconds that does not go back in the life of the host.
  explicit IvAllocator(std::function<std::uint64_t()> now_ps);
  // reserve returns the first of `count` consecutive IVs that are now the caller's alone. IVs are
  // compared modulo 2^64, so that the wrap of the clock (213 days) is not a step back.
  std::uint64_t reserve(std::uint32_t count);

 private:
  std::function<std::uint64_t()> now_ps_;
  std::atomic<std::uint64_t> next_;
};

// SpiAllocator hands out each of the 2^31 - 1 SPIs of a device key once, in a circle. The keys of a
// phase share the circle: one begins where the one before it ended, so that an SPI tells the key.
// Threading: judge() from any thread; the rest on the control thread.
class SpiAllocator {
 public:
  // The first SPI is index `first` (1..2^31-1) with the phase (0 or 1) as its top bit. `count` is
  // for tests of the end of the space.
  SpiAllocator(unsigned phase, std::uint32_t first, std::uint32_t count = Spi::kIndexMask);
  Result<Spi> allocate();  // ENOSPC "SPI space exhausted"
  std::uint64_t remaining() const;
  // next is for the key that takes this one's place.
  std::shared_ptr<SpiAllocator> next() const;
  // judge says why a packet under a valid SPI of this phase did not open: AUTH_FAIL if this key
  // gave the SPI out, STALE_KEY if one before it did, else UNKNOWN_KEY.
  Drop judge(Spi spi) const;

 private:
  static constexpr std::uint64_t kCircle = Spi::kIndexMask;

  std::uint32_t phase_bit_;
  std::uint32_t first_;  // 0..kCircle-1: index - 1
  std::uint32_t count_;
  std::uint64_t before_ = 0;  // SPIs of earlier keys, which end where this one begins
  std::atomic<std::uint32_t> given_{0};
};

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

class SoftwareDriver;

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
  // keep offers a packet of `length` octets to the device's log: `head` and `rest`, from the IP
  // header on. No reason: it is to be sampled.
  void keep(PacketPath path, std::optional<Drop> reason, std::size_t length,
            std::span<const std::uint8_t> head, std::span<const std::uint8_t> rest = {});

 private:
  friend class SoftwareDriver;
  struct State;
  explicit Engine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// wall_clock is the time since 1970 in nanoseconds.
std::uint64_t wall_clock();

// SoftwareDriverOptions: what a software driver is made of.
struct SoftwareDriverOptions {
  const crypto::Backend* backend = nullptr;
  IvAllocator* ivs = nullptr;
  std::function<void(std::span<std::uint8_t>)> random = crypto::random_bytes;
  // rx_cache_entries: derived Rx keys that each worker remembers. 0: derive for every packet.
  // Both sizes are rounded up to a power of two; of Tx keys at least one is remembered.
  std::size_t rx_cache_entries = 256;
  std::size_t tx_cache_entries = 256;
  std::uint32_t spis_of_a_key = Spi::kIndexMask;       // less: for tests
  std::function<std::uint64_t()> now_ns = wall_clock;  // of the packet log, since 1970
  // Of the first device key.
  unsigned phase = 0;
  std::uint8_t generation = 0;
  VersionSet enabled{};  // for reception
  // packet_numbers counts what the packet log took; logs that share it have no number twice. None:
  // one of its own.
  std::shared_ptr<std::atomic<std::uint64_t>> packet_numbers{};
};

class SoftwareDriver {
 public:
  explicit SoftwareDriver(SoftwareDriverOptions options);
  ~SoftwareDriver();
  SoftwareDriver(const SoftwareDriver&) = delete;
  SoftwareDriver& operator=(const SoftwareDriver&) = delete;

  // As those of Driver, in this one namespace.
  void enable(VersionSet versions);
  std::uint8_t key_rotate(std::uint8_t proposed);
  Result<RxKey> rx_spi_alloc(Version version);
  Result<std::uint32_t> tx_key_add(Version version, Spi spi, std::span<const std::uint8_t> key);
  void tx_key_del(std::uint32_t handle);
  DriverStats get_stats() const;

  // set_clear_boundary notes where the clear octets of a socket's stream end (see TxSession).
  void set_clear_boundary(std::uint32_t handle, std::uint32_t sequence);

  // make_engine: for one worker. The driver outlives its engines.
  std::unique_ptr<Engine> make_engine();

  // rx_key_of is the Rx key under which the PSP datagram (UDP payload) is authentic, tx_key_of the
  // Tx key of that handle if the datagram is authentic under it. Nothing: it is not. Who asks must
  // have been found to be allowed to: these are not for the packet path and count nothing.
  std::optional<crypto::SaKey> rx_key_of(std::span<const std::uint8_t> datagram) const;
  std::optional<crypto::SaKey> tx_key_of(std::uint32_t handle,
                                         std::span<const std::uint8_t> datagram) const;

  // drops returns how often each Drop happened in this driver's engines, by number.
  std::array<std::uint64_t, PSP_DROP_MAX> drops() const;

  // packets are those in the log, oldest first.
  std::vector<LoggedPacket> packets() const;

  // spi_remaining is how many SPIs are left under the active device key.
  std::uint64_t spi_remaining() const;

  // rx_state_octets is the memory that reception depends on, in octets: device keys and the caches
  // of all engines. Does not grow with connections. Not in it: what the crypto backend keeps inside
  // its objects, whose number is as fixed.
  std::size_t rx_state_octets() const;

 private:
  friend class Engine;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace psp::device
