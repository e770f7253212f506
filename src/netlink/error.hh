// SPDX-License-Identifier: Apache-2.0
//
// The error of all that asks a provider of PSP: the client, and the key exchange above it. Made of
// a netlink error with its extended acknowledgement, or of our own words where a request got
// nowhere.
#pragma once

#include <expected>
#include <string>

namespace psp {

// ClientError is a refusal, in the words of whoever refused.
struct ClientError {
  int sys_errno = 0;
  std::string text;           // extack text, or ours where the request got nowhere
  std::string bad_attribute;  // for example ".dev-id"; empty if none
  std::string missing_attribute;
  // message is all of it in one sentence: "tx-assoc: Tx key already set (Device or resource busy)".
  std::string message;
};

template <typename T>
using ClientResult = std::expected<T, ClientError>;

// client_error makes an error of our own: `text` is the whole sentence.
std::unexpected<ClientError> client_error(int sys_errno, std::string text);

namespace netlink {

// refusal makes the one sentence out of the parts of an error; `what` was asked for.
std::unexpected<ClientError> refusal(const char* what, ClientError error);

// failed_to puts `what` was asked for before an error of our own.
std::unexpected<ClientError> failed_to(const char* what, ClientError error);

// notifications_lost is ENOBUFS: whatever was lost must be asked for.
std::unexpected<ClientError> notifications_lost();

}  // namespace netlink
}  // namespace psp
