// SPDX-License-Identifier: Apache-2.0
//
// Both ends of the handshake benchmark: many connections, each with a TLS 1.3 handshake with
// certificates on both sides, with the PSP upgrade behind it if asked, and one octet of the server
// as the sign that all is well. Prints a line of JSON: connections per second, latency from the
// first octet of TLS to that octet, and CPU time of both parts.
//
// Threading: as many threads as asked, each with connections of its own.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <arpa/inet.h>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fmt/format.h>
#include <mutex>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <thread>

#include "base/unique_fd.hh"
#include "keyx/client_ops.hh"
#include "keyx/tls.hh"
#include "keyx/upgrade.hh"

#include "tool.hh"

namespace {

struct Options {
  psp::keyx::TlsOptions tls;
  std::string host, peer_name;
  std::uint16_t port = 7200;
  unsigned count = 1000, threads = 1;
  bool upgrade = false;
};

[[noreturn]] void die(const std::string& what) {
  std::fputs(fmt::format("psp-bench-handshake: {}\n", what).c_str(), stderr);
  std::_Exit(1);
}

std::uint64_t now_ns(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000U +
         static_cast<std::uint64_t>(t.tv_nsec);
}

struct Result {
  std::vector<std::uint64_t> latency_ns;
  std::uint64_t tls_cpu_ns = 0, upgrade_cpu_ns = 0;
};

// secure does TLS and the upgrade on one connected socket, and the octet.
void secure(int fd, const Options& options, const psp::keyx::TlsContext& context,
            psp::keyx::PspOps& ops, Result& result) {
  const std::uint64_t begin = now_ns(CLOCK_MONOTONIC), cpu = now_ns(CLOCK_THREAD_CPUTIME_ID);
  const auto ssl = psp::keyx::make_connection(context, fd, options.peer_name);
  if (!ssl) die(ssl.error().message);
  if (const auto step = psp::keyx::handshake(context, ssl->get()); !step) die(step.error().message);
  const std::uint64_t between = now_ns(CLOCK_THREAD_CPUTIME_ID);
  if (options.upgrade) {
    const auto upgrade = psp::keyx::make_upgrade(ssl->get(), ops, {});
    psp::keyx::Step step = upgrade->step();
    for (; step == psp::keyx::Step::kWantRetry; step = upgrade->step())
      std::this_thread::sleep_for(psp::keyx::kRetryDelay);
    if (step != psp::keyx::Step::kDone) die(upgrade->error().message);
  }
  result.tls_cpu_ns += between - cpu;
  result.upgrade_cpu_ns += now_ns(CLOCK_THREAD_CPUTIME_ID) - between;
  char octet = '!';
  if (context.server) {
    if (options.upgrade ? send(fd, &octet, 1, 0) != 1 : SSL_write(ssl->get(), &octet, 1) != 1)
      die("cannot send");
    recv(fd, &octet, 1, 0);  // the client closes first
  } else {
    if (options.upgrade ? recv(fd, &octet, 1, 0) != 1 : SSL_read(ssl->get(), &octet, 1) != 1)
      die("nothing received");
    result.latency_ns.push_back(now_ns(CLOCK_MONOTONIC) - begin);
  }
}

sockaddr_in address_of(const Options& options) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(options.port);
  if (!options.host.empty() && inet_pton(AF_INET, options.host.c_str(), &address.sin_addr) != 1)
    die("--host takes an IPv4 address");
  return address;
}

psp::UniqueFd connected(const Options& options) {
  const sockaddr_in address = address_of(options);
  psp::UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd || connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    die("cannot connect");
  return fd;
}

psp::UniqueFd listening(const Options& options) {
  const sockaddr_in address = address_of(options);
  const int on = 1;
  psp::UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  (void)setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(fd.get(), 128) != 0)
    die("cannot listen");
  std::fputs("listening\n", stderr);
  return fd;
}

// take_part is one thread: connections until `left` is used up.
Result take_part(const Options& options, int listener, std::atomic<int>& left) {
  const auto context = psp::keyx::make_context(options.tls);
  if (!context) die(context.error().message);
  const auto ops = psp::keyx::connect_ops(psp::chosen_socket(), std::chrono::seconds(1));
  if (!ops) die(ops.error().message);
  Result result;
  const int on = 1;
  while (left.fetch_sub(1) > 0) {
    const psp::UniqueFd fd = listener >= 0
                                 ? psp::UniqueFd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC))
                                 : connected(options);
    (void)setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    secure(fd.get(), options, *context, **ops, result);
  }
  return result;
}

Options parse(int argc, char** argv) {
  Options options;
  CLI::App app("TLS alone, and TLS with the PSP upgrade behind it");
  psp::name_tool(app, "psp-bench-handshake");
  auto* host = app.add_option("--host", options.host, "Connect there");
  app.add_flag("--listen", options.tls.server, "Answer")->excludes(host);
  app.add_option("--port", options.port, "Port (7200)");
  app.add_option("--count", options.count, "Connections (1000)");
  app.add_option("--threads", options.threads, "Threads (1)");
  app.add_flag("--upgrade", options.upgrade, "With the upgrade");
  app.add_option("--cert", options.tls.cert_file, "PEM");
  app.add_option("--key", options.tls.key_file, "PEM");
  app.add_option("--ca", options.tls.ca_file, "PEM");
  app.add_option("--peer-name", options.peer_name, "Whom the client expects");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  std::signal(SIGPIPE, SIG_IGN);
  const psp::UniqueFd listener = options.tls.server ? listening(options) : psp::UniqueFd();
  std::atomic<int> left{static_cast<int>(options.count)};
  std::mutex mutex;
  Result all;
  const std::uint64_t begin = now_ns(CLOCK_MONOTONIC);
  std::vector<std::jthread> threads;
  threads.reserve(options.threads);
  for (unsigned i = 0; i < options.threads; ++i)
    threads.emplace_back([&] {
      const Result part = take_part(options, listener.get(), left);
      const std::lock_guard lock(mutex);
      all.latency_ns.insert(all.latency_ns.end(), part.latency_ns.begin(), part.latency_ns.end());
      all.tls_cpu_ns += part.tls_cpu_ns;
      all.upgrade_cpu_ns += part.upgrade_cpu_ns;
    });
  threads.clear();
  const double seconds = static_cast<double>(now_ns(CLOCK_MONOTONIC) - begin) * 1e-9;
  std::ranges::sort(all.latency_ns);
  const auto at = [&](double part) {
    return all.latency_ns.empty() ? 0.0
                                  : static_cast<double>(all.latency_ns[static_cast<std::size_t>(
                                        part * static_cast<double>(all.latency_ns.size() - 1))]) *
                                        1e-3;
  };
  const auto each_us = [&](std::uint64_t ns) {
    return static_cast<double>(ns) * 1e-3 / options.count;
  };
  std::puts(
      fmt::format(
          R"({{"per_second":{:.1f},"p50_us":{:.1f},"p99_us":{:.1f},"tls_cpu_us":{:.2f},"upgrade_cpu_us":{:.2f}}})",
          options.count / seconds, at(0.5), at(0.99), each_us(all.tls_cpu_ns),
          each_us(all.upgrade_cpu_ns))
          .c_str());
}
