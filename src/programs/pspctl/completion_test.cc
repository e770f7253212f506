// SPDX-License-Identifier: Apache-2.0
//
// completions/: bash's completion function, called as readline would, with a pspd to ask.
//
// A real bash sources the file, and what it offers is compared word by word: a noun, verb or option
// that pspctl has and the completion lacks shows here. Devices and versions come from a real server
// over fakes, by way of the pspctl that was built. zsh's file is only parsed, where there is a zsh.
#include <algorithm>
#include <cstdio>
#include <sstream>
#include <unistd.h>

#include "pspctl_fixture.hh"

namespace psp::ctl {
namespace {

using Words = std::vector<std::string>;

std::string shell_quoted(const std::string& word) {
  std::string result = "'";
  for (const char letter : word)
    result += letter == '\'' ? std::string("'\\''") : std::string(1, letter);
  return result + "'";
}

// output_of runs a shell command.
std::string output_of(const std::string& command) {
  std::string output;
  std::FILE* pipe = popen(command.c_str(), "r");
  for (int octet = std::fgetc(pipe); octet != EOF; octet = std::fgetc(pipe))
    output += static_cast<char>(octet);
  EXPECT_EQ(pclose(pipe), 0) << command;
  return output;
}

class Completion : public Pspctl {
 protected:
  // complete is what bash offers for the last of `words`, which may be empty, sorted.
  Words complete(const Words& words) {
    std::string command =
        "bash -c 'source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _pspctl; "
        "((${#COMPREPLY[@]} == 0)) || printf \"%s\\n\" \"${COMPREPLY[@]}\"' bash " +
        shell_quoted(PSP_SOURCE_DIR "/completions/pspctl.bash") + " " +
        shell_quoted(PSPCTL_BINARY) + " --socket " + pspd.address;
    for (const std::string& word : words) command += " " + shell_quoted(word);
    std::istringstream lines(output_of(command + " 2>&1"));
    Words offered;
    for (std::string line; std::getline(lines, line);) offered.push_back(line);
    std::ranges::sort(offered);
    return offered;
  }
};

TEST_F(Completion, KnowsNounsAndVerbs) {
  pspd.start();
  EXPECT_EQ(complete({"d"}), (Words{"dev", "doctor"}));
  EXPECT_EQ(complete({"st"}), (Words{"stats"}));
  EXPECT_EQ(complete({"dev", ""}), (Words{"assoc", "disassoc", "help", "set", "show"}));
  EXPECT_EQ(complete({"-j", "k", "r"}), (Words{"rotate"}));
  EXPECT_EQ(complete({"frob", ""}), (Words{}));
}

TEST_F(Completion, OffersTheDevicesThatThereAre) {
  pspd.start();
  const Words devices = {"dev", "id", "if424242", "lo"};
  EXPECT_EQ(complete({"dev", "show", ""}), devices);
  EXPECT_EQ(complete({"d", "se", ""}), devices);
  EXPECT_EQ(complete({"key", "rotate", "l"}), (Words{"lo"}));
  EXPECT_EQ(complete({"stats", "show", "id", ""}), (Words{"1", "2"}));
  EXPECT_EQ(complete({"dev", "show", "lo", ""}), (Words{}));
  EXPECT_EQ(complete({"assoc", "show", "dev", ""}), (Words{"id", "if424242", "lo"}));
}

TEST_F(Completion, OffersTheVersionsThatTheDeviceCan) {
  pspd.start();
  EXPECT_EQ(complete({"dev", "set", "lo", ""}), (Words{"psp-versions-ena"}));
  EXPECT_EQ(complete({"dev", "set", "id", "2", "psp-versions-ena", ""}),
            (Words{"all", "hdr0-aes-gcm-128", "hdr0-aes-gcm-256", "none"}));
  EXPECT_EQ(complete({"dev", "set", "lo", "psp-versions-ena", "hdr0-aes-gcm-128,hdr0-aes-gm"}),
            (Words{"hdr0-aes-gcm-128,hdr0-aes-gmac-128", "hdr0-aes-gcm-128,hdr0-aes-gmac-256"}));
}

TEST_F(Completion, OffersWordsAndOptions) {
  pspd.start();
  EXPECT_EQ(complete({"assoc", "show", "state", ""}), (Words{"full", "rx", "tx"}));
  EXPECT_EQ(complete({"assoc", "show", "state", "rx", "dp"}), (Words{"dport"}));
  EXPECT_EQ(complete({"assoc", "show", "port", ""}), (Words{}));
  EXPECT_EQ(complete({"dev", "assoc", "lo", "netdev", "lo", ""}), (Words{"netns", "nsid", "pid"}));
  EXPECT_THAT(complete({"dev", "assoc", "lo", "netdev", ""}), testing::Contains("lo"));
  EXPECT_EQ(complete({"netlink", "rx"}), (Words{"rx-assoc"}));
  EXPECT_EQ(complete({"netlink", "dev-get", "--json", "{}", "--d"}),
            (Words{"--details", "--dump"}));
  EXPECT_EQ(complete({"dev", "--on"}), (Words{"--oneline"}));
  EXPECT_EQ(complete({"cap"}), (Words{"capture"}));
  EXPECT_EQ(complete({"capture", "--dev", "l"}), (Words{"lo"}));
  EXPECT_EQ(complete({"capture", "--dev", "lo", "--k"}), (Words{"--key-log"}));
  EXPECT_EQ(complete({"monitor", "m"}), (Words{"mgmt"}));
}

TEST_F(Completion, LeavesProgramsToTheirOwn) {
  pspd.start();
  EXPECT_THAT(complete({"run", "--", "mkdi"}), testing::Contains("mkdir"));
}

TEST_F(Completion, SurvivesADaemonThatIsAway) {  // never started
  EXPECT_EQ(complete({"dev", "show", ""}), (Words{"dev", "id"}));
  EXPECT_EQ(complete({"dev", "set", "eth0", "psp-versions-ena", "hdr0-aes-gc"}),
            (Words{"hdr0-aes-gcm-128", "hdr0-aes-gcm-256"}));
}

TEST(ZshCompletion, Parses) {
  if (std::system("command -v zsh >/dev/null") != 0) GTEST_SKIP() << "needs zsh";
  EXPECT_EQ(output_of("zsh -n " + shell_quoted(PSP_SOURCE_DIR "/completions/_pspctl") + " 2>&1"),
            "");
}

}  // namespace
}  // namespace psp::ctl
