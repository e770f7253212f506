// SPDX-License-Identifier: Apache-2.0
//
// All keys that the user gave, and the AEAD objects made of them. A capture may show one SPI under
// several keys (each receiver chooses for itself), so a search gives candidates and the ICV
// decides. Thread: one user; each user of the same keys has a ring of its own (share).
#pragma once

#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "crypto/aead.hh"
#include "pcap/keys.hh"

#include "options.hh"

namespace psp::pcap_tool {

class CaptureKeys {
 public:
  explicit CaptureKeys(const crypto::Backend& backend)
      : backend_(backend), keys_(std::make_shared<Keys>()) {}

  // Candidate is a key, ready for use. `entry` numbers what it came from.
  struct Candidate {
    std::unique_ptr<crypto::Aead> aead;
    std::uint32_t entry = 0;
  };

  // add adds a key, before the ring is shared.
  void add(pcap::KeyEntry entry);
  // share is a ring with the same keys for another thread.
  CaptureKeys share() const { return CaptureKeys(backend_, keys_); }
  bool empty() const { return keys_->entries.empty(); }
  // find returns all keys for that version and SPI; valid until the next call.
  std::span<Candidate> find(Version version, Spi spi);
  // make makes them anew, for a user who keeps them.
  std::vector<Candidate> make(Version version, Spi spi);
  // fits: the key of the entry is for packets to `destination`.
  bool fits(std::uint32_t entry, const pcap::IpHost& destination) const;

 private:
  struct Entry {
    pcap::KeyEntry key;
    std::unique_ptr<crypto::Kdf> kdf = {};  // device keys
  };
  static std::uint64_t id_of(Version version, Spi spi) {
    return std::uint64_t{spi.value} << 2 | static_cast<std::uint64_t>(version);
  }
  // Keys is what was added; not changed any more once it is shared.
  struct Keys {
    std::vector<Entry> entries;
    std::vector<std::uint32_t> of_devices;
    std::unordered_multimap<std::uint64_t, std::uint32_t> of_sas;
    unsigned phases = 0;
  };
  CaptureKeys(const crypto::Backend& backend, std::shared_ptr<Keys> keys)
      : backend_(backend), keys_(std::move(keys)) {}

  const crypto::Backend& backend_;
  std::shared_ptr<Keys> keys_;
  std::unordered_map<std::uint64_t, std::vector<Candidate>> made_;
  std::uint64_t last_id_ = ~std::uint64_t{0};
  std::span<Candidate> last_;
};

// load_keys reads the files that the options name into `ring`, and the configuration if there is
// one. Errors: a sentence with the file in it.
std::expected<std::optional<pcap::Configuration::Sealing>, std::string> load_keys(
    const Options& options, CaptureKeys& ring);

}  // namespace psp::pcap_tool
