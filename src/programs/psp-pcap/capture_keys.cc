// SPDX-License-Identifier: Apache-2.0
//
// Keys by version and SPI. What was made of them is remembered, but not without limit: a capture
// may hold any number of SPIs that somebody invented.
//
// Keys of SAs come before those of devices, in the order in which they were given. The text of a
// file with keys is wiped when it has been read, and no message quotes a line of it.
#include "capture_keys.hh"

#include <algorithm>
#include <fmt/format.h>

#include "base/counted.hh"
#include "pcap/file.hh"

namespace psp::pcap_tool {
namespace {

constexpr std::size_t kRemembered = 1024;

using Refusal = std::unexpected<std::string>;

// Text is a file with keys; wiped when dropped.
struct Text {
  std::string text;
  ~Text() { explicit_bzero(text.data(), text.size()); }
};

void add_device_keys(pcap::Configuration& configuration, CaptureKeys& ring) {
  for (std::uint8_t index = 0; index < 2; ++index) {
    pcap::KeyEntry entry{.kind = pcap::KeyEntry::Kind::kDevice, .index = index};
    entry.key = std::move(configuration.device_keys[index]);
    ring.add(std::move(entry));
  }
}

std::expected<std::optional<pcap::Configuration::Sealing>, std::string> load_configuration(
    const std::string& path, bool sealing, CaptureKeys& ring) {
  auto text = pcap::read_text(path, pcap::kMaxKeyFile);
  if (!text) return Refusal(text.error());
  const Text wiped{std::move(*text)};
  auto configuration = pcap::parse_configuration(wiped.text, sealing);
  if (!configuration) return Refusal(fmt::format("{}: {}", path, configuration.error()));
  add_device_keys(*configuration, ring);
  return configuration->sealing;
}

std::expected<void, std::string> load_sa_key(const Options& options, CaptureKeys& ring) {
  auto text = pcap::read_text(options.sa_key, pcap::kMaxKeyFile);
  if (!text) return Refusal(text.error());
  const Text wiped{std::move(*text)};
  auto key = pcap::parse_key(wiped.text);
  if (!key) return Refusal(fmt::format("{}: {}", options.sa_key, key.error()));
  if (key->size() != key_size(*options.version))
    return Refusal(fmt::format("{}: {}, but a key of {} has {}", options.sa_key,
                               counted(key->size(), "octet"), name(*options.version),
                               key_size(*options.version)));
  pcap::KeyEntry entry{.version = *options.version, .spi = {*options.spi}};
  entry.key = std::move(*key);
  ring.add(std::move(entry));
  return {};
}

std::expected<void, std::string> load_key_log(const std::string& path, CaptureKeys& ring) {
  auto text = pcap::read_text(path, pcap::kMaxKeyFile);
  if (!text) return Refusal(text.error());
  const Text wiped{std::move(*text)};
  auto log = pcap::parse_key_log(wiped.text);
  if (!log) return Refusal(fmt::format("{}: {}", path, log.error()));
  if (log->empty()) return Refusal(fmt::format("{}: no PSP keys in it", path));
  for (auto& entry : *log) ring.add(std::move(entry));
  return {};
}

}  // namespace

void CaptureKeys::add(pcap::KeyEntry entry) {
  const auto number = static_cast<std::uint32_t>(keys_->entries.size());
  Entry made{.key = std::move(entry)};
  if (made.key.kind == pcap::KeyEntry::Kind::kDevice) {
    made.kdf = backend_.make_kdf(made.key.key);
    keys_->phases |= 1u << made.key.index;
    keys_->of_devices.push_back(number);
  } else {
    keys_->of_sas.emplace(id_of(made.key.version, made.key.spi), number);
  }
  keys_->entries.push_back(std::move(made));
}

std::span<CaptureKeys::Candidate> CaptureKeys::find(Version version, Spi spi) {
  const std::uint64_t id = id_of(version, spi);
  if (id == last_id_) return last_;
  auto found = made_.find(id);
  if (found == made_.end()) {
    if (made_.size() >= kRemembered) made_.clear();
    found = made_.emplace(id, make(version, spi)).first;
  }
  last_id_ = id;
  last_ = found->second;
  return last_;
}

std::vector<CaptureKeys::Candidate> CaptureKeys::make(Version version, Spi spi) {
  std::vector<std::uint32_t> wanted;
  const auto [first, end] = keys_->of_sas.equal_range(id_of(version, spi));
  for (auto it = first; it != end; ++it) wanted.push_back(it->second);
  std::sort(wanted.begin(), wanted.end());
  for (const std::uint32_t entry : keys_->of_devices)
    if (keys_->entries[entry].key.index == spi.phase()) wanted.push_back(entry);

  std::vector<Candidate> candidates;
  for (const std::uint32_t entry : wanted) {
    Candidate candidate{.aead = backend_.make_aead(), .entry = entry};
    if (keys_->entries[entry].kdf) {
      crypto::SaKey key;
      keys_->entries[entry].kdf->derive(version, spi, key);
      candidate.aead->rekey(version, key.span());
    } else {
      candidate.aead->rekey(version, keys_->entries[entry].key.key.span());
    }
    candidates.push_back(std::move(candidate));
  }
  return candidates;
}

bool CaptureKeys::fits(std::uint32_t entry, const pcap::IpHost& destination) const {
  const auto& wanted = keys_->entries[entry].key.destination;
  return !wanted || *wanted == destination;
}

std::expected<std::optional<pcap::Configuration::Sealing>, std::string> load_keys(
    const Options& options, CaptureKeys& ring) {
  std::optional<pcap::Configuration::Sealing> sealing;
  if (!options.configuration.empty()) {
    const bool wanted = options.command == Command::kEncrypt;
    const auto loaded = load_configuration(options.configuration, wanted, ring);
    if (!loaded) return loaded;
    sealing = *loaded;
  }
  if (!options.device_keys.empty())
    if (const auto loaded = load_configuration(options.device_keys, false, ring); !loaded)
      return loaded;
  if (!options.sa_key.empty())
    if (const auto loaded = load_sa_key(options, ring); !loaded) return Refusal(loaded.error());
  if (!options.key_log.empty())
    if (const auto loaded = load_key_log(options.key_log, ring); !loaded)
      return Refusal(loaded.error());
  return sealing;
}

}  // namespace psp::pcap_tool
