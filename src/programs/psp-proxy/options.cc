// SPDX-License-Identifier: Apache-2.0
//
// The command line by CLI11, with a help text that teaches by example.
#include "options.hh"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fmt/format.h>
#include <thread>

#include <psp/netlink/client.hh>
#include <psp/wire/version_text.hh>

#include "between.hh"
#include "plain_help.hh"

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
  std::string listen, listen_psp, to, policy = "required", versions, half_open;
  double timeout_s = 10, retire_idle_s = 300, drain_s = 30, stats_interval_s = 0;
  bool first_use = false;
};

void declare(CLI::App& app, Options& options, Raw& raw) {
  app.footer(kExamples);
  app.set_version_flag("-V,--version", "psp-proxy of softpsp " PSP_RELEASE);
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
  app.add_option("--psp-version", raw.versions,
                 "Only these PSP versions, with commas (default 1,0: those that encrypt)")
      ->type_name("LIST");
  app.add_option("--cert", options.tls.cert_file, "Own certificate, PEM")->type_name("FILE");
  app.add_option("--key", options.tls.key_file, "Its key, PEM")->type_name("FILE");
  app.add_option("--ca", options.tls.ca_file,
                 "Whom to believe, PEM. With --listen-psp: demand a certificate of every peer")
      ->type_name("FILE");
  app.add_option("--peer-name", options.peer_names,
                 "Name that a peer's certificate must be for (default: the host of --to). With "
                 "--listen-psp: let only these in; may be given several times")
      ->type_name("NAME");
  app.add_option("--psk-file", options.tls.psk_file, "Pre-shared key instead of certificates")
      ->type_name("FILE");
  app.add_flag("--insecure-first-use", raw.first_use, "No credentials (the default without any)");
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
  app.add_option("--timeout", raw.timeout_s,
                 "Seconds to connect and to agree on keys, all together (10)")
      ->check(between(0.001, 86400.0))
      ->type_name("SECONDS");
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
  app.add_option("--socket", options.socket, "Where pspd listens, and ask nobody else")
      ->type_name("ADDR");
  app.add_flag("-q,--quiet", options.quiet, "Log only warnings and errors");
}

std::chrono::milliseconds to_ms(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
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
  options.listen = std::move(*listen);
  options.to = std::move(*to);
  return {};
}

std::expected<void, std::string> refine_tls(Options& options, const Raw& raw) {
  auto& tls = options.tls;
  tls.server = options.serve;
  const bool certificates = !tls.cert_file.empty() || !tls.key_file.empty() || !tls.ca_file.empty();
  if (certificates && !tls.psk_file.empty())
    return std::unexpected(std::string("choose one: certificates or --psk-file"));
  if ((certificates || !tls.psk_file.empty()) && raw.first_use)
    return std::unexpected(std::string("--insecure-first-use does not go with credentials"));
  tls.first_use = !certificates && tls.psk_file.empty();
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
  if (!raw.versions.empty()) {
    const auto versions = parse_versions_to_use(raw.versions);
    if (!versions || versions->bits == 0)
      return std::unexpected(
          fmt::format("--psp-version: \"{}\" names no PSP version; versions are {}", raw.versions,
                      kVersionWords));
    options.versions = *versions;
  }
  if (!raw.half_open.empty()) {
    const auto limits = parse_start_rate_full(raw.half_open, options.half_open);
    if (!limits) return std::unexpected("--half-open: " + limits.error());
    options.half_open = *limits;
  }
  if (!options.socket || options.socket->empty()) options.socket = chosen_socket();
  options.timeout = to_ms(raw.timeout_s);
  options.retire_idle = to_ms(raw.retire_idle_s);
  options.drain = to_ms(raw.drain_s);
  options.stats_interval = to_ms(raw.stats_interval_s);
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
  CLI::App app(kDescription, "psp-proxy");
  app.formatter(std::make_shared<PlainHelp>());
  Options options;
  Raw raw;
  declare(app, options, raw);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForVersion& asked) {
    if (argc == 2) return std::unexpected(app.exit(asked));
    return std::unexpected(
        usage_error("--version stands alone; a version of PSP is chosen by --psp-version"));
  } catch (const CLI::Success& asked) {
    return std::unexpected(app.exit(asked));
  } catch (const CLI::ParseError& error) {
    return std::unexpected(usage_error(error.what()));
  }
  if (const auto done = refine(options, raw); !done)
    return std::unexpected(usage_error(done.error()));
  return options;
}

}  // namespace psp::proxy
