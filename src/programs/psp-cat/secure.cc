// SPDX-License-Identifier: Apache-2.0
//
// The steps of the key exchange driven by poll(): each step of keyx says what it waits for, and one
// deadline is for all of them.
//
// Who is at the other end is said before the exchange is over, since the user may want to break it
// off. A connection that fails is not just closed: octets that nobody has read would turn the close
// into a reset, which can overtake our reason on its way to the peer.
#include "secure.hh"

#include <cerrno>
#include <sys/socket.h>

#include "keyx/client_ops.hh"

namespace psp::cat {
namespace {

using keyx::Step;

std::unexpected<Failure> timed_out(const Options& options, const char* missing) {
  return std::unexpected(
      Failure{kExitFailure,
              fmt::format("gave up after {} s without {}; is psp-cat at the other end, and does "
                          "UDP port 1000 pass on the way?",
                          static_cast<double>(options.timeout.count()) / 1000, missing)});
}

// wait_for waits for what `step` wants; false: time is up.
bool wait_for(Step step, int fd, const Deadline& deadline) {
  if (step == Step::kWantRetry) {
    if (deadline.left() == 0) return false;
    poll(nullptr, 0, static_cast<int>(keyx::kRetryDelay.count()));
    return true;
  }
  return deadline.wait(fd, step == Step::kWantRead ? POLLIN : POLLOUT);
}

// part_politely lets the peer read our reason before the connection goes: a close with octets
// unread would be a reset, and could overtake it.
void part_politely(int fd) {
  shutdown(fd, SHUT_WR);
  const Deadline deadline(std::chrono::seconds(1));
  char sink[4096];
  while (deadline.wait(fd, POLLIN)) {
    const ssize_t n = recv(fd, sink, sizeof sink, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) return;
  }
}

std::expected<void, Failure> do_handshake(const keyx::TlsContext& context, SSL* ssl, int fd,
                                          const Options& options, const Deadline& deadline) {
  for (;;) {
    const auto step = keyx::handshake(context, ssl);
    if (!step) return std::unexpected(to_failure(step.error()));
    if (*step == Step::kDone) return {};
    if (!wait_for(*step, fd, deadline))
      return timed_out(options, "the peer's part of the TLS handshake");
  }
}

// run_upgrade takes `upgrade` to its end. psp-cat sends nothing before, so that it never drains.
std::expected<void, Failure> run_upgrade(keyx::Upgrade& upgrade, int fd, const Options& options,
                                         const Deadline& deadline) {
  for (;;) {
    const Step step = upgrade.step();
    if (step == Step::kDone) return {};
    if (step == Step::kFailed) return std::unexpected(to_failure(upgrade.error()));
    if (step == Step::kWantDrain)
      return std::unexpected(
          Failure{kExitFailure, "the peer sends data without the PSP exchange; is it psp-cat?"});
    if (!wait_for(step, fd, deadline)) return timed_out(options, upgrade.waiting_for());
  }
}

std::unique_ptr<keyx::Upgrade> make_upgrade(SSL* ssl, int fd, keyx::PspOps& ops,
                                            const Options& options) {
  const keyx::Policy policy{
      .versions = options.versions, .allow_tls = options.allow_tls, .protocol = options.protocol};
  return ssl != nullptr ? keyx::make_upgrade(ssl, ops, policy)
                        : keyx::make_clear_upgrade(fd, ops, policy);
}

crypto::WipedVector take_early(keyx::Upgrade& upgrade) {
  crypto::WipedVector early(upgrade.pending());
  upgrade.read(early);
  return early;
}

void tell_who(const keyx::TlsContext& context, SSL* ssl, const Report& report) {
  if (context.mode == keyx::TlsMode::kFirstUse) {
    const std::string peer = keyx::peer_fingerprint(ssl);
    say_always(
        "warning: NOT authenticated: anybody may be at the other end. Compare fingerprints,");
    say_always("warning:   or use --psk-file or certificates (see psp-cat --help)");
    say_always("  this end:  SHA256 " + context.own_fingerprint);
    say_always("  other end: " + (peer.empty() ? "none shown" : "SHA256 " + peer));
  } else if (!keyx::peer_authenticated(context, ssl)) {
    report.notice("the other end was not asked who it is (--ca would)");
  }
}

void tell_what(const keyx::Outcome& outcome, const std::string& peer, const Report& report) {
  if (outcome.kind == keyx::Outcome::Kind::kTls) {
    say_always(fmt::format("warning: connected to {} by TLS, not PSP: {}", peer, outcome.why_tls));
    return;
  }
  report.notice(fmt::format("connected to {} by PSP, {}", peer, name(outcome.version)));
  if (!encrypts(outcome.version))
    say_always(
        fmt::format("warning: {} authenticates but does NOT encrypt: others can read the data",
                    name(outcome.version)));
}

}  // namespace

Failure to_failure(const keyx::Error& error) {
  const bool permission = error.sys_errno == EPERM || error.sys_errno == EACCES;
  Exit status = kExitFailure;
  switch (error.code) {
    case keyx::ErrorCode::kIo:
    case keyx::ErrorCode::kPeerClosed:
    case keyx::ErrorCode::kProtocol:
    case keyx::ErrorCode::kClearData:
    case keyx::ErrorCode::kTimeout:
      break;
    case keyx::ErrorCode::kAuthentication:
      status = kExitAuthentication;
      break;
    case keyx::ErrorCode::kNoPsp:
    case keyx::ErrorCode::kRxAssoc:
    case keyx::ErrorCode::kTxAssoc:
      status = permission ? kExitPermission : kExitNoPsp;
      break;
    case keyx::ErrorCode::kPeerRefused:
      status = kExitNoPsp;
      break;
    case keyx::ErrorCode::kUsage:
      status = kExitUsage;
      break;
  }
  return {status, error.message};
}

std::expected<std::unique_ptr<keyx::PspOps>, Failure> make_ops(const Options& options,
                                                               const Report& report) {
  auto ops = keyx::connect_ops(options.socket);
  if (ops) return std::move(*ops);
  const auto& error = ops.error();
  const bool permission = error.sys_errno == EPERM || error.sys_errno == EACCES;
  if (options.allow_tls) {
    report.notice(fmt::format("no PSP on this host: {}", error.message));
    return std::make_unique<keyx::AbsentOps>(
        permission ? keyx::Absence::kPermission : keyx::Absence::kNoProvider, error.message);
  }
  return std::unexpected(Failure{permission ? kExitPermission : kExitNoDaemon,
                                 fmt::format("no PSP on this host: {}", error.message)});
}

std::expected<Channel, Failure> secure(Dialed connection, const keyx::TlsContext& context,
                                       keyx::PspOps& ops, const Options& options,
                                       const Report& report, const Deadline& deadline,
                                       Summary& summary) {
  const int fd = connection.fd.get();
  keyx::SslPtr ssl;
  if (options.protocol == keyx::Protocol::kKernelSelftest) {
    say_always("warning: keys travel in CLEAR (kernel-selftest): for test labs only");
  } else {
    auto made = keyx::make_connection(context, fd, options.host);
    if (!made) return std::unexpected(to_failure(made.error()));
    ssl = std::move(*made);
    if (const auto done = do_handshake(context, ssl.get(), fd, options, deadline); !done) {
      part_politely(fd);
      return std::unexpected(done.error());
    }
    tell_who(context, ssl.get(), report);
    summary.authenticated = keyx::peer_authenticated(context, ssl.get());
  }
  const auto upgrade = make_upgrade(ssl.get(), fd, ops, options);
  if (const auto done = run_upgrade(*upgrade, fd, options, deadline); !done) {
    part_politely(fd);
    return std::unexpected(done.error());
  }
  tell_what(upgrade->outcome(), connection.peer, report);
  Channel channel{std::move(connection.fd), nullptr, upgrade->outcome(), take_early(*upgrade)};
  if (!channel.psp()) channel.ssl = std::move(ssl);
  summary.state = channel.psp() ? "psp" : "tls";
  if (channel.psp()) summary.version = name(channel.outcome.version);
  return channel;
}

}  // namespace psp::cat
