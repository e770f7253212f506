// SPDX-License-Identifier: Apache-2.0
//
// The command line by CLI11, with a help text that teaches by example.
//
// What does not fit together is refused here, in one line, before anything is opened: credentials
// that a protocol would not use, checks that nobody would do. Silence would leave somebody in the
// belief that he is protected. No credentials at all is allowed, since a first try should need no
// set-up; the program then warns at each connection.
#include "options.hh"

#include <CLI/CLI.hpp>
#include <bit>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sstream>
#include <unistd.h>

#include "exchange_options.hh"
#include "parse.hh"
#include "port.hh"
#include "report.hh"
#include "version_line.hh"

namespace psp::cat {
namespace {

constexpr const char* kDescription =
    R"(psp-cat: netcat that secures itself with PSP.

  psp-cat -l [HOST] PORT      wait for one connection
  psp-cat HOST PORT           connect

Data goes from standard input to the peer and from the peer to standard output.)";

constexpr const char* kExamples = R"(
Examples:
  psp-cat -l 7000 > copy                            on one host
  psp-cat host 7000 < file                          on the other: that is all
  (umask 077; openssl rand -hex 32 > key)           with a secret, which both ends have
  psp-cat -l 7000 --psk-file key
  psp-cat host 7000 --psk-file key < file
  psp-cat -l 7000 --cert me.pem --key me.key        with certificates
  psp-cat host 7000 --ca authority.pem < file
  psp-cat host 7000 --psp-version hdr0-aes-gcm-128  ask for one PSP version

Without --psk-file or certificates the connection is encrypted but NOT authenticated: compare the
fingerprints that both ends print. Both hosts run pspd with receive enabled ("pspctl doctor" checks).
Exit status: 0 ok, 1 failure, 2 usage, 3 no pspd, 4 no PSP on one end, 5 permission,
6 authentication.)";

// Raw is what CLI11 fills in before it makes sense.
struct Raw {
  std::vector<std::string> target;
  std::string protocol;
  ExchangeOptions exchange;
  bool ipv4 = false, ipv6 = false, progress = false, no_progress = false, mutual = false;
};

void declare(CLI::App& app, Options& options, Raw& raw) {
  app.footer(kExamples);
  app.set_version_flag("-V,--version", version_line("psp-cat"));
  app.add_flag("-l,--listen", options.listen, "Wait for one connection");
  app.add_option("target", raw.target, "[HOST] PORT")->expected(1, 2)->type_name("");
  auto* v4 = app.add_flag("-4", raw.ipv4, "IPv4 only");
  app.add_flag("-6", raw.ipv6, "IPv6 only")->excludes(v4);
  raw.exchange.declare_versions(app);
  app.add_option("--protocol", raw.protocol,
                 "How keys are exchanged: softpsp (default), fizz-v0, kernel-selftest (IN CLEAR)")
      ->type_name("NAME");
  raw.exchange.declare_socket(app);
  app.add_flag("--allow-tls", options.allow_tls, "Stay on TLS where there is no PSP (both ends)");
  raw.exchange.declare_timeout(app, " (10)");
  auto* recv_only = app.add_flag("--recv-only", options.recv_only, "Send nothing");
  app.add_flag("--send-only", options.send_only, "Write nothing to standard output")
      ->excludes(recv_only);
  raw.exchange.declare_credentials(app, "Listener: demand a certificate of the peer",
                                   ": hex, base64 or raw");
  app.add_flag("--mutual", raw.mutual, "Listener: fail unless --ca is given");
  app.add_flag("-q,--quiet", options.quiet, "Only warnings and errors");
  auto* progress =
      app.add_flag("--progress", raw.progress, "Show progress (default on a terminal)");
  app.add_flag("--no-progress", raw.no_progress, "Show none")->excludes(progress);
  app.add_flag("--json", options.json, "One line of JSON on standard error at the end");
}

// refine turns what was given into options; the text says what does not fit.
std::expected<void, std::string> refine(Options& options, const Raw& raw) {
  if (!options.listen && raw.target.size() != 2)
    return std::unexpected(std::string("give HOST and PORT, or -l to listen"));
  if (raw.target.empty()) return std::unexpected(std::string("give a PORT to listen on"));
  options.port = raw.target.back();
  if (const auto port = check_port(options.port); !port) return port;
  if (raw.target.size() == 2) options.host = raw.target.front();
  if (options.host.size() > 2 && options.host.front() == '[' && options.host.back() == ']')
    options.host = options.host.substr(1, options.host.size() - 2);
  options.family = raw.ipv4 ? AF_INET : raw.ipv6 ? AF_INET6 : AF_UNSPEC;
  options.socket = raw.exchange.take_socket();
  options.timeout = raw.exchange.take_timeout();
  options.progress = raw.progress || (!raw.no_progress && !options.quiet && isatty(STDERR_FILENO));
  const auto versions = raw.exchange.take_versions(options.versions);
  if (!versions) return std::unexpected(versions.error());
  options.versions = *versions;
  if (!raw.protocol.empty()) {
    const auto protocol = keyx::parse_protocol(raw.protocol);
    if (!protocol) return std::unexpected("--protocol: there is no " + raw.protocol);
    options.protocol = *protocol;
  }
  if (options.protocol != keyx::Protocol::kSoftpsp) {
    if (options.allow_tls)
      return std::unexpected(std::string("--protocol: only softpsp can stay on TLS"));
    if (std::popcount(options.versions.bits) != 1)
      return std::unexpected(raw.protocol +
                             " does not agree on a version: give one by --psp-version");
  }
  if (raw.mutual && !options.listen)
    return std::unexpected(std::string("--mutual is for a listener (-l)"));
  if (raw.mutual && raw.exchange.tls.ca_file.empty())
    return std::unexpected(
        std::string("--mutual needs --ca with the authority of the peers' certificates"));
  if (options.protocol == keyx::Protocol::kKernelSelftest &&
      (raw.exchange.has_credentials() || raw.exchange.tls.first_use))
    return std::unexpected(
        std::string("kernel-selftest sends keys in clear and uses no credentials: give none"));
  const auto tls = raw.exchange.take_tls(options.listen);
  if (!tls) return std::unexpected(tls.error());
  options.tls = *tls;
  return {};
}

int usage_error(const std::string& what) {
  say_always(fmt::format("error: {}; see psp-cat --help", what));
  return kExitUsage;
}

}  // namespace

std::expected<Options, int> parse_options(int argc, char** argv) {
  return read_command_line<Options, Raw>("psp-cat", kDescription, argc, argv, declare, refine,
                                         usage_error);
}

}  // namespace psp::cat
