// SPDX-License-Identifier: Apache-2.0
//
// The command line of psp-proxy, and that the completion for zsh knows all of it. Most command
// lines are parsed in this process, and what is refused is known by its sentence on standard error.
//
// The completion is compared with the --help of the program as it is built, so an option that
// somebody adds to one of them only is found. Files are not opened: what is in them is not shown
// here.
#include "options.hh"

#include <cstdio>
#include <fstream>
#include <gmock/gmock.h>

namespace psp::proxy {
namespace {

// parse gives the options or fails; status the exit status of a command line that is refused.
std::expected<Options, int> parse_words(std::vector<const char*> words) {
  words.insert(words.begin(), "psp-proxy");
  return parse_options(static_cast<int>(words.size()), words.data());
}
Options parse(const std::vector<const char*>& words) {
  const auto options = parse_words(words);
  EXPECT_TRUE(options.has_value());
  return options.value_or(Options{});
}
void expect_refused(const std::vector<const char*>& words, const std::string& sentence) {
  testing::internal::CaptureStderr();
  const auto options = parse_words(words);
  const std::string said = testing::internal::GetCapturedStderr();
  ASSERT_FALSE(options.has_value()) << sentence;
  EXPECT_EQ(options.error(), kExitUsage);
  EXPECT_THAT(said, testing::HasSubstr(sentence));
}

TEST(ProxyOptions, ANumberThatIsNoPortIsNotAnotherPort) {
  expect_refused({"--listen", "127.0.0.1:99999", "--to", "db.example:7001"}, "99999 is no port");
  expect_refused({"--listen-psp", ":7001", "--to", "db.example:65536"}, "65536 is no port");
  parse({"--listen", "127.0.0.1:0", "--to", "db.example:postgresql"});
}

TEST(ProxyOptions, TwoAddressesAreEnough) {
  const Options options = parse({"--listen", "127.0.0.1:5432", "--to", "db.example:7001"});
  EXPECT_FALSE(options.serve);
  EXPECT_EQ(options.listen.host, "127.0.0.1");
  EXPECT_EQ(options.listen.port, "5432");
  EXPECT_EQ(options.to.host, "db.example");
  EXPECT_EQ(options.to.port, "7001");
  EXPECT_FALSE(options.allow_tls);
  EXPECT_TRUE(options.tls.first_use);
  EXPECT_EQ(options.peer_names, std::vector<std::string>{"db.example"});
  EXPECT_GE(options.threads, 1u);
}

TEST(ProxyOptions, AServerWithAnAuthorityDemandsCertificates) {
  const Options options =
      parse({"--listen-psp", ":7001", "--to", "[::1]:80", "--cert", "c", "--key", "k", "--ca", "a",
             "--peer-name", "x", "--peer-name", "y"});
  EXPECT_TRUE(options.serve);
  EXPECT_EQ(options.listen.host, "");
  EXPECT_EQ(options.to.host, "::1");
  EXPECT_TRUE(options.tls.server);
  EXPECT_FALSE(options.tls.first_use);
  EXPECT_EQ(options.peer_names, (std::vector<std::string>{"x", "y"}));
}

TEST(ProxyOptions, WhatDoesNotFitIsSaid) {
  expect_refused({"--to", "a:1"}, "give --listen or --listen-psp");
  expect_refused({"--listen", ":1", "--to", "a:1", "--drain", "1e8"},
                 "--drain: '1e8' is not a number from 0 to 10000000");
  expect_refused({"--listen", ":1", "--to", "a:1", "--timeout", "nan"},
                 "--timeout: 'nan' is not a number from 0.001 to 86400");
  expect_refused({"--listen", ":1", "--listen-psp", ":2", "--to", "a:1"}, "excludes");
  expect_refused({"--listen", "5432", "--to", "a:1"}, "--listen: \"5432\" has no port");
  expect_refused({"--listen", ":1", "--to", "fd77::2:80"}, "ambiguous; write [fd77::2]:80");
  expect_refused({"--listen", ":1", "--to", ":80"}, "--to: give a host");
  expect_refused({"--listen", ":1", "--to", "a:1", "--peer-name", "b"}, "--peer-name needs --ca");
  expect_refused(
      {"--listen", ":1", "--to", "a:1", "--ca", "c", "--peer-name", "b", "--peer-name", "d"},
      "give one");
  expect_refused({"--listen", ":1", "--to", "a:1", "--ca", "c", "--insecure-first-use"},
                 "does not go with credentials");
  expect_refused({"--listen", ":1", "--to", "a:1", "--ca", "c", "--psk-file", "p"}, "choose one");
  expect_refused({"--listen", ":1", "--to", "a:1", "--cert", "c", "--key", "k"},
                 "psp-proxy: error: --cert needs --ca: whom shall this end believe?");
  expect_refused({"--listen", ":1", "--to", "a:1", "--ca", "a", "--cert", "c"},
                 "--cert needs --key");
  expect_refused({"--listen-psp", ":1", "--to", "a:1", "--cert", "c"}, "--cert needs --key");
  expect_refused({"--listen-psp", ":1", "--to", "a:1", "--ca", "a"},
                 "--listen-psp with --ca needs --cert and --key");
  expect_refused({"--listen", ":1", "--to", "a:1", "--half-open", "1:1:1"}, "--listen-psp");
  expect_refused({"--listen", ":1", "--to", "a:1", "--half-open-source", "1"}, "--listen-psp");
  expect_refused({"--listen-psp", ":1", "--to", "a:1", "--half-open", "9:1:1"}, "--half-open: ");
  for (const char* name : {".example", "*.example", ""})
    expect_refused({"--listen-psp", ":1", "--to", "a:1", "--cert", "c", "--key", "k", "--ca", "c",
                    "--peer-name", name},
                   "is refused (peer-name): ");
  expect_refused({"--listen", ":1", "--to", "a:1", "--policy", "maybe"}, "--policy");
  expect_refused({"--listen", ":1", "--to", "a:1", "--psp-version", "none"},
                 "--psp-version: give at least one");
  expect_refused({"--listen", ":1", "--to", "a:1", "--psp-version", "1,7"},
                 "there is no PSP version \"7\"");
}

TEST(ProxyOptions, VersionIsThatOfTheProgram) {
  testing::internal::CaptureStdout();
  const auto asked = parse_words({"--version"});
  EXPECT_THAT(testing::internal::GetCapturedStdout(), testing::StartsWith("psp-proxy of softpsp "));
  ASSERT_FALSE(asked.has_value());
  EXPECT_EQ(asked.error(), 0);
  expect_refused({"--listen", ":1", "--to", "a:1", "--version", "0"}, "by --psp-version");
}

TEST(ProxyOptions, AllVersionsAreThoseThatEncrypt) {
  EXPECT_EQ(parse({"--listen", ":1", "--to", "a:1", "--psp-version", "all"}).versions.bits, 0b0011);
  EXPECT_EQ(parse({"--listen", ":1", "--to", "a:1", "--psp-version", "1,3"}).versions.bits, 0b1010);
}

TEST(ProxyOptions, TheCompletionForZshKnowsEachOption) {
  std::string help;
  std::FILE* pipe = popen(PSP_PROXY " --help", "r");
  for (int octet = std::fgetc(pipe); octet != EOF; octet = std::fgetc(pipe))
    help += static_cast<char>(octet);
  ASSERT_EQ(pclose(pipe), 0);
  std::ifstream file(PSP_SOURCE_DIR "/completions/_psp-proxy");
  const std::string completion{std::istreambuf_iterator<char>(file), {}};
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz-";
  for (std::size_t at = 0; (at = help.find("--", at)) != std::string::npos;) {
    const std::size_t end = help.find_first_not_of(kLetters, at);
    const std::string option = help.substr(at, end - at);
    at = end;
    if (option == "--") continue;
    const bool known = completion.find(option + "[") != std::string::npos ||
                       completion.find(option + "}") != std::string::npos;
    EXPECT_TRUE(known) << option;
  }
}

}  // namespace
}  // namespace psp::proxy
