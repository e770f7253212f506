// SPDX-License-Identifier: Apache-2.0
//
// TCP sockets as the proxy uses them: never waiting, without Nagle's delay, with keep-alives so
// that a peer that has vanished is noticed.
#pragma once

#include <expected>
#include <string>
#include <vector>

#include <psp/base/unique_fd.hh>

#include "address.hh"

namespace psp::proxy {

// listen_on opens a listener for each address of `name`. The error is a sentence.
std::expected<std::vector<UniqueFd>, std::string> listen_on(const HostPort& name);

// prepare sets what every socket that carries data needs.
void prepare(int fd);

// begin_connect starts a connection: the socket is writable when it has ended. The error is an
// errno.
std::expected<UniqueFd, int> begin_connect(const Address& to);

// pending_error is the errno that waits on a socket, and takes it off; 0: none.
int pending_error(int fd);

// reset makes the close of `fd` a reset of its connection.
void reset_on_close(int fd);

// local_address is an empty one where there is none.
Address local_address(int fd);

}  // namespace psp::proxy
