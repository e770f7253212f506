// SPDX-License-Identifier: Apache-2.0
#include "options.hh"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <fstream>
#include <map>
#include <numeric>
#include <sched.h>
#include <utility>

#include <psp/netlink/client.hh>
#include <psp/wire/version_text.hh>

#include "plain_help.hh"

namespace psp {
namespace {

const std::map<std::string, device::Compat> kCompats = {{"linux-6.18", device::Compat::kLinux618},
                                                        {"linux-7.2", device::Compat::kLinux72},
                                                        {"linux-7.3", device::Compat::kLinux72},
                                                        {"net-next", device::Compat::kNetNext}};

constexpr const char* kFooter = R"(
Examples:
  pspd --dev eth0                       PSP device for eth0, receive disabled until
                                        'pspctl dev set eth0 psp-versions-ena all'
  pspd --dev eth0 --enable all --rotate-interval 24h
  pspd --config /etc/softpsp/pspd.toml  options from a file: dev = "eth0"
  pspd --cleanup --dev eth0             remove what a killed pspd left

On SIGHUP the file of --config is read again (see pspd(8)).
On SIGTERM the host is put back as it was; connections that were secured are aborted,
since without pspd they could only go on in clear. See pspd(8).)";

// distance is how many letters to change, leave out or put in (Levenshtein).
std::size_t distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); i++) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); j++) {
      const std::size_t changed = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

// line_of is the number of the first line of a file that sets `key`; 0: none.
unsigned line_of(const std::string& file, const std::string& key) {
  std::ifstream in(file);
  std::string line;
  for (unsigned number = 1; std::getline(in, line); number++) {
    const std::string word = line.substr(0, line.find('='));
    const std::size_t begin = word.find_first_not_of(" \t"), end = word.find_last_not_of(" \t");
    if (begin != std::string::npos && word.substr(begin, end - begin + 1) == key) return number;
  }
  return 0;
}

// explain_mistake says where in the file the key is that nobody knows, and which one is meant.
std::string explain_mistake(const CLI::App& app, const std::string& key) {
  std::string file = app.get_config_ptr()->as<std::string>();
  std::string nearest;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames())
      if (nearest.empty() || distance(key, name) < distance(key, nearest)) nearest = name;
  if (const unsigned line = line_of(file, key)) file += ":" + std::to_string(line);
  return "pspd: " + file + ": there is no option \"" + key + "\"; did you mean \"" + nearest +
         "\"?\n";
}

template <typename Parse, typename Value>
std::function<bool(const std::string&)> into(Parse parse, Value& value) {
  return [parse, &value](const std::string& text) {
    const auto parsed = parse(text);
    if (parsed) value = *parsed;
    return parsed.has_value();
  };
}

}  // namespace

std::optional<std::chrono::seconds> parse_duration(const std::string& text) {
  if (text == "off" || text == "0") return std::chrono::seconds(0);
  long long value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (error != std::errc() || value <= 0 || value > 1'000'000'000) return std::nullopt;
  if (unit.empty() || unit == "s") return std::chrono::seconds(value);
  if (unit == "m") return std::chrono::minutes(value);
  if (unit == "h") return std::chrono::hours(value);
  if (unit == "d") return std::chrono::days(value);
  return std::nullopt;
}

std::vector<std::string> fixed_changes(const Options& now, const Options& next) {
  std::vector<std::string> changed;
  const auto look = [&](const char* name, auto Options::*option) {
    if (now.*option != next.*option) changed.emplace_back(name);
  };
  look("socket", &Options::socket);
  look("crypto", &Options::crypto);
  look("workers", &Options::workers);
  look("cpus", &Options::cpus);
  look("rx-cache", &Options::rx_cache);
  look("max-connections", &Options::max_connections);
  look("busy-poll", &Options::busy_poll_us);
  look("udp-checksum", &Options::udp_checksum);
  look("compat", &Options::compat);
  look("allow-key-export", &Options::allow_key_export);
  look("allow-peers", &Options::allow_peers);
  look("require", &Options::require);
  return changed;
}

std::expected<Options, int> parse_options(int argc, const char* const* argv) {
  Options options;
  options.socket = default_socket();
  CLI::App app(
      "pspd gives network devices a PSP device in software and answers for Linux's 'psp' "
      "netlink family.",
      "pspd");
  app.formatter(std::make_shared<PlainHelp>());
  app.footer(kFooter);
  app.set_version_flag("-V,--version", "pspd " PSP_PROGRAM_VERSION);
  app.add_option("--dev", options.devices, "netdev that gets a PSP device; may be repeated")
      ->type_name("IFNAME")
      ->allow_extra_args(false);
  app.add_flag("--require", options.require,
               "a netdev that is not there is an error; else pspd waits for it");
  app.add_option("--socket", options.socket,
                 "control socket; @NAME is abstract: one a network namespace")
      ->type_name("ADDR")
      ->capture_default_str();
  app.add_option("--crypto", options.crypto, "who encrypts: auto, ipsec-mb or openssl")
      ->check(CLI::IsMember({"auto", "ipsec-mb", "openssl"}))
      ->capture_default_str();
  app.add_option_function<std::string>(
         "--enable",
         [&](const std::string& text) {
           if (!into(parse_versions, options.enable)(text))
             throw CLI::ValidationError(
                 "--enable", "'" + text + "' is not all, none or of " + std::string(kVersionWords));
         },
         "versions enabled for receive at start (default none)")
      ->type_name("LIST|all");
  app.add_option("--workers", options.workers, "threads and TAP queues a device")
      ->check(CLI::Range(1u, 64u))
      ->capture_default_str();
  app.add_option("--cpus", options.cpus, "processors for the workers of a device, in turn: 1,3")
      ->delimiter(',')
      ->type_name("N,...")
      ->check(CLI::Range(0u, static_cast<unsigned>(CPU_SETSIZE - 1)));
  app.add_option_function<std::string>(
         "--rotate-interval",
         [&](const std::string& text) {
           if (!into(parse_duration, options.rotate_interval)(text))
             throw CLI::ValidationError("--rotate-interval",
                                        "'" + text + "' is not a duration such as 24h");
         },
         "rotate device keys this often, for example 24h (default off)")
      ->type_name("DURATION");
  app.add_option("--rx-cache", options.rx_cache, "derived Rx keys a worker remembers; 0: none")
      ->check(CLI::Range(std::size_t{0}, std::size_t{65536}))
      ->capture_default_str();
  app.add_option("--max-connections", options.max_connections,
                 "secured connections at a time, with those closed in the last two minutes; 48 "
                 "octets of kernel memory each before there is one, some 300 more when there is; "
                 "half of them for a single user other than root")
      ->check(CLI::Range(1024u, 16'777'216u))
      ->capture_default_str();
  app.add_option("--busy-poll", options.busy_poll_us,
                 "spin this long before sleeping; lowers latency")
      ->type_name("USECS")
      ->check(CLI::Range(0u, 1'000'000u))
      ->capture_default_str();
  app.add_option_function<std::string>(
         "--udp-checksum",
         [&](const std::string& text) {
           if (text != "on" && text != "off")
             throw CLI::ValidationError("--udp-checksum", "on or off");
           options.udp_checksum = text == "on";
         },
         "off: send checksum 0 where the kernel allows it (default on)")
      ->type_name("on|off");
  app.add_option("--log-level", options.log_level, "error, warn, info or debug")
      ->check(CLI::IsMember({"error", "warn", "info", "debug"}))
      ->capture_default_str();
  app.add_option_function<std::string>(
         "--compat", [&](const std::string& text) { options.compat = kCompats.at(text); },
         "the kernel whose rules hold where kernels differ: linux-6.18, linux-7.2, linux-7.3 (as "
         "7.2) or net-next (what is not released)")
      ->check(CLI::IsMember(kCompats))
      ->type_name("KERNEL")
      ->default_str("linux-7.2");
  app.add_option_function<std::vector<std::string>>(
         "--allow-peers",
         [&](const std::vector<std::string>& words) {
           for (const std::string& word : words) {
             const auto network = datapath::Network::parse(word);
             if (!network)
               throw CLI::ValidationError("--allow-peers",
                                          "'" + word + "' is not a network such as 10.0.0.0/8");
             options.allow_peers.push_back(*network);
           }
         },
         "take PSP packets from these addresses only: no firewall of this host sees them sealed")
      ->delimiter(',')
      ->type_name("CIDR,...");
  app.set_config("--config", "", "read these options from a file (TOML), again at SIGHUP")
      ->type_name("FILE");
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.add_flag("--allow-key-export", options.allow_key_export,
               "let root have the keys of connections that it captures (pspctl capture --key-log)");
  app.add_flag("--cleanup", options.cleanup, "remove what a killed pspd left, then exit");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ConfigError& error) {
    constexpr std::string_view kUnknown = "INI was not able to parse ";
    const std::string_view said = error.what();
    if (!said.starts_with(kUnknown)) return std::unexpected(app.exit(error) == 0 ? 0 : 2);
    std::fputs(explain_mistake(app, std::string(said.substr(kUnknown.size()))).c_str(), stderr);
    return std::unexpected(2);
  } catch (const CLI::ParseError& error) {
    return std::unexpected(app.exit(error) == 0 ? 0 : 2);
  }
  if (app.get_config_ptr()->count() != 0) options.config = app.get_config_ptr()->as<std::string>();
  if (options.devices.empty() && !options.cleanup) {
    std::fputs("pspd: error: which netdev? For example: pspd --dev eth0\n", stderr);
    return std::unexpected(2);
  }
  return options;
}

}  // namespace psp
