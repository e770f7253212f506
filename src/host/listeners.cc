// SPDX-License-Identifier: Apache-2.0
//
// Home must work or pspd does not start; elsewhere a namespace whose callers cannot reach us is a
// line in the log: they are secured all the same, by programs that reach us otherwise.
//
// A socket keeps the namespace alive that it was made in. So each listener elsewhere is counted
// (references), and Host lets go of it when nobody but pspd has the namespace.
#include "listeners.hh"

#include "base/in_netns.hh"

namespace psp::host {

std::expected<void, std::string> Listeners::listen_at_home() {
  auto listening = control::ControlSocket::listen(clients_, address_);
  if (!listening) return std::unexpected(listening.error());
  at_home_ = std::move(*listening);
  return {};
}

void Listeners::listen_in(const kernel::Netns& netns) {
  if (elsewhere_.contains(netns.cookie()) || !address_.starts_with('@')) return;
  const InNetns inside(netns);
  auto listening = control::ControlSocket::listen(clients_, address_);
  if (listening)
    elsewhere_.emplace(netns.cookie(), std::move(*listening));
  else
    log_.warn("in an associated namespace: {}", listening.error());
}

}  // namespace psp::host
