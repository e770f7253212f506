// SPDX-License-Identifier: Apache-2.0
//
// The command line by CLI11: four commands, keys by file only. A key on the command line would be
// there for all users of the host to see.
//
// An option that would go unused is an error, not ignored: --spi without --sa-key, --dscp without a
// tunnel, anything beside --cfg that says how to encrypt. The help texts are the short form of
// psp-pcap(1), and name every exit status.
#include "options.hh"

#include <CLI/CLI.hpp>
#include <charconv>
#include <fmt/format.h>
#include <iostream>
#include <unistd.h>

#include "pcap/keys.hh"
#include "wire/version_text.hh"

#include "mistake.hh"
#include "plain_help.hh"
#include "problems.hh"
#include "version_line.hh"

namespace psp::pcap_tool {
namespace {

constexpr const char* kDescription = R"(psp-pcap: captures of PSP traffic.

  psp-pcap encrypt   seal the packets of a capture
  psp-pcap decrypt   open them
  psp-pcap check     verify a capture: ICV, IVs, reserved bits, lengths, checksums, by flow
  psp-pcap explain   what softpsp would do with each packet, and why

Reads pcap and pcapng, also compressed by gzip, and writes what it read, not compressed. check, explain
and decrypt look into the tunnels of mirror ports (GRE, ERSPAN, VXLAN, Geneve), and take apart packets
that hold several datagrams, as captures on hosts with offloads do.)";

constexpr const char* kExamples = R"(
Examples:
  psp-pcap encrypt --cfg encrypt.cfg -r clear.pcap -w psp.pcap     as the reference does
  psp-pcap decrypt --cfg decrypt.cfg -r psp.pcap -w clear.pcap
  psp-pcap encrypt --sa-key key --spi 0x1a --psp-version 1 --mode tunnel -r in.pcapng -w out.pcapng
  psp-pcap check --key-log keys.log -r psp.pcapng
  psp-pcap explain --json -r psp.pcap | jq 'select(.verdict == "drop")'
Exit status: 0 ok, 1 packets were broken or check found something, 2 usage, 3 a file cannot be read or
written or is damaged, 4 keys cannot be read or are missing, 5 the self-test of the cryptography failed,
6 packets were not understood, or check or decrypt found no PSP packet at all.)";

using Refusal = std::unexpected<std::string>;

// Raw is what CLI11 fills in before it makes sense.
struct Raw {
  std::string spi, version, mode, cookie, ecn = "copy", ecn_exit = "merge", source, destination;
  std::string enabled = "all";
  unsigned crypt_offset = 0;
  std::optional<unsigned> hop_limit, dscp, source_port;
  bool progress = false, no_progress = false;
};

void declare_common(CLI::App& app, Options& options, Raw& raw, bool key_needed) {
  app.add_option("-r,--read", options.in, "Capture to read; - is standard input")
      ->required()
      ->type_name("FILE");
  const std::string keys = key_needed ? "Keys (one of these). " : "";
  app.add_option("-c,--cfg", options.configuration,
                 keys + "Configuration file of the reference implementation")
      ->type_name("FILE");
  app.add_option("--device-keys", options.device_keys, "File with device keys 0 and 1 in hex")
      ->type_name("FILE");
  app.add_option("--sa-key", options.sa_key, "File with the key of one SA in hex")
      ->type_name("FILE");
  app.add_option("--key-log", options.key_log, "Key log (docs/key-log.md)")->type_name("FILE");
  app.add_option("--spi", raw.spi, "SPI, hex: of --sa-key; encrypt: to use")->type_name("HEX");
  app.add_option("--psp-version", raw.version, "PSP version: of --sa-key; encrypt: to use")
      ->type_name("NAME");
  app.add_option("--backend", options.backend, "Cryptography: auto, ipsec-mb, openssl")
      ->type_name("NAME");
  app.add_flag("--json", options.json, "Output for programs");
  app.add_flag("-q,--quiet", options.quiet, "Do not name broken packets; no summary");
  auto* progress =
      app.add_flag("--progress", raw.progress, "Show progress (default on a terminal)");
  app.add_flag("--no-progress", raw.no_progress, "Show none")->excludes(progress);
}

void declare_encrypt(CLI::App& app, Options& options, Raw& raw) {
  declare_common(app, options, raw, true);
  app.add_option("-w,--write", options.out, "Capture to write; - is standard output")
      ->required()
      ->type_name("FILE");
  app.add_option("--mode", raw.mode, "transport (default) or tunnel")->type_name("NAME");
  app.add_option("--crypt-offset", raw.crypt_offset,
                 "In clear behind the IV, in units of 4 octets");
  app.add_option("--cookie", raw.cookie, "Virtualization cookie, hex")->type_name("HEX");
  app.add_option("--iv", options.first_iv, "IV of the first packet (1); each next one is 1 more");
  app.add_option("--source-port", raw.source_port, "UDP source port (default: inner ports XORed)");
  auto* source =
      app.add_option("--tunnel-source", raw.source, "Outer source address")->type_name("ADDR");
  auto* destination =
      app.add_option("--tunnel-destination", raw.destination, "Outer destination address")
          ->type_name("ADDR");
  source->needs(destination);
  destination->needs(source);
  app.add_option("--hop-limit", raw.hop_limit, "Outer TTL (default: the inner one)");
  app.add_option("--dscp", raw.dscp, "Outer DSCP (default: the inner one)");
  app.add_option("--ecn", raw.ecn, "Outer ECN: copy (RFC 6040, default) or zero")
      ->check(CLI::IsMember({"copy", "zero"}));
  app.add_flag("--keep", options.keep, "Packets that are not IP go through in clear");
}

void declare_decrypt(CLI::App& app, Options& options, Raw& raw) {
  declare_common(app, options, raw, true);
  app.add_option("-w,--write", options.out, "Capture to write; - is standard output")
      ->required()
      ->type_name("FILE");
  app.add_option("--ecn", raw.ecn_exit, "Congestion marks on tunnels: merge (RFC 6040) or ignore")
      ->check(CLI::IsMember({"merge", "ignore"}));
  app.add_flag("--keep", options.keep, "Packets that are not PSP go through unchanged");
}

template <typename T>
std::expected<T, std::string> hex(const std::string& text, const char* option) {
  std::string_view digits = text;
  if (digits.starts_with("0x") || digits.starts_with("0X")) digits.remove_prefix(2);
  T value{};
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (digits.empty() || error != std::errc() || end != digits.data() + digits.size())
    return Refusal(fmt::format("{}: give a hex number of {} bits", option, sizeof(T) * 8));
  return value;
}

std::expected<void, std::string> refine_tunnel(Options& options, const Raw& raw) {
  options.policy.copy_ecn = raw.ecn == "copy";
  if (raw.hop_limit) {
    if (*raw.hop_limit == 0 || *raw.hop_limit > 255) return Refusal("--hop-limit: 1 to 255");
    options.policy.hop_limit = static_cast<std::uint8_t>(*raw.hop_limit);
  }
  if (raw.dscp) {
    if (*raw.dscp > 63) return Refusal("--dscp: 0 to 63");
    options.policy.dscp = static_cast<std::uint8_t>(*raw.dscp);
  }
  if (!raw.source.empty()) {
    const auto source = pcap::parse_address(raw.source);
    const auto destination = pcap::parse_address(raw.destination);
    if (!source || !destination || source->family != destination->family)
      return Refusal("--tunnel-source, --tunnel-destination: give two addresses of one family");
    options.policy.endpoints = {source->family, source->octets, destination->octets};
  }
  const bool touched = raw.hop_limit || raw.dscp || !raw.source.empty() || raw.ecn != "copy";
  if (touched && !options.tunnel) return Refusal("outer headers are for --mode tunnel");
  return {};
}

std::expected<void, std::string> refine_encrypt(Options& options, const Raw& raw) {
  if (!raw.mode.empty() && raw.mode != "transport" && raw.mode != "tunnel")
    return Refusal("--mode: transport or tunnel");
  options.tunnel = raw.mode == "tunnel";
  if (raw.crypt_offset > CryptOffset::kMaxUnits) return Refusal("--crypt-offset: 0 to 63");
  options.crypt_offset = {static_cast<std::uint8_t>(raw.crypt_offset)};
  if (raw.source_port) {
    if (*raw.source_port > 65535) return Refusal("--source-port: 0 to 65535");
    options.source_port = static_cast<std::uint16_t>(*raw.source_port);
  }
  if (!raw.cookie.empty()) {
    const auto cookie = hex<std::uint64_t>(raw.cookie, "--cookie");
    if (!cookie) return Refusal(cookie.error());
    options.cookie = *cookie;
  }
  const bool by_hand = options.spi || options.version || !raw.mode.empty() || raw.crypt_offset ||
                       options.cookie || options.source_port || raw.hop_limit || raw.dscp ||
                       !raw.source.empty() || raw.ecn != "copy";
  if (!options.configuration.empty()) {
    if (by_hand) return Refusal("with --cfg it is the file that says how to encrypt");
    return {};
  }
  if (!options.spi || !options.version) return Refusal("give --spi and --psp-version, or --cfg");
  return refine_tunnel(options, raw);
}

std::expected<void, std::string> refine(Options& options, const Raw& raw) {
  options.progress =
      raw.progress || (!raw.no_progress && !options.quiet && isatty(STDERR_FILENO) == 1);
  options.merge_ecn = raw.ecn_exit == "merge";
  if (!raw.spi.empty()) {
    const auto spi = hex<std::uint32_t>(raw.spi, "--spi");
    if (!spi) return Refusal(spi.error());
    if (!Spi{*spi}.valid()) return Refusal("--spi: the low 31 bits must not all be zero");
    options.spi = *spi;
  }
  if (!raw.version.empty()) {
    options.version = parse_version(raw.version);
    if (!options.version)
      return Refusal(
          fmt::format("--psp-version: \"{}\" is none of {}", raw.version, kVersionWords));
  }
  const auto enabled = parse_versions(raw.enabled);
  if (!enabled)
    return Refusal(fmt::format("--enable: \"{}\" is none of {}", enabled.error(), kVersionWords));
  options.enabled = *enabled;
  if (!options.sa_key.empty() && (!options.spi || !options.version))
    return Refusal("--sa-key: say for which --spi and --psp-version");
  if (options.command == Command::kEncrypt) return refine_encrypt(options, raw);
  if (options.sa_key.empty() && (options.spi || options.version))
    return Refusal("--spi and --psp-version are those of --sa-key, and there is none");
  if (options.command == Command::kExplain && raw.progress)
    return Refusal("explain has a line for each packet, and no --progress");
  return {};
}

}  // namespace

std::expected<Options, int> parse_options(int argc, char** argv) {
  CLI::App app(kDescription, "psp-pcap");
  app.formatter(std::make_shared<PlainHelp>());
  Options options;
  Raw raw;
  app.footer(kExamples);
  app.set_version_flag("-V,--version", version_line("psp-pcap"));
  app.require_subcommand(1);
  auto* encrypt = app.add_subcommand("encrypt", "Seal the packets of a capture");
  auto* decrypt = app.add_subcommand("decrypt", "Open the packets of a capture");
  auto* check = app.add_subcommand("check", "Verify a capture of PSP traffic");
  auto* explain = app.add_subcommand("explain", "What softpsp would do with each packet");
  declare_encrypt(*encrypt, options, raw);
  declare_decrypt(*decrypt, options, raw);
  declare_common(*check, options, raw, false);
  declare_common(*explain, options, raw, false);
  explain->add_option("--enable", raw.enabled, "PSP versions enabled for receive (all)")
      ->type_name("LIST");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {
    const int status = app.exit(asked);
    if (std::cout.flush()) return std::unexpected(status);
    say("error: standard output: cannot write");
    return std::unexpected(kExitFile);
  } catch (const CLI::ParseError& error) {
    say(fmt::format("error: {}; see psp-pcap --help", mistake(app, error)));
    return std::unexpected(kExitUsage);
  }
  options.command = *encrypt   ? Command::kEncrypt
                    : *decrypt ? Command::kDecrypt
                    : *check   ? Command::kCheck
                               : Command::kExplain;
  if (const auto done = refine(options, raw); !done) {
    say(fmt::format("error: {}; see psp-pcap --help", done.error()));
    return std::unexpected(kExitUsage);
  }
  return options;
}

}  // namespace psp::pcap_tool
