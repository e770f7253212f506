// SPDX-License-Identifier: Apache-2.0
#include "options.hh"

#include <gtest/gtest.h>

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

TEST(ParseOptions, ExplainsMistakes) {
  for (const char* value : {"--workers=0", "--crypto=rot13", "--enable=5", "--rotate-interval=soon",
                            "--no-such-option"}) {
    const char* argv[] = {"pspd", "--dev", "eth0", value};
    EXPECT_EQ(parse_options(4, argv).error(), 2) << value;
  }
}

}  // namespace
}  // namespace psp
