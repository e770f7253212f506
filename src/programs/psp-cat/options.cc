// SPDX-License-Identifier: Apache-2.0
//
// The command line by CLI11, with a help text that teaches by example.
#include "options.hh"

#include <CLI/CLI.hpp>
#include <bit>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sstream>
#include <unistd.h>

#include <psp/netlink/client.hh>
#include <psp/wire/version_text.hh>

#include "between.hh"
#include "plain_help.hh"
#include "report.hh"

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
  psp-cat -l 7000 --psk-file key                    with a secret that both ends have
  psp-cat host 7000 --psk-file key < file             (make it: openssl rand -hex 32 > key)
  psp-cat -l 7000 --cert me.pem --key me.key        with certificates
  psp-cat host 7000 --ca authority.pem < file
  psp-cat host 7000 --psp-version hdr0-aes-gcm-128  ask for one PSP version

Without --psk-file or certificates the connection is encrypted but NOT authenticated: compare the
fingerprints that both ends print. Both hosts run pspd with receive enabled ("pspctl doctor" checks).
Exit status: 0 ok, 1 failure, 2 usage, 3 no pspd, 4 no PSP on one end, 5 permission,
6 authentication.)";

// to_versions reads a list of at least one version.
std::expected<VersionSet, std::string> to_versions(const std::string& text) {
  const auto versions = parse_versions_to_use(text);
  if (!versions)
    return std::unexpected(
        fmt::format("--psp-version: there is no PSP version \"{}\"; versions are {}",
                    versions.error(), kVersionWords));
  if (versions->bits == 0) return std::unexpected(std::string("--psp-version: give at least one"));
  return *versions;
}

// Raw is what CLI11 fills in before it makes sense.
struct Raw {
  std::vector<std::string> target;
  std::string versions;
  std::string protocol;
  double timeout_s = 10;
  bool ipv4 = false, ipv6 = false, progress = false, no_progress = false, first_use = false,
       mutual = false;
};

void declare(CLI::App& app, Options& options, Raw& raw) {
  app.footer(kExamples);
  app.set_version_flag("-V,--version", "psp-cat of softpsp " PSP_RELEASE);
  app.add_flag("-l,--listen", options.listen, "Wait for one connection");
  app.add_option("target", raw.target, "[HOST] PORT")->expected(1, 2)->type_name("");
  auto* v4 = app.add_flag("-4", raw.ipv4, "IPv4 only");
  app.add_flag("-6", raw.ipv6, "IPv6 only")->excludes(v4);
  app.add_option("--psp-version", raw.versions,
                 "Only these PSP versions, with commas (default 1,0: those that encrypt)")
      ->type_name("LIST");
  app.add_option("--protocol", raw.protocol,
                 "How keys are exchanged: softpsp (default), fizz-v0, kernel-selftest (IN CLEAR)")
      ->type_name("NAME");
  app.add_option("--socket", options.socket, "Where pspd listens, and ask nobody else")
      ->type_name("ADDR");
  app.add_flag("--allow-tls", options.allow_tls, "Stay on TLS where there is no PSP (both ends)");
  app.add_option("--timeout", raw.timeout_s, "Seconds to connect and to agree on keys (10)")
      ->check(between(0.001, 86400.0))
      ->type_name("SECONDS");
  auto* recv_only = app.add_flag("--recv-only", options.recv_only, "Send nothing");
  app.add_flag("--send-only", options.send_only, "Write nothing to standard output")
      ->excludes(recv_only);
  app.add_option("--cert", options.tls.cert_file, "Own certificate, PEM")->type_name("FILE");
  app.add_option("--key", options.tls.key_file, "Its key, PEM")->type_name("FILE");
  app.add_option("--ca", options.tls.ca_file,
                 "Whom to believe, PEM. Listener: demand a certificate of the peer")
      ->type_name("FILE");
  app.add_flag("--mutual", raw.mutual, "Listener: fail unless --ca is given");
  app.add_option("--psk-file", options.tls.psk_file, "Pre-shared key: hex, base64 or raw")
      ->type_name("FILE");
  app.add_flag("--insecure-first-use", raw.first_use, "No credentials (the default without any)");
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
  if (raw.target.size() == 2) options.host = raw.target.front();
  if (options.host.size() > 2 && options.host.front() == '[' && options.host.back() == ']')
    options.host = options.host.substr(1, options.host.size() - 2);
  options.family = raw.ipv4 ? AF_INET : raw.ipv6 ? AF_INET6 : AF_UNSPEC;
  if (!options.socket || options.socket->empty()) options.socket = chosen_socket();
  options.timeout = std::chrono::milliseconds(static_cast<std::int64_t>(raw.timeout_s * 1000));
  options.progress = raw.progress || (!raw.no_progress && !options.quiet && isatty(STDERR_FILENO));
  if (!raw.versions.empty()) {
    const auto versions = to_versions(raw.versions);
    if (!versions) return std::unexpected(versions.error());
    options.versions = *versions;
  }
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
  auto& tls = options.tls;
  tls.server = options.listen;
  const bool credentials = !tls.cert_file.empty() || !tls.key_file.empty() ||
                           !tls.ca_file.empty() || !tls.psk_file.empty();
  if (raw.mutual && !options.listen)
    return std::unexpected(std::string("--mutual is for a listener (-l)"));
  if (raw.mutual && tls.ca_file.empty())
    return std::unexpected(
        std::string("--mutual needs --ca with the authority of the peers' certificates"));
  if (credentials && raw.first_use)
    return std::unexpected(std::string("--insecure-first-use does not go with credentials"));
  if (options.protocol == keyx::Protocol::kKernelSelftest && (credentials || raw.first_use))
    return std::unexpected(
        std::string("kernel-selftest sends keys in clear and uses no credentials: give none"));
  tls.first_use = !credentials;
  return {};
}

}  // namespace

std::expected<Options, int> parse_options(int argc, char** argv) {
  CLI::App app(kDescription, "psp-cat");
  app.formatter(std::make_shared<PlainHelp>());
  Options options;
  Raw raw;
  declare(app, options, raw);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForVersion& asked) {
    if (argc == 2) return std::unexpected(app.exit(asked));
    // Whoever means a version of PSP must not end up with a success that has sent nothing.
    say_always("error: --version stands alone; a version of PSP is chosen by --psp-version");
    return std::unexpected(kExitUsage);
  } catch (const CLI::Success& asked) {
    return std::unexpected(app.exit(asked));
  } catch (const CLI::ParseError& error) {
    say_always(fmt::format("error: {}; see psp-cat --help", error.what()));
    return std::unexpected(kExitUsage);
  }
  if (const auto done = refine(options, raw); !done) {
    say_always(fmt::format("error: {}; see psp-cat --help", done.error()));
    return std::unexpected(kExitUsage);
  }
  return options;
}

}  // namespace psp::cat
