// SPDX-License-Identifier: Apache-2.0
//
// TCP sockets as the proxy uses them: never waiting, without Nagle's delay, with keep-alives so
// that a peer that has vanished is noticed.
//
// prepare() is for each socket that carries data, accepted ones too. Closing in order and by a
// reset are different answers to the other side: a connection that was cut off must not look
// complete.
#pragma once

#include <expected>
#include <string>
#include <vector>

#include "base/socket_address.hh"
#include "base/unique_fd.hh"

#include "host_port.hh"

namespace psp::proxy {

// listen_on opens a listener for each address of `name`. The error is a sentence.
std::expected<std::vector<UniqueFd>, std::string> listen_on(const HostPort& name);

// prepare sets what every socket that carries data needs.
void prepare(int fd);

// begin_connect starts a connection: the socket is writable when it has ended. The error is an
// errno.
std::expected<UniqueFd, int> begin_connect(const SocketAddress& to);

// reset makes the close of `fd` a reset of its connection.
void reset_on_close(int fd);

// local_address is an empty one where there is none.
SocketAddress local_address(int fd);

}  // namespace psp::proxy
