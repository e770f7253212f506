// SPDX-License-Identifier: Apache-2.0
//
// The emitter by itself: colour, nesting, streams, octets that are no UTF-8. It writes to a stream
// in memory, and what it wrote is compared octet for octet.
//
// What scripts rely on is shown: one array for a command, also an empty one; nothing at all of a
// command that failed; an event as soon as it comes. What commands print with it is in
// pspctl_test.cc.
#include "emitter.hh"

#include <cstdlib>
#include <gtest/gtest.h>

namespace psp::ctl {
namespace {

// emitted is what `work` makes an emitter of that style write.
template <typename Work>
std::string emitted(Emitter::Style style, Work work) {
  char* octets = nullptr;
  std::size_t size = 0;
  std::FILE* file = open_memstream(&octets, &size);
  Emitter emitter(file, style);
  work(emitter);
  std::fclose(file);
  std::string result(octets, size);
  std::free(octets);
  return result;
}

void two_devices(Emitter& out) {
  for (int id : {1, 2}) {
    const auto element = out.element();
    out.print("id", "{}: ", id);
    const auto stats = out.object("stats");
    out.print("rx-bytes", "rx-bytes {}\n", std::uint64_t{1} << 63, Colour::kName);
  }
  out.finish();
}

TEST(Emitter, WritesOneArrayForPrograms) {
  EXPECT_EQ(emitted({.json = true}, two_devices),
            R"([{"id":1,"stats":{"rx-bytes":9223372036854775808}},)"
            R"({"id":2,"stats":{"rx-bytes":9223372036854775808}}])"
            "\n");
}

TEST(Emitter, WritesAnEmptyArrayForNothing) {
  EXPECT_EQ(emitted({.json = true}, [](Emitter& out) { out.finish(); }), "[]\n");
  EXPECT_EQ(emitted({}, [](Emitter& out) { out.finish(); }), "");
}

TEST(Emitter, LeavesNoHalfArrayBehind) {
  EXPECT_EQ(emitted({.json = true},
                    [](Emitter& out) {
                      const auto element = out.element();
                      out.print("id", "{}", 1);
                    }),
            "");
}

TEST(Emitter, WritesTextForPeople) {
  EXPECT_EQ(emitted({}, two_devices),
            "1: rx-bytes 9223372036854775808\n2: rx-bytes 9223372036854775808\n");
}

TEST(Emitter, ColoursOnlyWhatHasAColour) {
  EXPECT_EQ(emitted({.colour = true},
                    [](Emitter& out) {
                      out.text("a ");
                      out.text("b", Colour::kBad);
                    }),
            "a \x1b[31mb\x1b[0m");
  EXPECT_EQ(emitted({}, [](Emitter& out) { out.text("b", Colour::kBad); }), "b");
}

TEST(Emitter, WritesEventsAtOnceAndWithoutArray) {
  char* octets = nullptr;
  std::size_t size = 0;
  std::FILE* file = open_memstream(&octets, &size);
  Emitter out(file, {.json = true});
  {
    const auto element = out.element();
    out.print("name", "{}", std::string("key-rotate-ntf"));
  }
  out.end_event();
  EXPECT_EQ(std::string(octets, size),
            "{\"name\":\"key-rotate-ntf\"}\n");  // before finish and close
  out.finish();
  std::fclose(file);
  EXPECT_EQ(std::string(octets, size), "{\"name\":\"key-rotate-ntf\"}\n");
  std::free(octets);
}

TEST(Emitter, SurvivesOctetsThatAreNoUtf8) {
  EXPECT_EQ(emitted({.json = true},
                    [](Emitter& out) {
                      {
                        const auto element = out.element();
                        out.print("ifname", "{}", std::string("eth\xff"));
                      }
                      out.finish();
                    }),
            "[{\"ifname\":\"eth\xef\xbf\xbd\"}]\n");
}

TEST(Emitter, NamesVersionsAndKeepsUnknownOnes) {
  const auto print = [](Emitter& out) {
    {
      const auto element = out.element();
      out.print_versions("psp-versions-cap", "", VersionSet{0x11});
    }
    out.finish();
  };
  EXPECT_EQ(emitted({.json = true}, print),
            "[{\"psp-versions-cap\":[\"hdr0-aes-gcm-128\",\"4\"]}]\n");
  EXPECT_EQ(emitted({}, print), "psp-versions-cap hdr0-aes-gcm-128 4");
}

}  // namespace
}  // namespace psp::ctl
