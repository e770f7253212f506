// SPDX-License-Identifier: Apache-2.0
//
// The order of a start: all that can fail for a reason that the user can mend (certificates, names,
// limits, addresses) is tried before the first thread. Signals are blocked before it, too, so that
// none goes to a worker. A stop lets connections end by themselves for a time, a second one ends
// them at once.
#include "proxy.hh"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <utility>

#include "base/shortage.hh"
#include "keyx/client_ops.hh"
#include "wire/version_text.hh"

#include "socket.hh"

namespace psp::proxy {
namespace {

using namespace std::chrono_literals;

// Two sockets, and two pipes while data waits in both directions.
constexpr rlim_t kDescriptorsEach = 6, kDescriptorsMore = 256;

}  // namespace

Proxy::Proxy(Options options)
    : options_(std::move(options)),
      credentials_(options_.tls),
      target_(options_.to),
      shared_{options_, credentials_, target_, {}} {}

std::expected<std::unique_ptr<Proxy>, std::string> Proxy::start(Options options) {
  std::unique_ptr<Proxy> proxy(new Proxy(std::move(options)));
  if (auto done = proxy->prepare(); !done) return std::unexpected(done.error());
  return proxy;
}

std::expected<void, std::string> Proxy::prepare() {
  if (auto done = credentials_.reload(); !done) return done;
  for (const std::string& warning : credentials_.context()->warnings) spdlog::warn("{}", warning);
  if (auto done = target_.refresh(); !done) return done;
  if (auto done = find_descriptors(); !done) return done;
  if (!options_.stats_socket.empty()) {
    auto opened = StatsSocket::open(options_.stats_socket);
    if (!opened) return std::unexpected(opened.error());
    stats_socket_.emplace(std::move(*opened));
  }
  auto listeners = listen_on(options_.listen);
  if (!listeners) return std::unexpected(listeners.error());
  shared_.listeners = std::move(*listeners);
  warn_of_weak_settings();
  if (auto ops = keyx::connect_ops(options_.socket); !ops)
    spdlog::warn("no PSP on this host yet: {}; {}", ops.error().message,
                 options_.allow_tls ? "connections stay on TLS" : "connections are refused");
  return {};
}

std::expected<void, std::string> Proxy::find_descriptors() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  const rlim_t wanted = options_.max_connections * kDescriptorsEach + kDescriptorsMore +
                        (options_.serve ? options_.half_open.full : 0);
  if (limit.rlim_max >= wanted) return {};
  return std::unexpected(
      fmt::format("--max-connections {} needs {} file descriptors, and the limit is {}: raise it "
                  "(ulimit -Hn, LimitNOFILE=) or lower --max-connections",
                  options_.max_connections, wanted, limit.rlim_max));
}

void Proxy::warn_of_weak_settings() const {
  if (options_.tls.first_use)
    spdlog::warn(
        "NOT authenticated: anybody may be at the other end. Give --cert, --key and --ca, or "
        "--psk-file (see psp-proxy --help)");
  else if (options_.serve && options_.tls.ca_file.empty() && options_.tls.psk_file.empty())
    spdlog::warn("any client is let in: --ca would demand certificates");
  if (const std::string named = readable(options_.versions); !named.empty())
    spdlog::warn("{} would NOT encrypt: with it others can read all that goes to the peer", named);
  const auto outside = [](const SocketAddress& address) { return !address.loopback(); };
  for (const UniqueFd& fd : shared_.listeners) {
    const SocketAddress here = local_address(fd.get());
    spdlog::info("listening on {}{}", here.text(), options_.serve ? ", by PSP" : "");
    if (!options_.serve && outside(here))
      spdlog::warn("{} is reached from other hosts too, in clear and by anybody", here.text());
  }
  if (options_.serve && std::ranges::any_of(*target_.addresses(), outside))
    spdlog::warn("data goes on in clear to {}, which is not this host", options_.to.host);
}

void Proxy::declare() {
  sources_.push_back(loop_.on_signal(SIGTERM, [this] { on_stop(); }));
  sources_.push_back(loop_.on_signal(SIGINT, [this] { on_stop(); }));
  sources_.push_back(loop_.on_signal(SIGHUP, [this] { reload(true); }));
  sources_.push_back(
      loop_.on_signal(SIGUSR1, [this] { std::fputs((stats() + "\n").c_str(), stderr); }));
  sources_.push_back(loop_.every(1s, [this] {
    if (credentials_.look()) reload(false);
  }));
  sources_.push_back(loop_.every(1s, [this] {
    if (const auto news = shared_.half_open.news()) spdlog::warn("{}", *news);
  }));
  sources_.push_back(loop_.every(30s, [this] { refresh_target(); }));
  draining_ = loop_.every(20ms, [this] { end_if_drained(); });
  draining_.enable(false);
  if (options_.stats_interval.count() > 0)
    sources_.push_back(loop_.every(options_.stats_interval, [this] {
      std::puts(stats().c_str());
      std::fflush(stdout);
    }));
  if (!stats_socket_) return;
  asked_ = loop_.on_readable(stats_socket_->fd(), [this] {
    if (!stats_socket_->answer(stats() + "\n")) rest(true);
  });
  resting_ = loop_.every(kShortagePause, [this] { rest(false); });
  resting_.enable(false);
}

int Proxy::run() {
  declare();  // blocks the signals, before there are threads to take them
  if (!loop_.complete()) {
    spdlog::error("the event loop is out of descriptors or memory");
    return 1;
  }
  for (unsigned i = 0; i < options_.threads; ++i)
    workers_.push_back(std::make_unique<ProxyWorker>(shared_));
  for (const auto& worker : workers_)
    if (const int error = worker->start(); error != 0) {
      spdlog::error("cannot start a worker: {}", std::strerror(error));
      workers_.clear();
      return 1;
    }
  loop_.watchdog();
  spdlog::info("ready");
  sd_notify(0, "READY=1");
  const int status = loop_.run();
  workers_.clear();
  return status;
}

// rest: nobody is answered until there may be a descriptor to do it with.
void Proxy::rest(bool on) {
  if (asked_.enable(!on)) resting_.enable(on);
}

void Proxy::reload(bool asked) {
  if (auto done = credentials_.reload(); !done)
    return spdlog::error("the certificates in use stay, the new ones are no good: {}",
                         done.error());
  for (const std::string& warning : credentials_.context()->warnings) spdlog::warn("{}", warning);
  spdlog::info("{}: new connections use the new certificates",
               asked ? "asked to reload" : "the certificate files have changed");
}

void Proxy::refresh_target() {
  const auto done = target_.refresh();
  if (!done && resolves_) spdlog::warn("{}; the addresses found before stay in use", done.error());
  resolves_ = done.has_value();
}

void Proxy::on_stop() {
  if (std::exchange(stopping_, true)) {
    drain_end_ = Clock::now();
    return end_if_drained();
  }
  drain_end_ = Clock::now() + options_.drain;
  draining_.enable(true);
  sd_notify(0, "STOPPING=1");
  for (const auto& worker : workers_) worker->drain();
  for (const UniqueFd& fd : shared_.listeners) shutdown(fd.get(), SHUT_RDWR);
  // Said when it is true: a worker takes what comes until its listener is shut.
  spdlog::info("stopping: no new connections; {} go on for up to {} s", shared_.active.load(),
               static_cast<double>(options_.drain.count()) / 1000);
}

void Proxy::end_if_drained() {
  if (Clock::now() >= drain_end_)
    for (const auto& worker : workers_) worker->stop();
  else if (!std::ranges::all_of(workers_, [](const auto& worker) { return worker->ended(); }))
    return;
  spdlog::info("{}", stats());
  loop_.stop(0);
}

std::string Proxy::stats() const {
  std::vector<const Counters*> all;
  all.reserve(workers_.size());
  for (const auto& worker : workers_) all.push_back(&worker->counters());
  return to_json(all);
}

}  // namespace psp::proxy
