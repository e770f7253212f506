// SPDX-License-Identifier: Apache-2.0
//
// One derivation and one key schedule for the first packet of a connection on a worker, none for
// those that follow. A key is put into its place only when a packet has proved it.
//
// Threading: see rx_sa.hh.
#include "device/sa/rx_sa.hh"

#include <array>
#include <bit>

#include "crypto/seal.hh"

namespace psp::device {

void wipe_aead(crypto::Aead& aead) {
  constexpr std::array<std::uint8_t, 32> kZero{};
  aead.rekey(Version::kAesGcm256, std::span(kZero));
  aead.rekey(Version::kAesGcm128, std::span(kZero).first(16));
}

RxSaCache::RxSaCache(const crypto::Backend& backend, std::size_t entries)
    : entries_(entries == 0 ? 0 : std::bit_ceil(entries)), scratch_(backend.make_aead()) {
  for (Entry& entry : entries_) entry.aead = backend.make_aead();
}

RxSaCache::~RxSaCache() { forget(); }

void RxSaCache::forget() {
  for (Entry& entry : entries_) {
    if (!entry.spi.valid()) continue;
    wipe_aead(*entry.aead);
    entry.spi = {};
  }
  wipe_aead(*scratch_);
}

std::size_t RxSaCache::octets() const { return entries_.size() * sizeof(Entry); }

RxSaCache::Entry* RxSaCache::find(Spi spi, Version version) {
  if (entries_.empty()) return nullptr;
  const std::uint64_t id = std::uint64_t{spi.value} << 2 | static_cast<std::uint64_t>(version);
  // A product's low bits depend on low bits only. Those from 32 on have something of the whole id.
  const std::uint64_t hash = id * 0x9e37'79b9'7f4a'7c15u;
  return &entries_[hash >> 32 & (entries_.size() - 1)];
}

bool RxSaCache::open(const crypto::Kdf& kdf, Version version, const wire::PspHeader& header,
                     std::span<const std::uint8_t> datagram, std::uint8_t* out) {
  Entry* entry = find(header.spi, version);
  if (entry != nullptr && entry->spi == header.spi && entry->version == version)
    return crypto::open_datagram(*entry->aead, version, header, datagram, out);

  kdf.derive(version, header.spi, derived_);
  scratch_->rekey(version, derived_.span());
  derived_.wipe();
  if (!crypto::open_datagram(*scratch_, version, header, datagram, out)) return false;
  if (entry != nullptr) {
    entry->aead.swap(scratch_);
    entry->spi = header.spi;
    entry->version = version;
  }
  return true;
}

}  // namespace psp::device
