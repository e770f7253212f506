// SPDX-License-Identifier: Apache-2.0
//
// Cable carries frames between two netdevs of a namespace, on which only it listens: it sees every
// frame that is really on the wire (GSO frames too, with their virtio-net header), logs it, can
// hold back what the test wants and send what the test makes.
//
// Threading: one thread; the log and the filter are guarded by a mutex, everything else belongs to
// the test's thread.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.hh"

#include "host.hh"
#include "packets.hh"

namespace psp::lab {

class Cable {
 public:
  // The ends have to be up.
  Cable(const Netns& netns, const std::string& a_end, const std::string& b_end);
  ~Cable();

  // carry(false) holds every frame back; it is still logged.
  void carry(bool on) { carry_ = on; }
  // set_filter: only packets for which it is true go on. An empty one lets all pass.
  void set_filter(std::function<bool(const Seen&)> filter);
  void log(bool on) { log_ = on; }

  // send puts an IP packet on the wire to the host on the other side of `from`.
  void send(From from, const Octets& packet);

  std::size_t mark() const;
  std::vector<Seen> since(std::size_t mark) const;
  // find waits for the first packet since `mark` for which `wanted` holds.
  std::optional<Seen> find(std::size_t mark, const std::function<bool(const Seen&)>& wanted,
                           std::chrono::milliseconds patience = 5s) const;

 private:
  void run();
  void take(From from);

  UniqueFd a_, b_, stop_;
  std::atomic<bool> carry_{true}, log_{true};
  mutable std::mutex mutex_;
  std::function<bool(const Seen&)> filter_;
  std::vector<Seen> seen_;
  std::vector<std::uint8_t> buffer_;
  std::thread thread_;
};

}  // namespace psp::lab
