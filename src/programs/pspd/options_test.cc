// SPDX-License-Identifier: Apache-2.0
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
  EXPECT_EQ(parse_duration("90"), 90s);
  EXPECT_EQ(parse_duration("90s"), 90s);
  EXPECT_EQ(parse_duration("15m"), 900s);
  EXPECT_EQ(parse_duration("24h"), 86400s);
  EXPECT_EQ(parse_duration("1d"), 86400s);
}

TEST(ParseDuration, RefusesWhatIsNone) {
  for (const char* text : {"", "h", "-1s", "1w", "1.5h", "99999999999999999999", "1 h"})
    EXPECT_FALSE(parse_duration(text)) << text;
}

TEST(ParseOptions, WantsADevice) {
  const char* argv[] = {"pspd"};
  EXPECT_EQ(parse_options(1, argv).error(), 2);
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

TEST(ParseOptions, SaysWhereAKeyOfTheFileIsMistyped) {
  const std::string path = testing::TempDir() + "pspd-mistyped.toml";
  std::ofstream(path) << "dev = \"eth0\"\n\n  rotate-intervall = \"24h\"\n";
  const char* argv[] = {"pspd", "--config", path.c_str()};
  testing::internal::CaptureStderr();
  EXPECT_EQ(parse_options(3, argv).error(), 2);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "pspd: " + path +
                ":3: there is no option \"rotate-intervall\"; did you mean \"rotate-interval\"?\n");
}

TEST(ParseOptions, TakesNetworksOfPeers) {
  const char* argv[] = {"pspd", "--dev", "eth0", "--allow-peers", "10.0.0.0/8,fd00::/8"};
  EXPECT_TRUE(parse_options(3, argv)->allow_peers.empty());
  EXPECT_EQ(parse_options(5, argv)->allow_peers.size(), 2u);
  argv[4] = "10.0.0.1/8";
  EXPECT_EQ(parse_options(5, argv).error(), 2);
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
    EXPECT_EQ(fixed_changes(*now, *next), std::vector<std::string>{name});
    known.insert(name);
  }
  EXPECT_EQ(fixed_changes(*now, *now), std::vector<std::string>{});
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
