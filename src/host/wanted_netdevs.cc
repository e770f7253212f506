// SPDX-License-Identifier: Apache-2.0
//
// A list in the order of the command line. Upkeep has the pauses between tries, and says each kind
// of trouble once. A netdev that is not there is no trouble: it is waited for in silence.
//
// A name can pass to another netdev, and a netdev can get another name. So what has a device is
// followed by the device, and only what has none is looked for by its name.
#include "wanted_netdevs.hh"

#include <algorithm>

namespace psp::host {

bool WantedNetdevs::contains(const std::string& name) const {
  return std::ranges::find(all_, name, &Wanted::name) != all_.end();
}

std::vector<std::string> WantedNetdevs::without_device() const {
  std::vector<std::string> names;
  for (const Wanted& wanted : all_)
    if (wanted.device == 0) names.push_back(wanted.name);
  return names;
}

void WantedNetdevs::device_gone(std::uint16_t device) {
  for (Wanted& wanted : all_)
    if (wanted.device == device) wanted.device = 0;
}

void WantedNetdevs::rename(const Names& names,
                           const std::function<std::string(std::uint16_t)>& name_of) {
  for (Wanted& wanted : all_) {
    if (wanted.device == 0 || names.contains(wanted.name)) continue;
    if (const std::string now = name_of(wanted.device); names.contains(now)) wanted.name = now;
  }
}

std::vector<std::uint16_t> WantedNetdevs::unwanted(const Names& names) const {
  std::vector<std::uint16_t> devices;
  for (const Wanted& wanted : all_)
    if (wanted.device != 0 && !names.contains(wanted.name)) devices.push_back(wanted.device);
  return devices;
}

void WantedNetdevs::forget(const Names& names) {
  std::erase_if(all_, [&](const Wanted& wanted) {
    return wanted.device == 0 && !names.contains(wanted.name);
  });
}

std::vector<std::string> WantedNetdevs::find(
    std::chrono::steady_clock::time_point now,
    const std::function<bool(const std::string&)>& is_there,
    const std::function<std::expected<std::uint16_t, std::string>(const std::string&)>& give) {
  std::vector<std::string> sentences;
  for (Wanted& wanted : all_) {
    const auto look = [&]() -> kernel::Finding {
      if (wanted.device != 0 || !is_there(wanted.name)) return std::nullopt;
      return wanted.name + " has no PSP device";
    };
    const auto put = [&]() -> std::expected<void, std::string> {
      const auto given = give(wanted.name);
      if (!given) return std::unexpected(given.error());
      wanted.device = *given;
      return {};
    };
    const auto news = wanted.upkeep.turn(now, look, put);
    // That one has gone is said elsewhere, and is no good news.
    if (news && wanted.device == 0 && is_there(wanted.name)) sentences.push_back(*news);
  }
  return sentences;
}

}  // namespace psp::host
