// SPDX-License-Identifier: Apache-2.0
//
// From errors of the client to exit statuses and sentences. The server's own words (extack) go
// first: they say more than an errno; without them it is the errno's text.
//
// A connection that is refused or breaks off is "nobody to ask", whenever it happens: scripts try
// again on that status. One that may not be made is a matter of permission, which no trying
// changes.
#include "failure.hh"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>

namespace psp::ctl {

namespace {

ExitStatus status_of(int sys_errno) {
  switch (sys_errno) {
    case EPERM:
    case EACCES:
      return ExitStatus::kPermission;
    case EOPNOTSUPP:
      return ExitStatus::kNotSupported;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
      return ExitStatus::kUnreachable;
    default:
      return ExitStatus::kFailed;
  }
}

std::string words_of(const ClientError& error) {
  std::string words = error.text.empty() ? std::strerror(error.sys_errno) : error.text;
  if (!error.bad_attribute.empty())
    words += fmt::format(" (bad attribute {})", error.bad_attribute);
  if (!error.missing_attribute.empty())
    words += fmt::format(" (missing attribute {})", error.missing_attribute);
  return words;
}

}  // namespace

std::unexpected<Failure> usage_error(std::string message) {
  return std::unexpected(Failure{ExitStatus::kUsage, std::move(message)});
}

std::unexpected<Failure> refused(std::string_view what, const ClientError& error) {
  return std::unexpected(
      Failure{status_of(error.sys_errno), fmt::format("{}: {}", what, words_of(error))});
}

std::unexpected<Failure> unreachable(const ClientError& error) {
  ExitStatus status = status_of(error.sys_errno);
  if (status != ExitStatus::kPermission) status = ExitStatus::kUnreachable;
  return std::unexpected(Failure{status, fmt::format("connect: {}", words_of(error))});
}

}  // namespace psp::ctl
