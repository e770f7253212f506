// SPDX-License-Identifier: Apache-2.0
//
// By CLI11, but for what it says of a mistake in the file: there the line and the option that was
// probably meant are named.
//
// The options of the file are those of the command line, defined once (define). Each line of a file
// is first tried on options of its own, also where the command line goes before it: a mistake that
// shows only when somebody takes an option away would show at the wrong time. An empty list of
// networks is refused, for it would let everybody in.
#include "options.hh"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <fmt/format.h>
#include <map>
#include <net/if.h>
#include <sched.h>
#include <utility>

#include "netlink/client.hh"
#include "wire/version_text.hh"

#include "config_file.hh"
#include "mistake.hh"
#include "plain_help.hh"
#include "version_line.hh"

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

// say_where says where in a file something is wrong, and what.
int say_where(const std::string& file, const FileMistake& found) {
  const std::string line = found.line != 0 ? ":" + std::to_string(found.line) : "";
  std::fputs(("pspd: " + file + line + ": " + found.what + "\n").c_str(), stderr);
  return 2;
}

// unknown names the option that is meant by a key that nobody knows.
std::string unknown(const CLI::App& app, const std::string& key) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    if (option->get_configurable()) std::ranges::copy(option->get_lnames(), back_inserter(names));
  const auto meant = nearest(key, names);
  return fmt::format("there is no option \"{}\"; {}", key,
                     meant ? "did you mean \"" + *meant + "\"?" : "see pspd --help");
}

CLI::Option* option_of(CLI::App& app, const FileSetting& setting) {
  return app.get_option_no_throw("--" + setting.key);
}

// give hands an option what the file has for it. Throws CLI::ParseError if that is no value for it.
void give(CLI::Option& option, const FileSetting& setting) {
  const bool list = option.get_items_expected_max() > 1, flag = option.get_expected_min() == 0;
  if (!list && setting.values.size() != 1)
    throw CLI::ValidationError(option.get_name(), "it takes one value, not a list");
  if (flag && setting.values[0] != "true" && setting.values[0] != "false")
    throw CLI::ValidationError(option.get_name(), "true or false");
  for (const std::string& value : setting.values)
    option.add_result(flag ? option.get_flag_value(setting.key, value) : value);
  option.run_callback();
}

// wrong looks at one line of the file; nothing: it is right. `app` is for this alone.
std::optional<std::string> wrong(CLI::App& app, const FileSetting& setting) {
  CLI::Option* option = option_of(app, setting);
  if (option == nullptr) return unknown(app, setting.key);
  if (!option->get_configurable())
    return setting.key + ": this stands on the command line, never in a file";
  try {
    give(*option, setting);
  } catch (const CLI::ParseError& error) {
    const std::string what = error.what(), name = option->get_name() + ": ";
    return setting.key + ": " + (what.starts_with(name) ? what.substr(name.size()) : what);
  }
  return std::nullopt;
}

template <typename Parse, typename Value>
std::function<bool(const std::string&)> into(Parse parse, Value& value) {
  return [parse, &value](const std::string& text) {
    const auto parsed = parse(text);
    if (parsed) value = *parsed;
    return parsed.has_value();
  };
}

// split cuts a list at its commas; what is empty is a word too.
std::vector<std::string> split(const std::vector<std::string>& lists) {
  std::vector<std::string> words;
  for (const std::string& list : lists)
    for (std::size_t at = 0, comma = 0; comma != std::string::npos; at = comma + 1) {
      comma = list.find(',', at);
      words.push_back(list.substr(at, comma - at));
    }
  return words;
}

// add_list is an option whose words go to the end of `values`, or are mistakes: "'7x' is not a
// ...".
template <typename Parse, typename Value>
CLI::Option* add_list(CLI::App& app, const char* name, Parse parse, std::vector<Value>& values,
                      const char* mistake, const char* text) {
  const auto take = [=, &values](const std::vector<std::string>& lists) {
    for (const std::string& word : split(lists)) {
      const auto value = parse(word);
      if (!value) throw CLI::ValidationError(name, "'" + word + "' " + mistake);
      values.push_back(*value);
    }
  };
  return app.add_option_function<std::vector<std::string>>(name, take, text)
      ->allow_extra_args(false);
}

// netdev_name says what the kernel would have against a name (dev_valid_name).
std::string netdev_name(const std::string& name) {
  const auto bad = [](unsigned char c) { return c <= ' ' || c == '/' || c == ':' || c == 0x7f; };
  if (!name.empty() && name.size() < IFNAMSIZ && name != "." && name != ".." &&
      std::ranges::none_of(name, bad))
    return {};
  return fmt::format(
      "{:?} is no name of a netdev: 1 to {} octets, no space, no '/', no ':', not \".\" or \"..\"",
      name, IFNAMSIZ - 1);
}

std::optional<unsigned> parse_cpu(const std::string& text) {
  unsigned cpu = 0;
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, cpu);
  if (error != std::errc() || at != end || cpu >= CPU_SETSIZE) return std::nullopt;
  return cpu;
}

}  // namespace

std::optional<std::chrono::seconds> parse_duration(const std::string& text) {
  if (text == "off") return std::chrono::seconds(0);
  long long value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (error != std::errc() || value <= 0 || value > 1'000'000'000) return std::nullopt;
  if (unit == "s") return std::chrono::seconds(value);
  if (unit == "m") return std::chrono::minutes(value);
  if (unit == "h") return std::chrono::hours(value);
  if (unit == "d") return std::chrono::days(value);
  return std::nullopt;
}

namespace {

// define names all options, with `options` for their values.
void define(CLI::App& app, Options& options) {
  options.socket = default_socket();
  app.formatter(std::make_shared<PlainHelp>());
  app.footer(kFooter);
  app.set_version_flag("-V,--version", version_line("pspd"));
  app.add_option("--dev", options.devices, "netdev that gets a PSP device; may be repeated")
      ->type_name("IFNAME")
      ->check(CLI::Validator(netdev_name, "", ""))
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
         [&options](const std::string& text) {
           if (!into(parse_versions, options.enable)(text))
             throw CLI::ValidationError(
                 "--enable", "'" + text + "' is not all, none or of " + std::string(kVersionWords));
         },
         "versions enabled for receive at start (default none)")
      ->type_name("LIST|all");
  app.add_option("--workers", options.workers, "threads and TAP queues a device")
      ->check(CLI::Range(1u, 64u))
      ->capture_default_str();
  add_list(app, "--cpus", &parse_cpu, options.cpus, "is not the number of a processor",
           "processors for the workers of a device, in turn: 1,3")
      ->type_name("N,...");
  app.add_option_function<std::string>(
         "--rotate-interval",
         [&options](const std::string& text) {
           if (!into(parse_duration, options.rotate_interval)(text))
             throw CLI::ValidationError(
                 "--rotate-interval",
                 "'" + text + "' is not a duration such as 24h: a number and s, m, h or d");
         },
         "rotate device keys this often: 90m, 24h, 7d (default off)")
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
         [&options](const std::string& text) {
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
         "--compat", [&options](const std::string& text) { options.compat = kCompats.at(text); },
         "the kernel whose rules hold where kernels differ: linux-6.18, linux-7.2, linux-7.3 (as "
         "7.2) or net-next (what is not released)")
      ->check(CLI::IsMember(kCompats))
      ->type_name("KERNEL")
      ->default_str("linux-7.2");
  add_list(app, "--allow-peers", &datapath::Network::parse, options.allow_peers,
           "is not a network such as 10.0.0.0/8",
           "take PSP packets from these addresses only: no firewall of this host sees them sealed")
      ->type_name("CIDR,...");
  app.add_option("--config", options.config,
                 "read these options from a file (TOML), again at SIGHUP")
      ->type_name("FILE")
      ->configurable(false);
  app.add_flag("--allow-key-export", options.allow_key_export,
               "let root have the keys of connections that it captures (pspctl capture --key-log)");
  app.add_flag("--cleanup", options.cleanup, "remove what a killed pspd left, then exit")
      ->configurable(false);
}

// take_file gives `app` what the file has and the command line has not. Without a value the program
// ends with that exit code. The command line goes before the file, but the file has to be right.
std::expected<void, int> take_file(CLI::App& app, const std::string& file) {
  const auto settings = read_settings(file);
  if (!settings) return std::unexpected(say_where(file, settings.error()));
  Options unused;
  CLI::App trial;
  define(trial, unused);
  for (const FileSetting& setting : *settings)
    if (const auto what = wrong(trial, setting))
      return std::unexpected(say_where(file, {setting.line, *what}));
  for (const FileSetting& setting : *settings)
    if (CLI::Option* option = option_of(app, setting); option->count() == 0) give(*option, setting);
  return {};
}

}  // namespace

std::expected<Options, int> parse_options(int argc, const char* const* argv) {
  Options options;
  CLI::App app(
      "pspd gives network devices a PSP device in software and answers for Linux's 'psp' "
      "netlink family.",
      "pspd");
  define(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {
    return std::unexpected(app.exit(asked));
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "pspd: error: {}; see pspd --help\n", mistake(app, error));
    return std::unexpected(2);
  }
  if (app.count("--config") != 0)
    if (const auto taken = take_file(app, options.config); !taken)
      return std::unexpected(taken.error());
  if (options.devices.empty() && !options.cleanup) {
    std::fputs("pspd: error: which netdev? For example: pspd --dev eth0\n", stderr);
    return std::unexpected(2);
  }
  return options;
}

}  // namespace psp
