// SPDX-License-Identifier: Apache-2.0
//
// ExchangeOptions: the options of a program that secures connections, which are the same in all of
// them: whom to ask for PSP, which versions, who this end is and whom it believes, how long it may
// take.
//
// declare_* give an option to CLI11, in the order in which a program shows them; take_* turn what
// was given into settings, and their errors are sentences for the user.
#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <expected>
#include <fmt/format.h>
#include <optional>
#include <string>

#include "keyx/tls.hh"
#include "netlink/client.hh"
#include "wire/version_text.hh"

#include "between.hh"

namespace psp {

struct ExchangeOptions {
  std::string versions, socket;
  double timeout_s = 10;
  keyx::TlsOptions tls;

  void declare_versions(CLI::App& app) {
    app.add_option("--psp-version", versions,
                   "Only these PSP versions, with commas (default 1,0: those that encrypt)")
        ->type_name("LIST");
  }
  // declare_credentials: `ca` and `psk` say what these two mean to the program.
  void declare_credentials(CLI::App& app, const std::string& ca, const std::string& psk) {
    app.add_option("--cert", tls.cert_file, "Own certificate, PEM")->type_name("FILE");
    app.add_option("--key", tls.key_file, "Its key, PEM")->type_name("FILE");
    app.add_option("--ca", tls.ca_file, "Whom to believe, PEM. " + ca)->type_name("FILE");
    app.add_option("--psk-file", tls.psk_file, "Pre-shared key" + psk)->type_name("FILE");
    app.add_flag("--insecure-first-use", tls.first_use, "No credentials (the default without any)");
  }
  void declare_timeout(CLI::App& app, const std::string& more) {
    app.add_option("--timeout", timeout_s, "Seconds to connect and to agree on keys" + more)
        ->check(between(0.001, 86400.0))
        ->type_name("SECONDS");
  }
  void declare_socket(CLI::App& app) {
    app.add_option("--socket", socket, "Where pspd listens, and ask nobody else")
        ->type_name("ADDR");
  }

  // take_versions: what was given, at least one; else `usual`.
  std::expected<VersionSet, std::string> take_versions(VersionSet usual) const {
    if (versions.empty()) return usual;
    const auto taken = parse_versions_to_use(versions);
    if (!taken)
      return std::unexpected(
          fmt::format("--psp-version: there is no PSP version \"{}\"; versions are {}",
                      taken.error(), kVersionWords));
    if (taken->bits == 0) return std::unexpected("--psp-version: give at least one");
    return *taken;
  }
  bool has_certificates() const {
    return !tls.cert_file.empty() || !tls.key_file.empty() || !tls.ca_file.empty();
  }
  bool has_credentials() const { return has_certificates() || !tls.psk_file.empty(); }
  std::expected<keyx::TlsOptions, std::string> take_tls(bool server) const {
    if (has_credentials() && tls.first_use)
      return std::unexpected("--insecure-first-use does not go with credentials");
    keyx::TlsOptions taken = tls;
    taken.server = server;
    taken.first_use = !has_credentials();
    return taken;
  }
  // take_socket: none is for Client::connect to choose.
  std::optional<std::string> take_socket() const {
    return socket.empty() ? chosen_socket() : socket;
  }
  std::chrono::milliseconds take_timeout() const { return to_ms(timeout_s); }

  static std::chrono::milliseconds to_ms(double seconds) {
    return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
  }
};

}  // namespace psp
