// SPDX-License-Identifier: Apache-2.0
//
// What the programs say to a command line that they do not take: one sentence, with the word that
// was probably meant, and the status of usage errors. Each
// program is run as it was built; no root is needed.
#include <array>
#include <cstdio>
#include <gtest/gtest.h>
#include <string>
#include <sys/wait.h>

#include "nearest.hh"

namespace psp {
namespace {

TEST(Nearest, IsWhatWasProbablyMeant) {
  const std::vector<std::string> known = {"--timeout", "--psk-file", "--port", "--cert", "--json"};
  for (const auto& [typed, meant] : {std::pair{"--tiemout", "--timeout"},
                                     {"--timeuot", "--timeout"},
                                     {"--prot", "--port"},
                                     {"--psk", "--psk-file"},
                                     {"--jsn", "--json"},
                                     {"--cerst", "--cert"}})
    EXPECT_EQ(nearest(typed, known), meant) << typed;
  for (const char* typed : {"--xyzzy", "--x", "frobnicate", ""})
    EXPECT_EQ(nearest(typed, known), std::nullopt) << typed;
}

TEST(Nearest, CountsLetters) {
  EXPECT_EQ(distance("port", "port"), 0u);
  EXPECT_EQ(distance("prot", "port"), 1u);
  EXPECT_EQ(distance("", "port"), 4u);
  EXPECT_EQ(distance("prt", "ports"), 2u);
}

// said_by runs a program and returns its first lines and its status.
std::string said_by(const std::string& words) {
  const std::string command = PSP_PROGRAMS "/" + words + " 2>&1 </dev/null";
  std::FILE* pipe = ::popen(command.c_str(), "r");
  std::string said;
  for (int octet = std::fgetc(pipe); octet != EOF; octet = std::fgetc(pipe))
    said += static_cast<char>(octet);
  const int status = ::pclose(pipe);
  return said + "status " + std::to_string(WEXITSTATUS(status));
}

TEST(Programs, NameTheOptionThatWasMeant) {
  const std::array<std::array<const char*, 2>, 10> cases = {{
      {"pspd --dev eth0 --enabel all",
       "pspd: error: there is no option --enabel (did you mean --enable?); see pspd --help"},
      {"pspd -dev eth0",
       "pspd: error: there is no option -dev (did you mean --dev?); see pspd --help"},
      {"pspd --dev eth0 eth1", "pspd: error: \"eth1\" is not expected; see pspd --help"},
      {"pspctl --jsn dev",
       "pspctl: error: there is no option --jsn (did you mean --json?); see pspctl --help"},
      {"pspctl capture --snap-len 64",
       "pspctl: error: there is no option --snap-len (did you mean --snaplen?); see pspctl --help"},
      {"psp-cat host 7000 --tiemout=5",
       "psp-cat: error: there is no option --tiemout (did you mean --timeout?); see psp-cat "
       "--help"},
      {"psp-proxy --lisen :80 --to host:80",
       "psp-proxy: error: there is no option --lisen (did you mean --listen?); see psp-proxy "
       "--help"},
      {"psp-pcap decrypt --keylog keys -r in",
       "psp-pcap: error: there is no option --keylog (did you mean --key-log?); see psp-pcap "
       "--help"},
      {"psp-pcap chek -r in",
       "psp-pcap: error: there is no command chek (did you mean check?); see psp-pcap --help"},
      {"psp-sim --sed 1",
       "psp-sim: error: there is no option --sed (did you mean --seed?); see psp-sim --help"},
  }};
  for (const auto& [words, sentence] : cases)
    EXPECT_EQ(said_by(words), std::string(sentence) + "\nstatus 2") << words;
}

}  // namespace
}  // namespace psp
