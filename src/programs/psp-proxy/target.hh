// SPDX-License-Identifier: Apache-2.0
//
// Target: where connections go on to. Names are looked up again while the proxy runs, so that a
// host that moves is found, but never on a thread that moves data.
//
// Threading: refresh() by one thread (it waits for the resolver), addresses() by any.
#pragma once

#include <memory>
#include <mutex>

#include "base/socket_address.hh"

#include "host_port.hh"

namespace psp::proxy {

class Target {
 public:
  using Addresses = std::shared_ptr<const std::vector<SocketAddress>>;

  explicit Target(HostPort name) : name_(std::move(name)) {}

  // refresh keeps the addresses it has if the resolver does not answer. The error is a sentence.
  std::expected<void, std::string> refresh();
  Addresses addresses() const;
  const HostPort& name() const { return name_; }

 private:
  HostPort name_;
  mutable std::mutex mutex_;
  Addresses addresses_;
};

}  // namespace psp::proxy
