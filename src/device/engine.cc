// SPDX-License-Identifier: Apache-2.0
//
// One worker's half of the software device: opens and prepares to seal packets. Two direct-mapped
// caches of keyed AEAD objects, both allocated at construction:
//
//   rx: by (SPI, version); empty at every rotation. Filled by authenticated packets only, so that
//       a flood of invented SPIs cannot push out the keys in use.
//   tx: by handle; an entry is valid while the sequence number of its slot stands.
//
// Threading: an Engine belongs to one worker; what it shares is described in driver_state.hh.
#include <algorithm>
#include <bit>
#include <cstddef>

#include <psp/crypto/seal.hh>
#include <psp/wire/bytes.hh>

#include "driver_state.hh"

namespace psp::device {
namespace {

// wipe_aead writes over the key schedules of both key sizes.
void wipe_aead(crypto::Aead& aead) {
  constexpr std::array<std::uint8_t, 32> kZero{};
  aead.rekey(Version::kAesGcm256, std::span(kZero));
  aead.rekey(Version::kAesGcm128, std::span(kZero).first(16));
}

struct RxCacheEntry {
  Spi spi;  // reserved value 0: empty
  Version version = Version::kAesGcm128;
  std::unique_ptr<crypto::Aead> aead;
};

struct TxCacheEntry {
  std::uint32_t handle = 0;  // 0: empty
  std::uint64_t sequence = 0;
  TxSession session;
  std::unique_ptr<crypto::Aead> aead;
};

// describe says what was authenticated. A function of its own so that the result is filled in where
// it stays: copying fields that were just written would wait for the stores, 10 ns a packet.
std::expected<RxMeta, Drop> describe(const wire::PspHeader& header, Version version,
                                     std::uint8_t generation,
                                     std::span<const std::uint8_t> datagram,
                                     const std::uint8_t* out) {
  std::expected<RxMeta, Drop> meta(std::in_place);
  meta->header = header;
  meta->version = version;
  meta->generation = generation;
  meta->inner_offset = header.size() - kPspBaseHeader;
  meta->inner_size = datagram.size() - header.size() - kIcv;
  if (header.cookie) meta->header.cookie = wire::load_be<std::uint64_t>(out);
  return meta;
}

std::size_t cache_size(std::size_t entries) { return entries == 0 ? 0 : std::bit_ceil(entries); }

}  // namespace

struct Engine::State {
  explicit State(SoftwareDriver::State& shared_state);
  ~State();

  void pick_up_keys();
  RxCacheEntry* rx_slot(Spi spi, Version version);
  bool authenticate(Version version, const wire::PspHeader& header,
                    std::span<const std::uint8_t> datagram, std::uint8_t* out);

  std::size_t rx_octets() const { return sizeof(State) + rx_cache.size() * sizeof(RxCacheEntry); }

  SoftwareDriver::State& shared;
  std::shared_ptr<StatsBlock> stats;
  std::shared_ptr<const RxSnapshot> snapshot;
  std::uint64_t epoch = 0;  // of the snapshot
  std::unique_ptr<crypto::Aead> scratch;
  crypto::SaKey derived;
  std::vector<RxCacheEntry> rx_cache;
  std::vector<TxCacheEntry> tx_cache;
  TxEntry tx_entry;
};

Engine::State::State(SoftwareDriver::State& shared_state)
    : shared(shared_state),
      stats(shared.stats.open()),
      scratch(shared.options.backend->make_aead()),
      rx_cache(cache_size(shared.options.rx_cache_entries)),
      tx_cache(cache_size(std::max<std::size_t>(shared.options.tx_cache_entries, 1))) {
  for (auto& entry : rx_cache) entry.aead = shared.options.backend->make_aead();
  for (auto& entry : tx_cache) entry.aead = shared.options.backend->make_aead();
  shared.engine_octets.fetch_add(rx_octets(), std::memory_order_relaxed);
}

Engine::State::~State() {
  shared.engine_octets.fetch_sub(rx_octets(), std::memory_order_relaxed);
  shared.stats.close(stats);
  for (auto& entry : rx_cache)
    if (entry.spi.valid()) wipe_aead(*entry.aead);
  for (auto& entry : tx_cache)
    if (entry.handle != 0) wipe_aead(*entry.aead);
  wipe_aead(*scratch);
}

void Engine::State::pick_up_keys() {
  snapshot = shared.keys.snapshot();
  epoch = snapshot->epoch;
  for (auto& entry : rx_cache) {
    if (!entry.spi.valid()) continue;
    wipe_aead(*entry.aead);
    entry.spi = {};
  }
  wipe_aead(*scratch);
}

RxCacheEntry* Engine::State::rx_slot(Spi spi, Version version) {
  if (rx_cache.empty()) return nullptr;
  const std::uint64_t id = std::uint64_t{spi.value} << 2 | static_cast<std::uint64_t>(version);
  const std::uint64_t hash = id * 0x9e37'79b9'7f4a'7c15u;  // Fibonacci hashing
  return &rx_cache[hash >> 32 & (rx_cache.size() - 1)];
}

bool Engine::State::authenticate(Version version, const wire::PspHeader& header,
                                 std::span<const std::uint8_t> datagram, std::uint8_t* out) {
  RxCacheEntry* entry = rx_slot(header.spi, version);
  if (entry != nullptr && entry->spi == header.spi && entry->version == version)
    return crypto::open_datagram(*entry->aead, version, header, datagram, out);

  snapshot->slots[header.spi.phase()].kdf->derive(version, header.spi, derived);
  scratch->rekey(version, derived.span());
  derived.wipe();
  if (!crypto::open_datagram(*scratch, version, header, datagram, out)) return false;
  if (entry != nullptr) {
    entry->aead.swap(scratch);
    entry->spi = header.spi;
    entry->version = version;
  }
  return true;
}

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}

Engine::~Engine() = default;

std::expected<RxMeta, Drop> Engine::open(std::span<const std::uint8_t> datagram,
                                         std::uint8_t* out) {
  const auto drop = [this](Drop reason) {
    count_drop(reason);
    return std::unexpected(reason);
  };
  State& s = *state_;
  const std::uint64_t control = s.shared.keys.control_word();
  if (KeyRing::epoch_of(control) != s.epoch) s.pick_up_keys();

  const auto header = wire::parse_header(datagram);
  if (!header) return drop(header.error());
  const auto version = header->version();
  if (!version) return drop(Drop::BAD_VERSION);
  if (!header->spi.valid()) return drop(Drop::BAD_SPI);
  const DeviceKeySlot& key = s.snapshot->slots[header->spi.phase()];
  if (!key.live) return drop(Drop::UNKNOWN_KEY);
  if (!KeyRing::enabled_of(control).has(*version)) return drop(Drop::VERSION_DISABLED);
  if (!s.authenticate(*version, *header, datagram, out)) return drop(key.spis->judge(header->spi));

  StatsBlock::add(s.stats->rx_packets, 1);
  StatsBlock::add(s.stats->rx_bytes, datagram.size() - kPspBaseHeader - kIcv);
  return describe(*header, *version, key.generation, datagram, out);
}

std::expected<TxSession, Drop> Engine::tx_begin(std::uint32_t handle) {
  State& s = *state_;
  TxCacheEntry& entry = s.tx_cache[handle & (s.tx_cache.size() - 1)];
  if (handle != 0 && entry.handle == handle && entry.sequence == s.shared.tx.sequence(handle))
    return entry.session;

  if (handle == 0 || !s.shared.tx.read(handle, s.tx_entry)) {
    count_drop(Drop::TX_NO_ASSOC);
    return std::unexpected(Drop::TX_NO_ASSOC);
  }
  entry.handle = handle;
  entry.sequence = s.tx_entry.sequence;
  entry.aead->rekey(s.tx_entry.version, s.tx_entry.key.span());
  entry.session = {.aead = entry.aead.get(),
                   .version = s.tx_entry.version,
                   .spi = s.tx_entry.spi,
                   .has_clear_boundary = s.tx_entry.has_clear_boundary,
                   .clear_boundary = s.tx_entry.clear_boundary};
  s.tx_entry.key.wipe();
  return entry.session;
}

void Engine::refresh() {
  State& s = *state_;
  if (KeyRing::epoch_of(s.shared.keys.control_word()) != s.epoch) s.pick_up_keys();
  for (auto& entry : s.tx_cache) {
    if (entry.handle == 0 || entry.sequence == s.shared.tx.sequence(entry.handle)) continue;
    wipe_aead(*entry.aead);
    entry.handle = 0;
  }
}

VersionSet Engine::enabled() const {
  return KeyRing::enabled_of(state_->shared.keys.control_word());
}

std::uint64_t Engine::reserve_ivs(std::uint32_t count) {
  return state_->shared.options.ivs->reserve(count);
}

void Engine::count_tx(std::uint64_t packets, std::uint64_t bytes) {
  StatsBlock::add(state_->stats->tx_packets, packets);
  StatsBlock::add(state_->stats->tx_bytes, bytes);
}

void Engine::count_drop(Drop reason) {
  StatsBlock::add(state_->stats->drops[static_cast<std::size_t>(reason)], 1);
}

void Engine::keep(PacketPath path, std::optional<Drop> reason, std::size_t length,
                  std::span<const std::uint8_t> head, std::span<const std::uint8_t> rest) {
  SoftwareDriver::State& shared = state_->shared;
  shared.packets.offer(shared.options.now_ns(), path, reason, length, head, rest);
}

std::unique_ptr<Engine> SoftwareDriver::make_engine() {
  return std::unique_ptr<Engine>(new Engine(std::make_unique<Engine::State>(*state_)));
}

}  // namespace psp::device
