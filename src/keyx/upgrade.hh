// SPDX-License-Identifier: Apache-2.0
//
// What every way from a connected socket to a PSP socket has in common: steps that never wait by
// themselves, an outcome or an error, and the octets of the application that came on the way. So it
// fits any event loop, and a blocking program too. Each step is bounded: a peer that sends without
// end does not keep it. A failed upgrade never goes on in clear: its socket is to be closed.
//
// Threading: one user at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <openssl/ssl.h>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "crypto/secret.hh"
#include "keyx/ops.hh"
#include "wire/types.hh"

namespace psp::keyx {

// Step says what must happen before the next call.
enum class Step {
  kDone,
  kWantRead,   // the socket must become readable
  kWantWrite,  // the socket must become writable
  kWantRetry,  // kRetryDelay must pass
  kWantDrain,  // the application must take octets with Upgrade::read
  kFailed,
};

inline constexpr std::chrono::milliseconds kRetryDelay{20};
inline constexpr unsigned kTxAssocTries = 5;

// Protocol is what goes over the wire. Only kSoftpsp agrees on a version, can stay on TLS and
// proves that the PSP stream begins where TLS ended; the others are there to speak with existing
// programs, and both ends must have been told.
enum class Protocol {
  kSoftpsp,         // "softpsp"
  kFizzV0,          // "fizz-v0": fizz's PSP upgrade protocol V0, one TLV each way inside TLS
  kKernelSelftest,  // "kernel-selftest": the selftest responder's keys IN CLEAR, for labs
};
std::string_view name(Protocol protocol);
std::optional<Protocol> parse_protocol(std::string_view name);

// Policy is what the user allows.
struct Policy {
  VersionSet versions{0b0011};  // those that encrypt; the interoperability modes need exactly one
  bool allow_tls = false;       // stay on TLS where PSP cannot be had; both sides must allow it
  Protocol protocol = Protocol::kSoftpsp;
  // early_max is how many octets of the application are pending at most; kWantDrain says that there
  // are more.
  std::size_t early_max = std::size_t{1} << 20;
};

enum class ErrorCode {
  kIo,              // the connection broke
  kPeerClosed,      // the peer ended the connection in the middle of the exchange
  kProtocol,        // the peer sent what it must not send
  kAuthentication,  // the peer is not who it must be, or octets were changed on the way
  kNoPsp,           // there is no version that both can receive
  kRxAssoc,         // our provider gave no Rx key
  kTxAssoc,         // our provider did not take the Tx key
  kClearData,       // clear data came after the peer's key
  kPeerRefused,     // the peer said why it cannot go on
  kUsage,           // files, settings or the SSL are wrong; not the peer's fault
  kTimeout,         // for callers with a clock: time was up
};

// Error is one sentence for people, with a code to branch on.
struct Error {
  ErrorCode code = ErrorCode::kIo;
  int sys_errno = 0;  // of the call that failed; 0: none
  std::string message;
};

// Outcome is what an upgrade that is done has come to.
struct Outcome {
  enum class Kind { kPsp, kTls };
  Kind kind = Kind::kPsp;
  Version version = Version::kAesGcm256;  // kPsp only, like the next four
  std::uint32_t dev_id = 0;               // whose device key the Rx key comes from
  Spi rx_spi = {}, tx_spi = {};
  // proven: the peer has sent PSP (state Full), and the stream begins as agreed inside TLS.
  bool proven = false;
  std::string why_tls = {};  // kTls: why not PSP
};

// Upgrade is one side of an upgrade. It neither waits nor reads a clock: the time-out is the
// caller's, who simply drops it. On a blocking socket step() blocks instead of returning kWantRead
// or kWantWrite. Thread: one user at a time.
class Upgrade {
 public:
  virtual ~Upgrade() = default;
  Upgrade(const Upgrade&) = delete;
  Upgrade& operator=(const Upgrade&) = delete;

  virtual Step step() = 0;
  // done tells whether step() has said kDone.
  virtual bool done() const = 0;
  // waiting_for is what is lacking now, for a time-out's message: "the peer's offer".
  virtual const char* waiting_for() const = 0;

  const Outcome& outcome() const { return outcome_; }  // after kDone
  const Error& error() const { return error_; }        // after kFailed

  // pending is how many octets the peer's application sent before the upgrade and nobody has read
  // yet; read takes up to to.size() of them and returns how many. They come before anything that
  // the socket (or, with Outcome::kTls, the SSL) still holds. Valid in every state; after kFailed
  // what came behind them, beyond early_max, is lost.
  std::size_t pending() const { return early_.size() - early_read_; }
  std::size_t read(std::span<std::uint8_t> to);

 protected:
  Upgrade() = default;
  void keep_early(std::span<const std::uint8_t> octets);
  // keep_urgent_inline (SO_OOBINLINE) comes before our KEY: a clear segment that somebody puts in
  // on the way can move TCP's urgent pointer, also to an octet of the PSP stream, and recv() would
  // leave that octet out. It stays so, except on TLS: urgent_as_before.
  std::optional<Error> keep_urgent_inline(int fd);
  void urgent_as_before(int fd);

  Outcome outcome_;
  Error error_;

 private:
  bool urgent_changed_ = false;
  crypto::WipedVector early_;  // what was read is zero
  std::size_t early_read_ = 0;
};

// make_upgrade begins an upgrade of `ssl` by policy.protocol (not kKernelSelftest).
//
// `ssl` is borrowed: TLS 1.3, its handshake done, on a socket by SSL_set_fd (or another BIO of type
// socket), no kTLS, no SSL_write unfinished. While the Upgrade lives nobody else uses it. Done with
// kPsp: the socket is the caller's, and the SSL is over: reads and writes of it fail, SSL_shutdown
// and SSL_free send nothing. Not one octet behind the exchange has been read. Done with kTls: `ssl`
// is the caller's again, as it was. Failed or dropped: close the socket. The process must ignore
// SIGPIPE, as for any use of OpenSSL on sockets.
std::unique_ptr<Upgrade> make_upgrade(SSL* ssl, PspOps& ops, const Policy& policy);

// make_clear_upgrade is the exchange of the kernel's selftest responder on the bare socket `fd`:
// keys IN CLEAR. policy.protocol must say kKernelSelftest, and policy.versions exactly one.
std::unique_ptr<Upgrade> make_clear_upgrade(int fd, PspOps& ops, const Policy& policy);

// announce makes the connections of `ctx` tell each other in the TLS handshake, by an extension,
// that they will try an upgrade. A side that announces and whose peer does not need not ask: its
// upgrade ends at once, on TLS or with kNoPsp, and sends nothing. So one port can serve both.
// Call it once, before the first SSL_new; on both ends or on none. False: OpenSSL refuses.
bool announce(SSL_CTX* ctx);

enum class Announced { kNotAsked, kNo, kYes };
// announced tells, after the handshake, whether both ends did: kNo also where a server-name
// callback has changed the context for one that does not announce, and in an SSL cleared for
// another handshake.
Announced announced(const SSL* ssl);

}  // namespace psp::keyx
