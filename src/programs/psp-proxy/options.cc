// SPDX-License-Identifier: Apache-2.0
//
// The command line by CLI11, with a help text that teaches by example.
//
// What would let in more people than its writer meant is refused here: for a client certificates
// without an authority, names that nobody vouches for, names that no certificate can have. A
// client's peer must be the host of --to unless another name is given, so that a certificate of
// somebody else's does not do.
#include "options.hh"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fmt/format.h>
#include <thread>

#include "between.hh"
#include "exchange_options.hh"
#include "parse.hh"
#include "port.hh"
#include "version_line.hh"

namespace psp::proxy {
namespace {

constexpr const char* kDescription =
    R"(psp-proxy: PSP for programs that cannot be changed.

  psp-proxy --listen [HOST]:PORT --to HOST:PORT       from programs in clear, on by PSP
  psp-proxy --listen-psp [HOST]:PORT --to HOST:PORT   from peers by PSP, on in clear

One stands beside the program that connects, the other beside the program that is connected to.)";

constexpr const char* kExamples = R"(
Example: PostgreSQL at db.example, its clients elsewhere; neither knows of it.
  db$   psp-proxy --listen-psp :7001 --to 127.0.0.1:5432 \
                  --cert db.pem --key db.key --ca ca.pem --peer-name app.example
  app$  psp-proxy --listen 127.0.0.1:5432 --to db.example:7001 \
                  --cert app.pem --key app.key --ca ca.pem
  app$  psql -h 127.0.0.1

Without certificates or --psk-file connections are encrypted but NOT authenticated.
Certificate files are read again when they change, and at SIGHUP. SIGUSR1 logs statistics. SIGTERM
lets connections end (--drain), a second one does not. Both hosts run pspd with receive enabled.
Exit status: 0 ok, 1 failure, 2 usage.)";

// Raw is what CLI11 fills in before it makes sense.
struct Raw {
  std::string listen, listen_psp, to, policy = "required", half_open;
  double retire_idle_s = 300, drain_s = 30, stats_interval_s = 0;
  ExchangeOptions exchange;
};

void declare(CLI::App& app, Options& options, Raw& raw) {
  app.footer(kExamples);
  app.set_version_flag("-V,--version", version_line("psp-proxy"));
  auto* listen = app.add_option("--listen", raw.listen, "Take programs' connections, in clear")
                     ->type_name("ADDR");
  app.add_option("--listen-psp", raw.listen_psp, "Take peers' connections, by PSP")
      ->excludes(listen)
      ->type_name("ADDR");
  app.add_option("--to", raw.to, "Where each connection goes on to")->required()->type_name("ADDR");
  app.add_option(
         "--policy", raw.policy,
         "required: PSP or no connection (default). preferred: TLS where a host has no PSP, "
         "if both ends prefer")
      ->check(CLI::IsMember({"required", "preferred"}));
  raw.exchange.declare_versions(app);
  raw.exchange.declare_credentials(app, "With --listen-psp: demand a certificate of every peer",
                                   " instead of certificates");
  app.add_option("--peer-name", options.peer_names,
                 "Name that a peer's certificate must be for (default: the host of --to). With "
                 "--listen-psp: let only these in; may be given several times")
      ->type_name("NAME");
  app.add_option("--max-connections", options.max_connections,
                 "More than so many at once are refused (1000)")
      ->check(CLI::Range(1U, 1'000'000U));
  app.add_option(
         "--half-open", raw.half_open,
         "START:RATE:FULL (512:30:1024), with --listen-psp: how many more may be on the way "
         "through the handshake; from START on each new one costs the oldest, silent ones first, "
         "in RATE percent of the cases and from FULL on always")
      ->needs("--listen-psp")
      ->type_name("NUMBERS");
  app.add_option("--half-open-source", options.half_open.each,
                 "Of those, at most so many from one address (IPv6: from one /64) (256)")
      ->check(CLI::Range(1U, 1'000'000U))
      ->needs("--listen-psp");
  raw.exchange.declare_timeout(app, ", all together (10)");
  app.add_option("--retire-idle", raw.retire_idle_s,
                 "After a rotation of the device key, close connections that were idle for so many "
                 "seconds (300); 0: never")
      ->check(between(0.0, 1e7))
      ->type_name("SECONDS");
  app.add_option("--drain", raw.drain_s, "Seconds that SIGTERM leaves to connections (30)")
      ->check(between(0.0, 1e7))
      ->type_name("SECONDS");
  app.add_option("--threads", options.threads, "Threads (default: one a processor, up to 4)")
      ->check(CLI::Range(1U, 64U));
  app.add_option("--stats-socket", options.stats_socket,
                 "Unix socket that gives whoever connects one line of JSON")
      ->type_name("PATH");
  app.add_option("--stats-interval", raw.stats_interval_s,
                 "One line of JSON on standard output every so many seconds")
      ->check(between(0.1, 1e7))
      ->type_name("SECONDS");
  raw.exchange.declare_socket(app);
  app.add_flag("-q,--quiet", options.quiet, "Log only warnings and errors");
}

std::expected<void, std::string> refine_addresses(Options& options, const Raw& raw) {
  if (raw.listen.empty() == raw.listen_psp.empty())
    return std::unexpected(std::string("give --listen or --listen-psp"));
  options.serve = raw.listen.empty();
  auto listen = parse_host_port(options.serve ? raw.listen_psp : raw.listen);
  if (!listen)
    return std::unexpected((options.serve ? "--listen-psp: " : "--listen: ") + listen.error());
  auto to = parse_host_port(raw.to);
  if (!to) return std::unexpected("--to: " + to.error());
  if (to->host.empty()) return std::unexpected(std::string("--to: give a host"));
  for (const HostPort* each : {&*listen, &*to})
    if (const auto port = check_port(each->port); !port) return port;
  options.listen = std::move(*listen);
  options.to = std::move(*to);
  return {};
}

std::expected<void, std::string> refine_tls(Options& options, const Raw& raw) {
  const bool certificates = raw.exchange.has_certificates();
  if (certificates && !raw.exchange.tls.psk_file.empty())
    return std::unexpected(std::string("choose one: certificates or --psk-file"));
  const auto taken = raw.exchange.take_tls(options.serve);
  if (!taken) return std::unexpected(taken.error());
  const keyx::TlsOptions& tls = options.tls = *taken;
  if (tls.cert_file.empty() != tls.key_file.empty())
    return std::unexpected(std::string("--cert needs --key, and --key needs --cert"));
  if (certificates && options.serve && tls.cert_file.empty())
    return std::unexpected(std::string("--listen-psp with --ca needs --cert and --key as well"));
  if (certificates && !options.serve && tls.ca_file.empty())
    return std::unexpected(std::string("--cert needs --ca: whom shall this end believe?"));
  if (!options.peer_names.empty() && tls.ca_file.empty())
    return std::unexpected(std::string("--peer-name needs --ca: who vouches for the name?"));
  if (!options.serve && options.peer_names.size() > 1)
    return std::unexpected(std::string("--peer-name: with --listen there is one peer, give one"));
  for (const std::string& name : options.peer_names)
    if (const auto fits = keyx::check_peer_name(name); !fits)
      // As the log says it of a peer.
      return std::unexpected(
          fmt::format("--peer-name {} is refused (peer-name): {}", name, fits.error()));
  if (!options.serve && options.peer_names.empty()) options.peer_names = {options.to.host};
  return {};
}

// refine turns what was given into options; the text says what does not fit.
std::expected<void, std::string> refine(Options& options, const Raw& raw) {
  if (auto done = refine_addresses(options, raw); !done) return done;
  if (auto done = refine_tls(options, raw); !done) return done;
  options.allow_tls = raw.policy == "preferred";
  const auto versions = raw.exchange.take_versions(options.versions);
  if (!versions) return std::unexpected(versions.error());
  options.versions = *versions;
  if (!raw.half_open.empty()) {
    const auto limits = parse_start_rate_full(raw.half_open, options.half_open);
    if (!limits) return std::unexpected("--half-open: " + limits.error());
    options.half_open = *limits;
  }
  options.socket = raw.exchange.take_socket();
  options.timeout = raw.exchange.take_timeout();
  options.retire_idle = ExchangeOptions::to_ms(raw.retire_idle_s);
  options.drain = ExchangeOptions::to_ms(raw.drain_s);
  options.stats_interval = ExchangeOptions::to_ms(raw.stats_interval_s);
  if (options.threads == 0)
    options.threads = std::clamp(std::thread::hardware_concurrency(), 1U, 4U);
  return {};
}

int usage_error(const std::string& what) {
  std::fputs(fmt::format("psp-proxy: error: {}; see psp-proxy --help\n", what).c_str(), stderr);
  return kExitUsage;
}

}  // namespace

std::expected<Options, int> parse_options(int argc, const char* const* argv) {
  return read_command_line<Options, Raw>("psp-proxy", kDescription, argc, argv, declare, refine,
                                         usage_error);
}

}  // namespace psp::proxy
