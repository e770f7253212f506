// SPDX-License-Identifier: Apache-2.0
//
// The command line and the file, mistakes in both, and that every option and every signal is one of
// which it is known what a running pspd does with it.
//
// Options are taken from the --help of the parser itself, and signals from all numbers that there
// are: who adds an option, or a kernel that adds a signal, fails here until somebody has decided.
// What pspd says of a mistake is compared word by word. That options take effect is tested with
// pspd (tests/netns).
#include "options.hh"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <sstream>

#include "signals.hh"

namespace psp {
namespace {

using namespace std::chrono_literals;

TEST(ParseDuration, TakesUnits) {
  EXPECT_EQ(parse_duration("off"), 0s);
  EXPECT_EQ(parse_duration("90s"), 90s);
  EXPECT_EQ(parse_duration("15m"), 900s);
  EXPECT_EQ(parse_duration("24h"), 86400s);
  EXPECT_EQ(parse_duration("1d"), 86400s);
}

TEST(ParseDuration, RefusesWhatIsNone) {
  for (const char* text : {"", "h", "0", "24", "-1s", "1w", "1.5h", "99999999999999999999", "1 h"})
    EXPECT_FALSE(parse_duration(text)) << text;
}

TEST(ParseOptions, WantsADevice) {
  const char* argv[] = {"pspd"};
  EXPECT_EQ(parse_options(1, argv).error(), 2);
}

TEST(ParseOptions, SaysTheVersionInTheFormOfAllPrograms) {
  const char* argv[] = {"pspd", "--version"};
  testing::internal::CaptureStdout();
  const auto asked = parse_options(2, argv);
  EXPECT_EQ(testing::internal::GetCapturedStdout().rfind("pspd of softpsp ", 0), 0u);
  EXPECT_EQ(asked.error(), 0);
}

TEST(ParseOptions, TakesSeveralDevices) {
  const char* argv[] = {"pspd", "--dev", "eth0", "--dev", "eth1", "--enable", "0,1"};
  const auto options = parse_options(7, argv);
  ASSERT_TRUE(options);
  EXPECT_EQ(options->devices, (std::vector<std::string>{"eth0", "eth1"}));
  EXPECT_EQ(options->enable, VersionSet{0b11});
}

TEST(ParseOptions, KnowsWhoseRulesHold) {
  const char* argv[] = {"pspd", "--dev", "eth0", "--compat", "linux-6.18"};
  EXPECT_EQ(parse_options(3, argv)->compat, device::Compat::kLinux72) << "the newest release";
  EXPECT_EQ(parse_options(5, argv)->compat, device::Compat::kLinux618);
}

// said_of is what pspd says to a configuration file, with FILE for its name; "" if it takes it.
std::string said_of(const std::string& text) {
  const std::string path = testing::TempDir() + "pspd-said-of.toml";
  std::ofstream(path) << text;
  const char* argv[] = {"pspd", "--config", path.c_str()};
  testing::internal::CaptureStderr();
  const auto options = parse_options(3, argv);
  std::string said = testing::internal::GetCapturedStderr();
  std::remove(path.c_str());
  EXPECT_EQ(options ? 0 : options.error(), said.empty() ? 0 : 2);
  if (const std::size_t at = said.find(path); at != std::string::npos)
    said.replace(at, path.size(), "FILE");
  return said;
}

TEST(ParseOptions, SaysWhereAKeyOfTheFileIsMistyped) {
  EXPECT_EQ(said_of("dev = \"eth0\"\n\n  rotate-intervall = \"24h\"\n"),
            "pspd: FILE:3: there is no option \"rotate-intervall\"; did you mean "
            "\"rotate-interval\"?\n");
  EXPECT_EQ(said_of("# nothing\nclean = true\n").find("cleanup"), std::string::npos)
      << "no advice that the file cannot take";
}

TEST(ParseOptions, TakesNoFileThatIsBroken) {
  const std::pair<const char*, const char*> cases[] = {
      {"dev = [\"eth0\"\nallow-peers = [\"10.0.0.0/8\"]\n",
       "FILE:2: dev: after \"eth0\" comes no comma and no \"]\""},
      {"dev = [\"eth0\",\nallow-peers = [\"10.0.0.0/8\"]\n",
       "FILE:2: dev: after \"allow-peers\" comes no comma and no \"]\""},
      {"dev = [\"eth0\" \"eth1\"]\n", "FILE:1: dev: after \"eth0\" comes no comma and no \"]\""},
      {"workers = 1\ndev = [\"eth0\",\n", "FILE:2: dev: \"[\" without \"]\""},
      {"dev = [,]\n", "FILE:1: dev: a value is missing before \",\""},
      {"dev = \"eth0\"]\n", "FILE:1: dev: \"]\" after the value"},
      {"dev = [[\"eth0\"]]\n", "FILE:1: dev: a list in a list"},
      {"enable = \"all\"\ndev = \"nope0\n", "FILE:2: dev: a quotation mark is not closed"},
      {"dev = 'nope0\n", "FILE:1: dev: a quotation mark is not closed"},
      {"dev = [\"eth0, \"eth1\"]\n", "FILE:1: dev: after \"eth0, \" comes no comma and no \"]\""},
      {"dev = \"eth0\" eth1\n", "FILE:1: dev: \"eth1\" after the value"},
      {"dev = eth0\"\n", "FILE:1: dev: a quotation mark in the middle of \"eth0\""},
      {"dev = \n", "FILE:1: dev: a value is missing"},
      {"dev\n", "FILE:1: \"dev\" without \"=\""},
      {"= 3\n", "FILE:1: an option is missing before \"=\""},
      {"dev = []\n", "FILE:1: dev: an empty list; leave the line out"},
      {"dev = \"eth0\"\nallow-peers = []\n",
       "FILE:2: allow-peers: an empty list; leave the line out"},
      {"dev = \"eth0\"\n[other]\nworkers = 2\n", "FILE:2: there are no sections here: \"[other]\""},
      {"[default]\ndev = \"eth0\"\n", "FILE:1: there are no sections here: \"[default]\""},
      {"dev = \"eth0\"\nenable = \"1\"\ndev = \"eth1\"\n",
       "FILE:3: dev: it is set in line 1 already; a list is [\"A\", \"B\"]"},
      {"dev = \"eth\\x\"\n", "FILE:1: dev: \"\\x\" is nothing that can stand in quotation marks"},
      {"cpus = 1,3\"x\"\n", "FILE:1: cpus: a quotation mark in the middle of \"3\""},
  };
  for (const auto& [text, said] : cases)
    EXPECT_EQ(said_of(text), "pspd: " + std::string(said) + "\n") << text;
}

TEST(ParseOptions, TakesActionsFromTheCommandLineOnly) {
  for (const char* action : {"cleanup", "help", "version", "config"})
    EXPECT_EQ(said_of("dev = \"eth0\"\n" + std::string(action) + " = true\n"),
              "pspd: FILE:2: " + std::string(action) +
                  ": this stands on the command line, never in a file\n");
}

TEST(ParseOptions, SaysWhereAValueOfTheFileIsWrong) {
  const char* wrong[] = {
      "dev = \"no pe\"",
      "dev = [\"eth1\", \"a/b\"]",
      "crypto = \"rot13\"",
      "enable = \"5\"",
      "workers = \"many\"",
      "workers = [1, 2]",
      "cpus = [1, \"all\"]",
      "rotate-interval = \"soon\"",
      "rx-cache = -1",
      "max-connections = 1",
      "busy-poll = \"\"",
      "udp-checksum = true",
      "log-level = \"loud\"",
      "compat = \"linux-2.4\"",
      "allow-peers = \"10.0.0.1/8\"",
      "allow-peers = \"\"",
      "allow-peers = \",\"",
      "allow-key-export = \"perhaps\"",
      "require = [true,false]",
      "require = \"\"",
  };
  for (const std::string line : wrong) {
    const std::string key = line.substr(0, line.find(' '));
    const std::string first = key == "dev" ? "\n" : "dev = \"eth0\"\n";
    const std::string said = said_of(first + line + "\n"), start = "pspd: FILE:2: " + key + ": ";
    EXPECT_TRUE(said.starts_with(start)) << line << ": " << said;
    EXPECT_EQ(said.find("--"), std::string::npos) << said;
    EXPECT_GT(said.size(), start.size() + 5) << said;
  }
  EXPECT_EQ(said_of("workers = \"many\"\n"),
            "pspd: FILE:1: workers: Value many not in range 1 to 64\n");
}

// The command line goes before the file, and yet the file has to be right.
TEST(ParseOptions, LooksAtValuesThatTheCommandLineReplaces) {
  const std::string path = testing::TempDir() + "pspd-replaced.toml";
  std::ofstream(path) << "dev = \"eth0\"\nworkers = \"many\"\n";
  const char* argv[] = {"pspd", "--config", path.c_str(), "--workers", "2"};
  EXPECT_EQ(parse_options(5, argv).error(), 2);
  std::remove(path.c_str());
}

TEST(ParseOptions, TakesNamesOfNetdevsAsTheKernelDoes) {
  for (const char* name : {"e", "fifteen-octets0", "eth0.100", "...", "br-\xc3\xa4"}) {
    const char* argv[] = {"pspd", "--dev", name};
    EXPECT_TRUE(parse_options(3, argv)) << name;
  }
  for (const char* name : {"", "sixteen-octets00", ".", "..", "no pe", "a/b", "eth0:1", "a\tb",
                           "a\x1b[0m", "a\x7f", " eth0"}) {
    const char* argv[] = {"pspd", "--dev", name};
    EXPECT_EQ(parse_options(3, argv).error(), 2) << name;
  }
}

TEST(ParseOptions, TakesWhatAFileMayHave) {
  EXPECT_EQ(said_of("dev = [ 'eth0', # the first\n  \"eth1\",\n\n]  # both\r\n"
                    "\"workers\" = 3\ncpus = [1,3]\nrequire = true\nenable = all\n"
                    "socket = \"@a\\\"b\\\\ # no comment\"\nallow-peers = \"10.0.0.0/8,fd00::/8\""),
            "");
}

TEST(ParseOptions, TakesNetworksOfPeers) {
  const char* argv[] = {"pspd", "--dev", "eth0", "--allow-peers", "10.0.0.0/8,fd00::/8"};
  EXPECT_TRUE(parse_options(3, argv)->allow_peers.empty());
  EXPECT_EQ(parse_options(5, argv)->allow_peers.size(), 2u);
  for (const char* wrong : {"10.0.0.1/8", "", ",", "[]", "10.0.0.0/8,"}) {
    argv[4] = wrong;
    EXPECT_EQ(parse_options(5, argv).error(), 2) << wrong << ": everybody would be let in";
  }
}

TEST(ParseOptions, ReadsAFileUnderTheCommandLine) {
  const std::string path = testing::TempDir() + "pspd-options.toml";
  std::ofstream(path) << "dev = [\"eth0\", \"eth1\"]\ncompat = \"linux-6.18\"\n"
                      << "workers = 3\nenable = \"all\"\nrotate-interval = \"24h\"\n";
  const char* argv[] = {"pspd", "--config", path.c_str(), "--workers", "2"};
  const auto options = parse_options(5, argv);
  ASSERT_TRUE(options);
  EXPECT_EQ(options->devices, (std::vector<std::string>{"eth0", "eth1"}));
  EXPECT_EQ(options->compat, device::Compat::kLinux618);
  EXPECT_EQ(options->enable, VersionSet::all());
  EXPECT_EQ(options->rotate_interval, 24h);
  EXPECT_EQ(options->workers, 2u) << "the command line is stronger";
  for (const char* mistake : {"compat = \"linux-2.4\"\n", "no-such-option = 1\n"}) {
    std::ofstream(path) << "dev = \"eth0\"\n" << mistake;
    EXPECT_EQ(parse_options(3, argv).error(), 2) << mistake;
  }
  std::remove(path.c_str());
  EXPECT_EQ(parse_options(3, argv).error(), 2) << "no such file";
}

TEST(ParseOptions, TakesTheSampleThatIsInstalled) {
  const char* argv[] = {"pspd", "--config", PSP_SOURCE_DIR "/systemd/pspd.toml"};
  const auto options = parse_options(3, argv);
  ASSERT_TRUE(options);
  EXPECT_EQ(options->devices, std::vector<std::string>{"eth0"});
  EXPECT_EQ(options->enable, VersionSet::all());
}

TEST(ParseOptions, TakesTheProcessorsOfTheWorkers) {
  const char* argv[] = {"pspd", "--dev", "eth0", "--cpus", "1,3"};
  const auto options = parse_options(5, argv);
  ASSERT_TRUE(options);
  EXPECT_EQ(options->cpus, (std::vector<unsigned>{1, 3}));
  for (const char* wrong : {"", ",", "1,", "[]", "1 3", "-1", "1x"}) {
    argv[4] = wrong;
    EXPECT_EQ(parse_options(5, argv).error(), 2) << wrong;
  }
}

// The options of --help, without their values.
std::set<std::string> all_options() {
  const char* argv[] = {"pspd", "--help"};
  testing::internal::CaptureStdout();
  EXPECT_EQ(parse_options(2, argv).error(), 0);
  std::istringstream help(testing::internal::GetCapturedStdout());
  std::set<std::string> all;
  for (std::string line; std::getline(help, line);)
    if (line.starts_with("  -") || line.starts_with("      --")) {
      const std::string name = line.substr(line.find("--") + 2);
      all.insert(name.substr(0, name.find_first_of(" ,=")));
    }
  return all;
}

TEST(FixedChanges, NamesEveryOptionThatARunningPspdCannotChange) {
  const std::map<std::string, std::string> fixed = {{"socket", "@other"},
                                                    {"crypto", "openssl"},
                                                    {"workers", "2"},
                                                    {"cpus", "0"},
                                                    {"rx-cache", "7"},
                                                    {"max-connections", "2000"},
                                                    {"busy-poll", "5"},
                                                    {"udp-checksum", "off"},
                                                    {"compat", "linux-6.18"},
                                                    {"allow-key-export", "true"},
                                                    {"allow-peers", "10.0.0.0/8"},
                                                    {"require", "true"}};
  const std::set<std::string> other = {"help",   "version",         "dev",       "config",
                                       "enable", "rotate-interval", "log-level", "cleanup"};
  std::set<std::string> known = other;
  const char* argv[] = {"pspd", "--dev", "eth0", nullptr};
  const auto now = parse_options(3, argv);
  for (const auto& [name, value] : fixed) {
    const std::string option = "--" + name + "=" + value;
    argv[3] = option.c_str();
    const auto next = parse_options(4, argv);
    ASSERT_TRUE(next) << option;
    EXPECT_EQ(host::fixed_changes(*now, *next), std::vector<std::string>{name});
    known.insert(name);
  }
  EXPECT_EQ(host::fixed_changes(*now, *now), std::vector<std::string>{});
  EXPECT_EQ(all_options(), known) << "what does SIGHUP do with it?";
}

TEST(StopSignals, AreAllThatWouldEndItAndCanWait) {
  const std::vector<int> taken = stop_signals();
  const std::set<int> others = {SIGKILL, SIGPIPE, SIGSEGV, SIGBUS, SIGFPE, SIGILL,
                                SIGABRT, SIGSYS,  SIGTRAP, 32,     33};  // the last two are glibc's
  for (int signal = 1; signal < NSIG; signal++) {
    const bool harmless = signal == SIGCHLD || signal == SIGURG || signal == SIGWINCH ||
                          signal == SIGCONT || signal == SIGSTOP || signal == SIGTSTP ||
                          signal == SIGTTIN || signal == SIGTTOU;
    EXPECT_EQ(std::ranges::find(taken, signal) != taken.end(),
              !harmless && !others.contains(signal))
        << signal_name(signal);
  }
}

TEST(ParseOptions, ExplainsMistakes) {
  for (const char* value :
       {"--workers=0", "--cpus=all", "--cpus=1024", "--crypto=rot13", "--enable=5",
        "--rotate-interval=soon", "--compat=linux-2.4", "--no-such-option"}) {
    const char* argv[] = {"pspd", "--dev", "eth0", value};
    EXPECT_EQ(parse_options(4, argv).error(), 2) << value;
  }
}

}  // namespace
}  // namespace psp
