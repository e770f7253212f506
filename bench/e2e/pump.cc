// SPDX-License-Identifier: Apache-2.0
//
// psp-bench-pump: both ends of the end-to-end benchmark, lean enough that what it measures is the
// network stack and not itself. Over plain TCP or over PSP:
//   bulk   the client writes as fast as it can for some seconds, the server reads
//   echo   the client sends a small request and waits for the answer, over and over
//   cat    stdin to stdout, the loop of psp-cat without PSP: the yardstick of `make demo`
// For PSP the two sides hand each other their Rx keys IN CLEAR on the connection itself. That is
// good enough to measure and for nothing else: psp-cat shows how it is done.
//
// Each side prints one line of JSON on stdout (bulk, echo) or on stderr (cat).
//
// Threading: one thread per connection; they share nothing but their own Outcome slot, which the
// main thread reads after joining them.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <optional>
#include <string>
#include <sys/resource.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "netlink/client.hh"

#include "tool.hh"

namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr std::size_t kBuffer = std::size_t{256} * 1024;  // as psp-cat
constexpr std::size_t kRequest = 64;

struct Settings {
  std::string host;
  std::string port = "7100";
  bool listening = false;
  std::string test = "bulk";
  std::optional<unsigned> psp_version;
  unsigned streams = 1;
  double seconds = 2;
};

// Outcome is what one connection did.
struct Outcome {
  std::uint64_t bytes = 0;
  Clock::time_point first{}, last{};
  std::vector<double> round_trips_us;
};

[[noreturn]] void die(const std::string& what) {
  fmt::print(stderr, "psp-bench-pump: {}\n", what);
  std::exit(1);
}

[[noreturn]] void die_errno(const std::string& what) {
  die(fmt::format("{}: {}", what, std::strerror(errno)));
}

// Socket owns a descriptor.
class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&&) = delete;
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

void write_all(int fd, const void* data, std::size_t size) {
  const auto* at = static_cast<const char*>(data);
  while (size != 0) {
    const ssize_t n = ::write(fd, at, size);
    if (n < 0) die_errno("write");
    at += n;
    size -= static_cast<std::size_t>(n);
  }
}

void read_all(int fd, void* data, std::size_t size) {
  auto* at = static_cast<char*>(data);
  while (size != 0) {
    const ssize_t n = ::read(fd, at, size);
    if (n < 0) die_errno("read");
    if (n == 0) die("the peer closed too early");
    at += n;
    size -= static_cast<std::size_t>(n);
  }
}

struct AddressList {
  addrinfo* first = nullptr;
  explicit AddressList(const Settings& settings) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_family = settings.listening && settings.host.empty() ? AF_INET6 : AF_UNSPEC;
    hints.ai_flags = settings.listening ? AI_PASSIVE : 0;
    const char* host = settings.host.empty() ? nullptr : settings.host.c_str();
    const int error = ::getaddrinfo(host, settings.port.c_str(), &hints, &first);
    if (error != 0) die(fmt::format("{}: {}", settings.host, ::gai_strerror(error)));
  }
  AddressList(const AddressList&) = delete;
  AddressList& operator=(const AddressList&) = delete;
  ~AddressList() { ::freeaddrinfo(first); }
};

Socket listen_on(const Settings& settings) {
  const AddressList addresses(settings);
  Socket listener(::socket(addresses.first->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (listener.fd() < 0) die_errno("socket");
  const int on = 1, off = 0;
  (void)::setsockopt(listener.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  (void)::setsockopt(listener.fd(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  if (::bind(listener.fd(), addresses.first->ai_addr, addresses.first->ai_addrlen) != 0 ||
      ::listen(listener.fd(), 128) != 0) {
    die_errno("listen");
  }
  return listener;
}

Socket connect_to(const Settings& settings) {
  const AddressList addresses(settings);
  // The server may be a moment late: the driver starts both ends at once.
  for (int attempt = 0;; ++attempt) {
    Socket socket(::socket(addresses.first->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (socket.fd() < 0) die_errno("socket");
    if (::connect(socket.fd(), addresses.first->ai_addr, addresses.first->ai_addrlen) == 0) {
      return socket;
    }
    if (errno != ECONNREFUSED || attempt == 100) die_errno("connect");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

// KeyMessage is the last clear text of each direction.
struct KeyMessage {
  std::uint32_t spi;  // network order
  std::uint32_t key_len;
  std::array<std::uint8_t, 32> key;
};

// secure turns the connection into PSP: the order is that of docs/protocol.md, "Upgrade".
void secure(int fd, psp::Version version) {
  auto client = psp::Client::connect();
  if (!client) die(client.error().message);
  const auto rx = client->rx_assoc(fd, version);
  if (!rx) die(rx.error().message);

  KeyMessage mine{}, theirs{};
  mine.spi = htonl(rx->rx.spi.value);
  mine.key_len = htonl(static_cast<std::uint32_t>(rx->rx.key.size()));
  std::copy_n(rx->rx.key.data(), rx->rx.key.size(), mine.key.begin());
  write_all(fd, &mine, sizeof mine);
  read_all(fd, &theirs, sizeof theirs);

  psp::KeyInfo tx;
  tx.spi.value = ntohl(theirs.spi);
  tx.key.assign({theirs.key.data(), std::min<std::size_t>(ntohl(theirs.key_len), 32)});
  const auto done = client->tx_assoc(fd, version, tx);
  if (!done) die(done.error().message);

  char start = 'S';
  write_all(fd, &start, 1);
  read_all(fd, &start, 1);
}

void prepare(int fd, const Settings& settings) {
  const int on = 1;
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (settings.psp_version) secure(fd, *psp::to_version(*settings.psp_version));
}

Outcome receive_bulk(int fd, int copy_to) {
  Outcome outcome;
  std::vector<char> buffer(kBuffer);
  for (;;) {
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n < 0) die_errno("read");
    if (outcome.bytes == 0) outcome.first = Clock::now();
    if (n == 0) break;
    if (copy_to >= 0) write_all(copy_to, buffer.data(), static_cast<std::size_t>(n));
    outcome.bytes += static_cast<std::uint64_t>(n);
  }
  outcome.last = Clock::now();
  return outcome;
}

// finish_sending waits until the peer has read everything.
void finish_sending(int fd) {
  ::shutdown(fd, SHUT_WR);
  char rest = 0;
  while (::read(fd, &rest, 1) > 0) {
  }
}

Outcome send_bulk(int fd, double seconds) {
  Outcome outcome;
  const std::vector<char> buffer(kBuffer, 'x');
  outcome.first = Clock::now();
  while (Seconds(Clock::now() - outcome.first).count() < seconds) {
    write_all(fd, buffer.data(), buffer.size());
    outcome.bytes += buffer.size();
  }
  finish_sending(fd);
  outcome.last = Clock::now();
  return outcome;
}

Outcome serve_echo(int fd) {
  Outcome outcome;
  std::array<char, kRequest> request{};
  outcome.first = Clock::now();
  for (;;) {
    const ssize_t n = ::recv(fd, request.data(), request.size(), MSG_WAITALL);
    if (n < static_cast<ssize_t>(request.size())) break;
    write_all(fd, request.data(), request.size());
    outcome.bytes += request.size();
  }
  outcome.last = Clock::now();
  return outcome;
}

Outcome run_echo(int fd, double seconds) {
  Outcome outcome;
  outcome.round_trips_us.reserve(1 << 20);
  std::array<char, kRequest> request{};
  outcome.first = Clock::now();
  auto before = outcome.first;
  while (Seconds(before - outcome.first).count() < seconds) {
    write_all(fd, request.data(), request.size());
    read_all(fd, request.data(), request.size());
    const auto now = Clock::now();
    outcome.round_trips_us.push_back(Seconds(now - before).count() * 1e6);
    outcome.bytes += request.size();
    before = now;
  }
  outcome.last = before;
  finish_sending(fd);
  return outcome;
}

Outcome converse(int fd, const Settings& settings) {
  if (settings.test == "echo") {
    return settings.listening ? serve_echo(fd) : run_echo(fd, settings.seconds);
  }
  return settings.listening ? receive_bulk(fd, -1) : send_bulk(fd, settings.seconds);
}

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](timeval t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double percentile(std::vector<double>& sorted, double share) {
  if (sorted.empty()) return 0;
  const auto index = static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1));
  return sorted[index];
}

void report(std::vector<Outcome>& outcomes, double cpu) {
  std::uint64_t bytes = 0;
  auto first = Clock::time_point::max(), last = Clock::time_point::min();
  std::vector<double> round_trips;
  for (const Outcome& outcome : outcomes) {
    bytes += outcome.bytes;
    first = std::min(first, outcome.first);
    last = std::max(last, outcome.last);
    round_trips.insert(round_trips.end(), outcome.round_trips_us.begin(),
                       outcome.round_trips_us.end());
  }
  std::sort(round_trips.begin(), round_trips.end());
  fmt::print(
      "{{\"bytes\": {}, \"seconds\": {:.6f}, \"cpu_seconds\": {:.6f}, \"round_trips\": {}, "
      "\"p50_us\": {:.2f}, \"p99_us\": {:.2f}}}\n",
      bytes, Seconds(last - first).count(), cpu, round_trips.size(), percentile(round_trips, 0.50),
      percentile(round_trips, 0.99));
}

int run_streams(const Settings& settings) {
  std::vector<Socket> sockets;
  {
    std::optional<Socket> listener;
    if (settings.listening) listener.emplace(listen_on(settings));
    for (unsigned i = 0; i < settings.streams; ++i) {
      if (!listener) {
        sockets.push_back(connect_to(settings));
        continue;
      }
      const int fd = ::accept4(listener->fd(), nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) die_errno("accept");
      sockets.emplace_back(fd);
    }
  }
  for (const Socket& socket : sockets) prepare(socket.fd(), settings);

  const double cpu_before = cpu_seconds();
  std::vector<Outcome> outcomes(sockets.size());
  {
    std::vector<std::jthread> threads;
    threads.reserve(sockets.size());
    for (std::size_t i = 0; i < sockets.size(); ++i) {
      threads.emplace_back([&, i] { outcomes[i] = converse(sockets[i].fd(), settings); });
    }
  }
  report(outcomes, cpu_seconds() - cpu_before);
  return 0;
}

int run_cat(const Settings& settings) {
  Outcome outcome;
  if (settings.listening) {
    const Socket listener = listen_on(settings);
    const Socket socket(::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    if (socket.fd() < 0) die_errno("accept");
    outcome = receive_bulk(socket.fd(), STDOUT_FILENO);
  } else {
    const Socket socket = connect_to(settings);
    outcome = receive_bulk(STDIN_FILENO, socket.fd());
    finish_sending(socket.fd());
    outcome.last = Clock::now();
  }
  fmt::print(stderr, "{{\"bytes\": {}, \"seconds\": {:.6f}}}\n", outcome.bytes,
             Seconds(outcome.last - outcome.first).count());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app("Both ends of softpsp's end-to-end benchmark");
  psp::name_tool(app, "psp-bench-pump");
  app.add_flag("-l,--listen", settings.listening, "wait for the other end");
  app.add_option("--host", settings.host, "connect there");
  app.add_option("--port", settings.port, "TCP port")->capture_default_str();
  app.add_option("--test", settings.test, "what to do")
      ->check(CLI::IsMember({"bulk", "echo", "cat"}))
      ->capture_default_str();
  app.add_option("--psp", settings.psp_version, "over PSP of this version; without: plain TCP")
      ->check(CLI::Range(0, 3));
  app.add_option("--streams", settings.streams, "connections, both ends the same")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--seconds", settings.seconds, "how long the client sends")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  ::signal(SIGPIPE, SIG_IGN);
  if (!settings.listening && settings.host.empty()) die("--host or --listen is needed");
  return settings.test == "cat" ? run_cat(settings) : run_streams(settings);
}
