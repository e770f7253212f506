// SPDX-License-Identifier: Apache-2.0
//
// From argv to a command and from its outcome to an exit status: options, noun, verb, then the
// handler, which has the words behind them.
//
// Nouns and verbs may be abbreviated as with ip(8): the first in the table that begins so is meant,
// so the order of the table is part of the interface. A command that could not write its output has
// failed, whatever it did. The namespace of -n is entered before anybody is asked.
#include "command.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>

#include "named_netns.hh"
#include "nearest.hh"
#include "version_line.hh"

namespace psp::ctl {

namespace {

constexpr std::string_view kHelp =
    R"(Usage: pspctl [OPTIONS] NOUN [VERB] [ARGUMENTS]      (alone: dev show)
  dev show|set|assoc|disassoc [DEV ...]   PSP devices and the versions that they accept
  key rotate DEV                a new device key; twice, and old connections die
  assoc show [FILTER]           secured connections
  stats show [DEV]              counters, with -s also why packets were dropped
  monitor                       changes as they happen, one a line
  doctor [--peer HOST]          what works here, what does not, and what to do
  netlink OP --json TEXT        any operation of the psp family (--dump, --show-keys)
  run [--] PROGRAM ...          a program written for the kernel's psp family, with pspd
  capture --dev DEV -w FILE     PSP packets into a pcapng file; for root also their keys
A device is a netdev's name or "id N". "pspctl NOUN help" says more. Nouns and verbs may
be abbreviated, as with ip(8): "pspctl d s" is "pspctl dev show".

  -j, --json  a JSON array        -p, --pretty   over several lines
  -s, --statistics  more numbers  -d, --details  more facts   -o, --oneline  one a line
  -t, --timestamp  time of each event            -c, --color[=auto|always|never]
  -n, --netns NAME  in that network namespace    -V, --version   -h, --help
  --socket ADDR  where pspd listens ("@name" is abstract), and ask nobody else; default
                 $PSP_SOCKET. Without: the kernel's family, and pspd at @softpsp.

Exit: 0 ok, 1 failed, 2 usage, 3 nobody to ask, 4 not supported, 5 not permitted.
)";

const std::vector<Noun>& nouns() {
  static const std::vector<Noun> table = {dev_noun(),     key_noun(),     assoc_noun(),
                                          stats_noun(),   monitor_noun(), doctor_noun(),
                                          netlink_noun(), run_noun(),     capture_noun()};
  return table;
}

// choose is the entry that `word` names or, as with ip(8), begins; the first one if several do.
template <typename Entry>
const Entry* choose(const std::vector<Entry>& table, std::string_view word) {
  const auto exact = std::ranges::find(table, word, &Entry::name);
  if (exact != table.end()) return &*exact;
  const auto begun = std::ranges::find_if(
      table, [&](const Entry& entry) { return !word.empty() && entry.name.starts_with(word); });
  return begun == table.end() ? nullptr : &*begun;
}

void print(std::FILE* file, std::string_view words) {
  std::fwrite(words.data(), 1, words.size(), file);
}

Outcome<const Noun*> find_noun(Words& words) {
  auto word = words.take("NOUN");
  if (!word) return std::unexpected(word.error());
  if (const Noun* noun = choose(nouns(), *word)) return noun;
  std::vector<std::string> names;
  for (const Noun& noun : nouns()) names.emplace_back(noun.name);
  return usage_error(fmt::format("\"{}\" is no noun of pspctl{}; see pspctl --help", *word,
                                 did_you_mean(nearest(*word, names))));
}

Tail tail_of(std::string_view word) {
  const Noun* noun = choose(nouns(), word);
  return noun == nullptr ? Tail::kWords : noun->tail;
}

Outcome<Handler> find_verb(const Noun& noun, Words& words) {
  if (noun.verbs.front().name.empty()) return noun.verbs.front().handler;
  if (words.done() && noun.alone) return noun.verbs.front().handler;
  std::string verbs;
  for (const Verb& verb : noun.verbs)
    verbs += fmt::format("{}{}", verbs.empty() ? "" : ", ", verb.name);
  if (words.done()) return usage_error(fmt::format("{}: VERB is missing ({})", noun.name, verbs));
  const auto word = words.take("VERB");
  if (const Verb* verb = choose(noun.verbs, *word)) return verb->handler;
  for (const Verb& verb : noun.verbs)
    if (!verb.alias.empty() && verb.alias.starts_with(*word)) return verb.handler;
  return usage_error(fmt::format("{}: \"{}\" is no verb of it ({})", noun.name, *word, verbs));
}

Outcome<void> execute(const Options& options, const Environment& environment) {
  if (options.version) {
    print(environment.out, version_line("pspctl") + "\n");
    return {};
  }
  Words words(options.words);
  const bool help_word = words.accept("help");
  if (words.done() && (help_word || options.help)) {
    print(environment.out, kHelp);
    return {};
  }
  if (options.words.empty()) words = Words({"dev", "show"});
  auto noun = find_noun(words);
  if (!noun) return std::unexpected(noun.error());
  const bool program = (*noun)->tail == Tail::kProgram;  // "help" may be one
  if (help_word || options.help || words.accept(program ? "--help" : "help")) {
    print(environment.out, (*noun)->help);
    return {};
  }
  if (options.peer && (*noun)->name != "doctor") return usage_error("--peer is for doctor only");
  auto handler = find_verb(**noun, words);
  if (!handler) return std::unexpected(handler.error());
  if (options.netns)
    if (auto entered = enter_netns(*options.netns); !entered) return entered;
  const bool colour = options.colour == ColourWhen::kAuto ? environment.colour
                                                          : options.colour == ColourWhen::kAlways;
  const Emitter::Style style{.json = options.json,
                             .pretty = options.pretty,
                             .colour = colour && !options.json,
                             .oneline = options.oneline};
  Context context{options, environment, std::move(words), Emitter(environment.out, style)};
  return (*handler)(context);
}

}  // namespace

Outcome<Client> Context::connect() const {
  auto client = Client::connect(options.socket ? options.socket : chosen_socket());
  if (!client) return unreachable(client.error());
  return std::move(*client);
}

Outcome<std::optional<DaemonInfo>> Context::daemon_info(Client& client) const {
  if (!options.statistics && !options.details) return std::nullopt;
  if (!client.has(Provider::kDaemon)) return std::nullopt;
  auto info = psp::daemon_info(client);
  if (!info) return refused("daemon info", info.error());
  return std::move(*info);
}

ExitStatus run(const std::vector<std::string>& arguments, const Environment& environment) {
  const auto options = parse_options(arguments, tail_of);
  Outcome<void> outcome =
      options ? execute(*options, environment) : Outcome<void>(std::unexpected(options.error()));
  if (outcome && (std::fflush(environment.out) != 0 || std::ferror(environment.out) != 0))
    outcome = std::unexpected(
        Failure{ExitStatus::kFailed, fmt::format("write output: {}", std::strerror(errno))});
  if (outcome) return ExitStatus::kOk;
  if (!outcome.error().message.empty())
    print(environment.err, fmt::format("pspctl: error: {}\n", outcome.error().message));
  return outcome.error().status;
}

}  // namespace psp::ctl
