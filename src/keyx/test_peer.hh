// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the key exchange stand on: real TCP connections over loopback, TLS on them, a
// model of PSP with faults to order, a man in the middle, and a peer that says what the test wants.
// The model seals nothing: behind tx-assoc the octets travel in clear.
#pragma once

#include <arpa/inet.h>
#include <csignal>
#include <deque>
#include <fcntl.h>
#include <functional>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include "keyx/exchange.hh"
#include "keyx/tls.hh"

namespace psp::keyx::test {

using Bytes = std::vector<std::uint8_t>;

// Fd owns a descriptor.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    reset();
    fd_ = std::exchange(other.fd_, -1);
    return *this;
  }
  ~Fd() { reset(); }
  int get() const { return fd_; }
  void reset() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  // reset_connection closes with an RST instead of a FIN.
  void reset_connection() {
    const linger now{1, 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    reset();
  }

 private:
  int fd_;
};

// tcp_pair is an established TCP connection over loopback: the connecting end and the accepting
// end, non-blocking. An IPv6 socket may have an IPv4 address ("::ffff:127.0.0.1").
inline std::pair<Fd, Fd> tcp_pair(int client_family = AF_INET, int server_family = AF_INET,
                                  const char* address = "127.0.0.1") {
  signal(SIGPIPE, SIG_IGN);
  Fd listener(socket(server_family, SOCK_STREAM, 0));
  sockaddr_storage any{};
  any.ss_family = static_cast<sa_family_t>(server_family);
  socklen_t size = sizeof any;
  EXPECT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&any), size), 0);
  EXPECT_EQ(listen(listener.get(), 1), 0);
  EXPECT_EQ(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&any), &size), 0);
  const in_port_t port = reinterpret_cast<const sockaddr_in&>(any).sin_port;  // both have it there
  sockaddr_storage to{};
  to.ss_family = static_cast<sa_family_t>(client_family);
  reinterpret_cast<sockaddr_in&>(to).sin_port = port;
  void* const octets = client_family == AF_INET
                           ? static_cast<void*>(&reinterpret_cast<sockaddr_in&>(to).sin_addr)
                           : &reinterpret_cast<sockaddr_in6&>(to).sin6_addr;
  EXPECT_EQ(inet_pton(client_family, address, octets), 1);
  Fd client(socket(client_family, SOCK_STREAM, 0));
  EXPECT_EQ(connect(client.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  Fd server(accept(listener.get(), nullptr, nullptr));
  for (int fd : {client.get(), server.get()}) {
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(fd, F_SETFL, O_NONBLOCK);
  }
  return {std::move(client), std::move(server)};
}

inline int unread(int fd) {
  int n = 0;
  return ioctl(fd, FIONREAD, &n) == 0 ? n : -1;
}

// wait_readable waits until there is something; loopback needs a moment under load.
inline bool wait_readable(int fd, int timeout_ms = 5000) {
  pollfd p{fd, POLLIN, 0};
  return poll(&p, 1, timeout_ms) == 1;
}

inline int urgent_inline(int fd) {
  int on = -1;
  socklen_t size = sizeof on;
  return getsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, &size) == 0 ? on : -1;
}

// read_all reads `size` octets, or what comes before the end or 5 s of nothing.
inline std::string read_all(int fd, std::size_t size) {
  std::string out;
  char piece[64];
  while (out.size() < size && wait_readable(fd)) {
    const ssize_t n = recv(fd, piece, std::min(sizeof piece, size - out.size()), 0);
    if (n <= 0) break;
    out.append(piece, static_cast<std::size_t>(n));
  }
  return out;
}

// refused is an error of a provider of PSP.
inline ClientError refused(int sys_errno, std::string text) {
  return client_error(sys_errno, std::move(text)).error();
}

// ModelOps is PSP with faults to order.
class ModelOps final : public PspOps {
 public:
  static constexpr std::uint32_t kDevId = 7;
  Availability availability{.versions = VersionSet::all()};
  std::optional<ClientError> rx_fault;
  std::deque<ClientError> tx_faults;  // one per call, then success
  bool busy_while_unread = false;     // EBUSY as long as the receive queue holds anything
  std::optional<KeyInfo> rx_key;      // what rx_assoc gives; else one of the right length
  std::function<void(int)> on_rx_assoc;
  unsigned rx_calls = 0, tx_calls = 0;
  Spi next_spi{0x8000'0101};
  std::optional<Version> version;
  std::optional<Spi> tx_spi;
  Bytes tx_key, rx_key_given;

  std::optional<Ends> ends_seen;  // else those of the socket

  ClientResult<Ends> ends(int fd) override {
    if (ends_seen) return *ends_seen;
    return PspOps::ends(fd);
  }
  Availability available(int) override { return availability; }

  ClientResult<RxAssocInfo> rx_assoc(int fd, Version wanted) override {
    ++rx_calls;
    if (on_rx_assoc) on_rx_assoc(fd);
    if (rx_fault) return std::unexpected(*rx_fault);
    version = wanted;
    if (rx_key) return RxAssocInfo{kDevId, std::move(*rx_key)};
    rx_key_given.assign(key_size(wanted), static_cast<std::uint8_t>(next_spi.value));
    return RxAssocInfo{kDevId, {next_spi, crypto::SaKey(rx_key_given)}};
  }

  ClientResult<void> tx_assoc(int fd, Version, const KeyInfo& tx) override {
    ++tx_calls;
    if (busy_while_unread && unread(fd) > 0)
      return client_error(EBUSY, "incompatible segments in the recv queue");
    if (!tx_faults.empty()) {
      ClientError fault = tx_faults.front();
      tx_faults.pop_front();
      return std::unexpected(fault);
    }
    tx_spi = tx.spi;
    tx_key.assign(tx.key.span().begin(), tx.key.span().end());
    return {};
  }
};

inline const TlsContext& first_use_context(bool server) {
  static const auto client_context = make_context({.server = false, .first_use = true});
  static const auto server_context = make_context({.server = true, .first_use = true});
  return server ? *server_context : *client_context;
}

// see_a_wire lets two ends believe that what lies between them leaves their addresses as they are.
inline void see_a_wire(ModelOps& client, ModelOps& server) {
  client.ends_seen = Ends{{1}, {2}};
  server.ends_seen = Ends{{2}, {1}};
}

// Relay is a man in the middle between two connections: what it reads it hands on, unless `tamper`
// changes it.
class Relay {
 public:
  Relay(Fd a, Fd b) : a_(std::move(a)), b_(std::move(b)) {}
  std::size_t chunk = 65536;
  // Called with each piece that goes from the client (true) or from the server.
  std::function<void(bool, Bytes&)> tamper;

  void pump() {
    forward(a_, b_, true);
    forward(b_, a_, false);
  }

 private:
  void forward(Fd& from, Fd& to, bool from_client) {
    if (from.get() < 0 || to.get() < 0) return;
    Bytes piece(chunk);
    const ssize_t n = recv(from.get(), piece.data(), piece.size(), 0);
    if (n == 0) shutdown(to.get(), SHUT_WR);
    if (n <= 0) return;
    piece.resize(static_cast<std::size_t>(n));
    if (tamper) tamper(from_client, piece);
    EXPECT_EQ(send(to.get(), piece.data(), piece.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(piece.size()));
  }
  Fd a_, b_;
};

// Side is one end of a connection: socket and TLS.
struct Side {
  const TlsContext* context = nullptr;
  Fd fd;
  SslPtr ssl;

  Side() = default;
  Side(const TlsContext& from, Fd socket, const std::string& peer_name = "localhost")
      : context(&from), fd(std::move(socket)) {
    auto made = make_connection(from, fd.get(), peer_name);
    EXPECT_TRUE(made) << (made ? "" : made.error().message);
    if (made) ssl = std::move(*made);
  }
};

// shake does both handshakes, and gives what each came to.
inline std::pair<std::expected<Step, Error>, std::expected<Step, Error>> shake(
    Side& a, Side& b, Relay* relay = nullptr) {
  std::expected<Step, Error> ra = Step::kWantRead, rb = Step::kWantRead;
  const auto open = [](const std::expected<Step, Error>& r) { return r && *r != Step::kDone; };
  for (int i = 0; i < 20000 && (open(ra) || open(rb)); ++i) {
    if (open(ra)) ra = handshake(*a.context, a.ssl.get());
    if (!ra) a.fd.reset();
    if (open(rb)) rb = handshake(*b.context, b.ssl.get());
    if (!rb && !open(ra)) break;
    if (relay != nullptr) relay->pump();
    if (i > 100) usleep(50);
  }
  return {ra, rb};
}

// drive steps both exchanges until each is done or has failed; who fails closes, as programs do.
inline std::pair<Step, Step> drive(Upgrade& a, Side& sa, Upgrade& b, Side& sb,
                                   Relay* relay = nullptr) {
  Step ra = Step::kWantRead, rb = Step::kWantRead;
  const auto open = [](Step s) { return s != Step::kDone && s != Step::kFailed; };
  for (int i = 0; i < 40000 && (open(ra) || open(rb)); ++i) {
    if (open(ra) && (ra = a.step()) == Step::kFailed) shutdown(sa.fd.get(), SHUT_WR);
    if (open(rb) && (rb = b.step()) == Step::kFailed) shutdown(sb.fd.get(), SHUT_WR);
    if (relay != nullptr) relay->pump();
    if (i > 100) usleep(50);
  }
  return {ra, rb};
}

// ScriptedPeer is the server that a test plays by hand, opposite an Exchange on `client`.
class ScriptedPeer {
 public:
  ScriptedPeer() {
    auto [a, b] = tcp_pair();
    client = Side(first_use_context(false), std::move(a));
    own = Side(first_use_context(true), std::move(b));
    auto [ra, rb] = shake(client, own);
    EXPECT_TRUE(ra && rb);
  }

  template <typename M>
  void say(const M& message) {
    say_message(serialize(message).span());
  }
  // say_message puts the mark in front, say_raw says exactly `octets`, both in one TLS record.
  void say_message(std::span<const std::uint8_t> octets) { say_raw(marked(octets)); }
  Bytes marked(std::span<const std::uint8_t> octets, bool by_server = true) {
    Bytes out(2 * kMarkSize);
    EXPECT_EQ(SSL_export_keying_material(own.ssl.get(), out.data(), out.size(),
                                         "EXPORTER-softpsp-mark", 21, nullptr, 0, 0),
              1);
    if (by_server) out.erase(out.begin(), out.begin() + kMarkSize);
    out.resize(kMarkSize);
    out.insert(out.end(), octets.begin(), octets.end());
    return out;
  }
  void say_raw(std::span<const std::uint8_t> octets) {
    EXPECT_EQ(SSL_write(own.ssl.get(), octets.data(), static_cast<int>(octets.size())),
              static_cast<int>(octets.size()));
  }
  void say_plain(std::span<const std::uint8_t> octets) {
    EXPECT_EQ(::send(own.fd.get(), octets.data(), octets.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(octets.size()));
  }
  // hear reads one message, waiting for it.
  std::optional<Message> hear() {
    Bytes octets(kMarkSize);
    if (!read_all(octets.data(), kMarkSize)) return std::nullopt;
    EXPECT_EQ(octets, marked({}, false));
    octets.resize(kMessageHeader);
    if (!read_all(octets.data(), kMessageHeader)) return std::nullopt;
    const auto length = body_length(octets);
    if (!length) return std::nullopt;
    octets.resize(kMessageHeader + *length);
    if (!read_all(octets.data() + kMessageHeader, *length)) return std::nullopt;
    auto message = parse(octets);
    return message ? std::optional(std::move(*message)) : std::nullopt;
  }
  void hang_up() { own.fd.reset(); }

  // start is the message that a peer with these SPIs must send.
  Bytes start(Spi client_spi, Spi server_spi, std::uint8_t role = 1,
              Version version = Version::kAesGcm256) {
    Bytes out{'P', 'S', 'P', 'S', role, 0, 0, 0};
    Bytes context{static_cast<std::uint8_t>(version)};
    for (const Spi spi : {client_spi, server_spi})
      for (int shift = 24; shift >= 0; shift -= 8)
        context.push_back(static_cast<std::uint8_t>(spi.value >> shift));
    // Both ends are on loopback: ::ffff:127.0.0.1 and the port, the client's first.
    for (const Fd* fd : {&client.fd, &own.fd}) {
      sockaddr_in end{};
      socklen_t size = sizeof end;
      EXPECT_EQ(getsockname(fd->get(), reinterpret_cast<sockaddr*>(&end), &size), 0);
      context.insert(context.end(), 10, 0);
      context.insert(context.end(), {0xff, 0xff, 127, 0, 0, 1});
      const std::uint16_t port = ntohs(end.sin_port);
      context.push_back(static_cast<std::uint8_t>(port >> 8));
      context.push_back(static_cast<std::uint8_t>(port));
    }
    Bytes proofs(64);
    EXPECT_EQ(
        SSL_export_keying_material(own.ssl.get(), proofs.data(), proofs.size(),
                                   "EXPORTER-softpsp-start", 22, context.data(), context.size(), 1),
        1);
    out.insert(out.end(), proofs.begin() + 32 * role, proofs.begin() + 32 * (role + 1));
    return out;
  }

  Side client, own;

 private:
  bool read_all(std::uint8_t* to, std::size_t size) {
    while (size > 0) {
      const int n = SSL_read(own.ssl.get(), to, static_cast<int>(size));
      if (n > 0) {
        to += n;
        size -= static_cast<std::size_t>(n);
      } else if (SSL_get_error(own.ssl.get(), n) != SSL_ERROR_WANT_READ ||
                 !wait_readable(own.fd.get())) {
        return false;
      }
    }
    return true;
  }
};

// key_updates sends `count` KeyUpdates, each a record without data. False: the peer's queue is
// full.
inline bool key_updates(SSL* ssl, unsigned count, int kind = SSL_KEY_UPDATE_NOT_REQUESTED) {
  for (unsigned i = 0; i < count; ++i)
    if (SSL_key_update(ssl, kind) != 1 || SSL_do_handshake(ssl) != 1) return false;
  return true;
}

// run steps an exchange alone until it needs what does not come, is done or has failed.
inline Step run(Upgrade& exchange, const Side& side) {
  for (;;) {
    const Step step = exchange.step();
    if (step == Step::kWantRead && wait_readable(side.fd.get(), 50)) continue;
    if (step == Step::kWantRetry) continue;
    return step;
  }
}

}  // namespace psp::keyx::test
