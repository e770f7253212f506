// SPDX-License-Identifier: Apache-2.0
//
// A worker's keyed AEAD objects, all allocated at construction: those for reception in an
// RxSaCache, empty at every rotation; those for sending in a direct-mapped cache by handle, whose
// entries are valid while the sequence number of their slot in the TxTable stands.
//
// Threading: an Engine belongs to one worker; what it shares is described in engine.hh.
#include "device/engine.hh"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <vector>

#include "device/sa/rx_sa.hh"
#include "wire/bytes.hh"

#include "driver_state.hh"

namespace psp::device {
namespace {

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

}  // namespace

struct Engine::State {
  explicit State(SoftwareDriver::State& shared_state);
  ~State();

  void pick_up_keys();

  std::size_t rx_octets() const { return sizeof(State) + rx.octets(); }

  SoftwareDriver::State& shared;
  std::shared_ptr<StatsBlock> stats;
  std::shared_ptr<const RxSnapshot> snapshot;
  std::uint64_t epoch = 0;  // of the snapshot
  RxSaCache rx;
  std::vector<TxCacheEntry> tx_cache;
  TxEntry tx_entry;
};

Engine::State::State(SoftwareDriver::State& shared_state)
    : shared(shared_state),
      stats(shared.stats.open()),
      rx(*shared.options.backend, shared.options.rx_cache_entries),
      tx_cache(std::bit_ceil(std::max<std::size_t>(shared.options.tx_cache_entries, 1))) {
  for (auto& entry : tx_cache) entry.aead = shared.options.backend->make_aead();
  shared.engine_octets.fetch_add(rx_octets(), std::memory_order_relaxed);
}

Engine::State::~State() {
  shared.engine_octets.fetch_sub(rx_octets(), std::memory_order_relaxed);
  shared.stats.close(stats);
  for (auto& entry : tx_cache)
    if (entry.handle != 0) wipe_aead(*entry.aead);
}

void Engine::State::pick_up_keys() {
  snapshot = shared.keys.snapshot();
  epoch = snapshot->epoch;
  rx.forget();
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
  if (!s.rx.open(*key.kdf, *version, *header, datagram, out))
    return drop(key.spis->judge(header->spi));

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

void Engine::log_packet(PacketPath path, std::optional<Drop> reason, std::size_t length,
                        std::span<const std::uint8_t> head, std::span<const std::uint8_t> rest) {
  SoftwareDriver::State& shared = state_->shared;
  shared.packets.offer(shared.options.now_ns(), path, reason, length, head, rest);
}

std::unique_ptr<Engine> SoftwareDriver::make_engine() {
  return std::unique_ptr<Engine>(new Engine(std::make_unique<Engine::State>(*state_)));
}

}  // namespace psp::device
