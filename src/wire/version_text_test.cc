// SPDX-License-Identifier: Apache-2.0
//
// What is taken for a version, what is not and which word of a list it was, and that nobody gets a
// version without encryption by saying "all". Names are compared with those that Linux's `psp`
// family has. What programs do with a wrong word is in their own tests.
#include "wire/version_text.hh"

#include <gtest/gtest.h>

namespace psp {
namespace {

TEST(ParseVersions, TakesNamesShortNamesAndNumbers) {
  EXPECT_EQ(parse_versions("all"), VersionSet::all());
  EXPECT_EQ(parse_versions("none"), VersionSet{});
  EXPECT_EQ(parse_versions("hdr0-aes-gcm-128,aes-gmac-256"), VersionSet{0b1001});
  EXPECT_EQ(parse_versions("1"), VersionSet{0b0010});
}

TEST(ParseVersions, NamesTheWordThatIsNoVersion) {
  EXPECT_EQ(parse_versions("0,rot13,1").error(), "rot13");
  for (const char* text : {"", "4", "aes-gcm-192", "0,", ",0", "0 1", "al", "00"})
    EXPECT_FALSE(parse_versions(text)) << text;
}

TEST(ParseVersionsToUse, TakesGmacByNameOnly) {
  EXPECT_EQ(parse_versions_to_use("all"), VersionSet{0b0011});
  EXPECT_EQ(parse_versions_to_use("0,3"), VersionSet{0b1001});
  EXPECT_FALSE(parse_versions_to_use("rot13"));
}

TEST(Readable, NamesWhatDoesNotEncrypt) {
  EXPECT_EQ(readable(VersionSet{0b0011}), "");
  EXPECT_EQ(readable(VersionSet{0b1110}), "hdr0-aes-gmac-128, hdr0-aes-gmac-256");
}

}  // namespace
}  // namespace psp
