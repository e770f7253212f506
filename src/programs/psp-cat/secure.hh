// SPDX-License-Identifier: Apache-2.0
//
// From a TCP connection to a secured one: TLS handshake, key exchange, time-out, and what the user
// must be told about who is at the other end.
//
// It ends in PSP, or in TLS where --allow-tls is given on both ends, and says which; never in
// clear. The peer's data can have begun before the end of the exchange: it comes out in `early`,
// which stream writes first.
#pragma once

#include <expected>
#include <memory>

#include "keyx/tls.hh"
#include "keyx/upgrade.hh"

#include "dial.hh"
#include "report.hh"

namespace psp::cat {

// Channel is a secured connection: PSP on the bare socket, or TLS where that is allowed.
struct Channel {
  UniqueFd fd;
  keyx::SslPtr ssl;  // null under PSP. Freed before fd.
  keyx::Outcome outcome;
  crypto::WipedVector early;  // of the peer's data, to be read before all else

  bool psp() const { return outcome.kind == keyx::Outcome::Kind::kPsp; }
};

// make_ops finds PSP on this host. With --allow-tls a host without PSP is no failure.
std::expected<std::unique_ptr<keyx::PspOps>, Failure> make_ops(const Options& options,
                                                               const Report& report);

// secure does it all on `connection`, which it takes.
std::expected<Channel, Failure> secure(Dialed connection, const keyx::TlsContext& context,
                                       keyx::PspOps& ops, const Options& options,
                                       const Report& report, const Deadline& deadline,
                                       Summary& summary);

// to_failure puts an error of the exchange under an exit status.
Failure to_failure(const keyx::Error& error);

}  // namespace psp::cat
