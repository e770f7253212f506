// SPDX-License-Identifier: Apache-2.0
//
// How the parts of an error become one sentence: what was asked for, the extack text or the meaning
// of the errno, the attribute. The kernel's words come first, for they can be searched for; those
// of an errno stand behind them in brackets. Programs branch on sys_errno and the attributes, which
// stay apart (error.hh): the sentence is for people alone.
#include "netlink/error.hh"

#include <cerrno>
#include <cstring>
#include <utility>

namespace psp {

std::unexpected<ClientError> client_error(int sys_errno, std::string text) {
  ClientError error;
  error.sys_errno = sys_errno;
  error.text = text;
  error.message = std::move(text);
  return std::unexpected(std::move(error));
}

namespace netlink {

std::unexpected<ClientError> refusal(const char* what, ClientError error) {
  const std::string meaning = std::strerror(error.sys_errno);
  std::string text = error.text;
  if (text.empty() && !error.missing_attribute.empty())
    text = "attribute " + error.missing_attribute + " is missing";
  error.message = std::string(what) + ": ";
  if (text.empty()) {
    error.message += meaning;
  } else {
    error.message += text;
    if (!error.bad_attribute.empty()) error.message += ", attribute " + error.bad_attribute;
    error.message += " (" + meaning + ")";
  }
  return std::unexpected(std::move(error));
}

std::unexpected<ClientError> failed_to(const char* what, ClientError error) {
  error.message = std::string(what) + ": " + error.message;
  return std::unexpected(std::move(error));
}

std::unexpected<ClientError> notifications_lost() {
  return client_error(ENOBUFS, "notifications came faster than they were read; some are lost");
}

}  // namespace netlink
}  // namespace psp
