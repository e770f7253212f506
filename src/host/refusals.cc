// SPDX-License-Identifier: Apache-2.0
//
// The core's three limits, in an operator's words: a user has too many, all together have, or the
// SPIs have run out. Each line says whose room it is, why, and what to do.
//
// ENOSPC stands for two of them, which are told apart by the text of the error. Each cause has a
// pause of its own: a user who runs into his limit all day must not hide that the host's is
// reached.
#include "refusals.hh"

#include <cerrno>
#include <fmt/format.h>
#include <string_view>
#include <utility>

namespace psp::host {
namespace {

// cause is 0 where a user has too many, 1 where all together have, 2 at the end of the SPIs.
std::size_t cause(const device::Error& error) {
  if (error.sys_errno == EDQUOT) return 0;
  return std::string_view(error.text).starts_with("SPI") ? 2 : 1;
}

std::string why(std::size_t cause, const Refusals::Who& who) {
  constexpr const char* kTime = "those that ended within two minutes among them";
  switch (cause) {
    case 0:
      return fmt::format(
          "(EDQUOT): uid {}, or its container, has as many sockets with keys as one user may, half "
          "of --max-connections, {}; end some, or raise it and restart pspd",
          who.owner, kTime);
    case 1:
      return fmt::format(
          "(ENOSPC): as many sockets have keys as may: twice --max-connections, and those of all "
          "but root of the host fifteen sixteenths of it, {}; end some, or raise it and restart "
          "pspd",
          kTime);
    default:
      return "(ENOSPC): all SPIs of the device key have been given out; rotate it";
  }
}

}  // namespace

std::optional<std::string> Refusals::refuse(const device::Error& error, const Who& who,
                                            TimePoint now) {
  const std::size_t at = cause(error);
  Cause& last = causes_[at];
  if (last.said && now - *last.said < kPause) {
    last.unsaid++;
    return std::nullopt;
  }
  last.said = now;
  std::string line =
      fmt::format("rx-assoc of uid {}, pid {} refused {}", who.uid, who.pid, why(at, who));
  if (const std::size_t more = std::exchange(last.unsaid, 0); more != 0)
    line += fmt::format(" ({} more since this was last said)", more);
  return line;
}

}  // namespace psp::host
