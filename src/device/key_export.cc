// SPDX-License-Identifier: Apache-2.0
//
// The one way by which a key of the software device leaves it other than to its owner: to whoever
// shows a packet that it authenticates. Who may ask is for the caller to decide.
//
// Threading: the control thread. Device keys are read from their snapshot, Tx keys from their slot.
#include <vector>

#include "crypto/seal.hh"
#include "device/software_driver.hh"

#include "driver_state.hh"

namespace psp::device {
namespace {

bool authenticates(const crypto::Backend& backend, Version version, const crypto::SaKey& key,
                   const wire::PspHeader& header, std::span<const std::uint8_t> datagram) {
  const auto aead = backend.make_aead();
  aead->rekey(version, key.span());
  std::vector<std::uint8_t> clear(datagram.size() - kPspBaseHeader - kIcv);
  const bool good = crypto::open_datagram(*aead, version, header, datagram, clear.data());
  if (!clear.empty()) explicit_bzero(clear.data(), clear.size());
  return good;
}

}  // namespace

std::optional<crypto::SaKey> SoftwareDriver::rx_key_of(
    std::span<const std::uint8_t> datagram) const {
  const auto header = wire::parse_header(datagram);
  if (!header || !header->version() || !header->spi.valid()) return std::nullopt;
  const auto snapshot = state_->keys.snapshot();
  const DeviceKeySlot& slot = snapshot->slots[header->spi.phase()];
  if (!slot.live) return std::nullopt;
  crypto::SaKey key;
  slot.kdf->derive(*header->version(), header->spi, key);
  if (!authenticates(*state_->options.backend, *header->version(), key, *header, datagram))
    return std::nullopt;
  return key;
}

std::optional<crypto::SaKey> SoftwareDriver::tx_key_of(
    std::uint32_t handle, std::span<const std::uint8_t> datagram) const {
  const auto header = wire::parse_header(datagram);
  TxEntry entry;
  if (!header || !state_->tx.read(handle, entry) || header->spi != entry.spi ||
      header->version() != entry.version ||
      !authenticates(*state_->options.backend, entry.version, entry.key, *header, datagram))
    return std::nullopt;
  return std::move(entry.key);
}

}  // namespace psp::device
