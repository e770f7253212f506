// SPDX-License-Identifier: Apache-2.0
//
// SIGHUP: pspd reads its configuration file again. Devices come and go, and nothing else does.
//
// The file is changed under a running pspd, and connections by both netdevs show what a reload
// costs whom. A file with a mistake must change nothing at all, not the part before the mistake
// either: mistakes stand beside lines that would do harm if they were taken alone. What cannot
// change is named in the log. Which options these are is in options_test.cc (src/programs/pspd).
#include <csignal>
#include <cstdio>
#include <fmt/format.h>
#include <fstream>
#include <gtest/gtest.h>
#include <unistd.h>

#include "lab.hh"

namespace psp::lab {
namespace {

// Configured is a pspd on host A whose options are in a file.
class Configured {
 public:
  Configured(const Netns& host, const std::string& text) {
    std::ofstream(path_) << text;
    pspd_.emplace(host, std::vector<std::string>{"--config", path_});
    EXPECT_TRUE(pspd_->wait_ready()) << pspd_->log();
  }
  ~Configured() { std::remove(path_.c_str()); }
  Configured(const Configured&) = delete;
  Configured& operator=(const Configured&) = delete;

  // reload returns what pspd says to a new text, up to `end`.
  std::string reload(const std::string& text, const std::string& end = " read again\n") {
    std::ofstream(path_) << text;
    const std::size_t before = pspd_->log().size();
    pspd_->send(SIGHUP);
    EXPECT_TRUE(pspd_->wait_said(end, before)) << pspd_->log();
    return pspd_->log().substr(before);
  }
  Pspd& pspd() { return *pspd_; }

 private:
  const std::string path_ = fmt::format("{}pspd-reload-{}.toml", testing::TempDir(), ::getpid());
  std::optional<Pspd> pspd_;
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::size_t devices(Lab& lab) { return lab.client(From::kA).devices().value().size(); }

// state_of_eth1: and which netdevs there are, but for the TAP of eth0.
std::string state_of_eth1(const Netns& host) {
  return host.sh(
      "tc qdisc show dev eth1; ethtool -k eth1; ip -o link | cut -d: -f2 | grep -v psp0");
}

constexpr const char* kBoth = "dev = [\"eth0\", \"eth1\"]\nenable = \"all\"\n";
constexpr const char* kFirst = "dev = \"eth0\"\nenable = \"all\"\n";

TEST(Reload, ADeviceComesAndGoesAndTheOtherOneGoesOn) {
  PSP_NEEDS_LAB();
  Lab lab({.links = 2});
  Netns& host = lab.ns(From::kA);
  const std::string before = state_of_eth1(host);
  lab.start(From::kB, {"--dev", "eth1"});
  Configured configured(host, kFirst);
  auto stays = lab.connect(Kind::kIpv4);
  secure(lab, stays);

  configured.reload(kBoth);
  EXPECT_EQ(devices(lab), 2u);
  auto ends = lab.connect(Kind::kIpv4, {.link = 1});
  secure(lab, ends);
  send_all(ends.a.get(), octets_of("by the new device"));
  EXPECT_EQ(receive(ends.b.get(), 17), octets_of("by the new device"));

  const std::size_t mark = lab.cable(1).mark();
  EXPECT_TRUE(contains(configured.reload(kFirst), "eth1: no PSP device any more, 1 connection"));
  EXPECT_EQ(devices(lab), 1u);
  EXPECT_EQ(socket_error(ends.a.get()), ECONNABORTED);
  EXPECT_NE(socket_error(ends.b.get()), 0) << "the peer is not told";
  expect_nothing_in_clear(lab, ends.flow, mark, octets_of("by the new device"), 1);
  EXPECT_EQ(state_of_eth1(host), before);
  send_all(stays.a.get(), octets_of("goes on"));
  EXPECT_EQ(receive(stays.b.get(), 7), octets_of("goes on"));

  configured.reload(kBoth);
  auto again = lab.connect(Kind::kIpv4, {.link = 1});
  secure(lab, again);
  EXPECT_EQ(configured.pspd().stop(), 0);
}

TEST(Reload, WhatCannotChangeIsNamedAndAMistakeChangesNothing) {
  PSP_NEEDS_LAB();
  Lab lab({.links = 2});
  Netns& host = lab.ns(From::kA);
  Configured configured(host, kFirst);
  auto connection = lab.connect(Kind::kIpv4);
  ASSERT_TRUE(lab.client(From::kA).rx_assoc(connection.a.get(), Version::kAesGcm128));

  const std::string wrong = configured.reload("dev = \"eth1\"\nworker = 2\n", "nothing changes");
  EXPECT_TRUE(contains(wrong, "worker")) << wrong;
  const std::pair<const char*, const char*> broken[] = {
      {"dev = [\"eth1\"\nallow-peers = \"10.9.0.0/16\"\n", ".toml:2: dev: "},
      {"enable = \"none\"\ndev = \"eth1\n", ".toml:2: dev: "},
      {"dev = [\"eth0\", \"a/b\"]\nenable = \"none\"\n", ".toml:1: dev: "},
      {"dev = \"eth1\"\nenable = \"none\"\nworkers = \"many\"\n", ".toml:3: workers: "},
      {"dev = \"eth1\"\ncleanup = true\n", ".toml:2: cleanup: "},
      {"enable = \"none\"\n[other]\ndev = \"eth1\"\n", ".toml:2: there are no sections"},
  };
  for (const auto& [text, where] : broken) {
    const std::string said = configured.reload(text, "nothing changes");
    EXPECT_TRUE(contains(said, where)) << said;
    EXPECT_FALSE(contains(said, "read again")) << said;
    EXPECT_EQ(lab.client(From::kA).devices().value()[0].versions_ena, VersionSet::all()) << text;
  }
  const std::string fixed =
      configured.reload(std::string(kFirst) + "workers = 2\ncompat = \"linux-6.18\"\n");
  EXPECT_TRUE(contains(fixed, "only a restart changes this, so it stays as it is: workers, compat"))
      << fixed;
  EXPECT_EQ(devices(lab), 1u);
  EXPECT_TRUE(lab.association(From::kA, connection.a.get()));
}

TEST(Reload, VersionsAndALateNetdevComeByIt) {
  PSP_NEEDS_LAB();
  Lab lab({.links = 2});
  Netns& host = lab.ns(From::kA);
  Configured configured(host, kFirst);
  EXPECT_EQ(lab.client(From::kA).devices().value()[0].versions_ena, VersionSet::all());
  const std::string said = configured.reload("dev = [\"eth0\", \"late0\"]\nenable = \"1\"\n");
  EXPECT_TRUE(contains(said, "late0: there is no such network device yet")) << said;
  EXPECT_EQ(lab.client(From::kA).devices().value()[0].versions_ena, VersionSet{0b10});
  host.sh("ip link set eth1 down; ip link set eth1 name late0; ip link set late0 up");
  EXPECT_TRUE(eventually([&] { return devices(lab) == 2; })) << configured.pspd().log();
  // The same netdev under another name is the same device.
  const auto before = lab.client(From::kA).devices().value()[1].id;
  host.sh("ip link set late0 down; ip link set late0 name eth1; ip link set eth1 up");
  configured.reload("dev = [\"eth0\", \"eth1\"]\nenable = \"1\"\n");
  EXPECT_EQ(lab.client(From::kA).devices().value()[1].id, before);
  EXPECT_EQ(configured.pspd().stop(), 0);
}

}  // namespace
}  // namespace psp::lab
