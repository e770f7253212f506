// SPDX-License-Identifier: Apache-2.0
//
// psp-cat from host to host under PSP, by each exchange that it speaks. A file goes in both
// directions between two real pspds; the oracle is the files, and the cable, on which no part of
// them is in clear.
//
// Usage, exit statuses and what a peer can do to it are tested without pspd
// (src/programs/psp-cat/psp_cat_test.cc).
//
// Threading: the test's thread; the programs are processes.
#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>

#include "tls_lab.hh"

namespace psp::lab {
namespace {

std::string content(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

class PspCatLab : public testing::Test {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    char name[] = "/tmp/psp-cat-lab-XXXXXX";
    directory_ = mkdtemp(name);
    lab_.emplace();
    lab_->start(From::kA);
    lab_->start(From::kB);
  }
  void TearDown() override {
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
  }
  std::string file(const char* name) const { return directory_ + "/" + name; }

  std::string directory_;
  std::optional<Lab> lab_;
};

TEST_F(PspCatLab, EachExchangeMovesAFileInBothDirections) {
  const Octets there = random_octets(300'000), back = random_octets(200'000);
  std::ofstream(file("there")).write(reinterpret_cast<const char*>(there.data()), 300'000);
  std::ofstream(file("back")).write(reinterpret_cast<const char*>(back.data()), 200'000);
  const std::string address = Lab::address(From::kB, Kind::kIpv4);
  for (const char* protocol : {"softpsp", "fizz-v0", "kernel-selftest"}) {
    const std::string options =
        fmt::format("--protocol {} --psp-version hdr0-aes-gcm-128 --no-progress", protocol);
    std::filesystem::remove(file("said"));
    lab_->ns(From::kB).sh(fmt::format("timeout 30 {} -l {} 7000 {} <{} >{} 2>{} &", PSP_CAT,
                                      address, options, file("back"), file("got-there"),
                                      file("said")));
    ASSERT_TRUE(eventually(
        [&] { return content(file("said")).find("listening") != std::string::npos; }, 10s));
    const std::size_t mark = lab_->cable().mark();
    EXPECT_TRUE(lab_->ns(From::kA).try_sh(fmt::format("(timeout 30 {} {} 7000 {} <{} >{} 2>{})",
                                                      PSP_CAT, address, options, file("there"),
                                                      file("got-back"), file("client-said"))))
        << protocol << ": " << content(file("client-said"));
    EXPECT_TRUE(content(file("got-back")) == content(file("back"))) << protocol;
    EXPECT_TRUE(eventually([&] { return content(file("got-there")) == content(file("there")); }))
        << protocol << ": " << content(file("said"));
    EXPECT_NE(content(file("client-said")).find("by PSP, hdr0-aes-gcm-128"), std::string::npos)
        << content(file("client-said"));
    for (const Seen& seen : lab_->cable().since(mark))
      EXPECT_FALSE(!seen.psp && (holds_part(seen.octets, there) || holds_part(seen.octets, back)));
  }
}

}  // namespace
}  // namespace psp::lab
