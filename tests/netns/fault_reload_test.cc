// SPDX-License-Identifier: Apache-2.0
//
// SIGHUP with a changed configuration, and a fault at each step (see fault_asked.hh): one more
// netdev, one less, other versions. What is refused the log says, and another SIGHUP does it.
//
// A call fails, once or from then on, at each third place where a line of the code calls something
// for the first time; pspd dies after all of these that change something of the host. With
// PSP_FAULT_ALL=1 all calls are taken for both, which takes an hour.
//
// Threading: see fault_asked.hh.
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <fmt/format.h>
#include <fstream>
#include <gtest/gtest.h>
#include <optional>
#include <unistd.h>

#include "fault_asked.hh"

namespace psp::lab {
namespace {

constexpr const char* kBoth = "dev = [\"eth0\", \"eth1\"]\nenable = \"all\"\n";
constexpr const char* kFirst = "dev = \"eth0\"\nenable = \"all\"\n";
// The version of the open connection: it goes on.
constexpr const char* kOneVersion = "dev = [\"eth0\", \"eth1\"]\nenable = \"0\"\n";

class Reload : public Asked {
 public:
  explicit Reload(const char* text) : Asked(FaultLab::With::kNothing, 2) {
    lab_.set_arguments({"--config", path_, "--max-connections", "1024"});
    write(text);
  }
  ~Reload() override { std::remove(path_.c_str()); }

 protected:
  void write(const char* text) const { std::ofstream(path_) << text; }
  // reload returns what pspd says to a new text, besides that it has read it.
  std::string reload(const char* text) {
    write(text);
    const std::size_t before = daemon_->log().size();
    daemon_->send(SIGHUP);
    died_ = !daemon_->wait_said("pspd: " + path_ + " ", before) && ended(*daemon_, 200ms);
    return said_besides(daemon_->log(), before, {"caught SIGHUP", " read again"});
  }
  std::string state_of_eth1() {
    return lab_.host().sh(
        "tc qdisc show dev eth1; tc filter show dev eth1 ingress; tc filter show dev eth1 egress; "
        "ethtool -k eth1 | grep rx-udp-gro; ip -o link | cut -d: -f2 | grep -v psp0");
  }
  void expect_nothing_of_eth1() {
    EXPECT_EQ(devices().size(), 1u) << daemon_->log();
    EXPECT_TRUE(eventually([&] { return state_of_eth1() == before_; })) << state_of_eth1();
  }

  bool serves() const { return !died_ && daemon_->running(); }

 private:
  bool died_ = false;  // of the last reload
  static inline std::atomic<unsigned> numbers_{0};
  const std::string path_ =
      fmt::format("{}pspd-fault-{}-{}.toml", testing::TempDir(), ::getpid(), numbers_++);
  const std::string before_ = state_of_eth1();
};

class ToAdd : public Reload {
 public:
  ToAdd() : Reload(kFirst) {}

 private:
  // It is taken back, or pspd would try again by and by.
  std::optional<std::string> ask() override {
    const std::string said = reload(kBoth);
    if (!serves() || devices().size() == 2) return std::nullopt;
    (void)reload(kFirst);
    return said;
  }
  void expect_done() override {
    { const Connection by_eth1 = lab_.secured(1); }
    (void)reload(kFirst);
    expect_nothing_of_eth1();
  }
  void expect_refused() override { expect_nothing_of_eth1(); }
  void before_next() override { write(kFirst); }
  void expect_mended() override { expect_nothing_of_eth1(); }
};

class ToRemove : public Reload {
 public:
  ToRemove() : Reload(kBoth) {}

 private:
  bool takes_away() const override { return true; }
  void prepare() override {
    if (devices().size() == 1) (void)reload(kBoth);
    if (!by_eth1_) by_eth1_.emplace(lab_.secured(1));
    prober_.emplace(lab_.lab(), *by_eth1_, 1);
  }
  std::optional<std::string> ask() override {
    const std::string said = reload(kFirst);
    return !serves() || devices().size() == 1 ? std::nullopt : std::optional(said);
  }
  void expect_done() override {
    EXPECT_TRUE(is_over(by_eth1_->a.get())) << daemon_->log();
    prober_.reset();
    by_eth1_.reset();
    expect_nothing_of_eth1();
  }
  void expect_refused() override {
    if (!is_over(by_eth1_->a.get())) lab_.expect_works(*by_eth1_, 1);
    EXPECT_EQ(ask(), std::nullopt) << daemon_->log();
    expect_done();
  }
  void expect_mended() override { expect_done(); }

  std::optional<Connection> by_eth1_;
  std::optional<Prober> prober_;
};

class ToChangeVersions : public Reload {
 public:
  ToChangeVersions() : Reload(kBoth) {}

 private:
  bool have(VersionSet versions) {
    return std::ranges::all_of(
        devices(), [&](const DeviceInfo& device) { return device.versions_ena == versions; });
  }
  std::optional<std::string> ask() override {
    const std::string said = reload(kOneVersion);
    return !serves() || have(VersionSet{0b1}) ? std::nullopt : std::optional(said);
  }
  void expect_done() override {
    (void)reload(kBoth);
    EXPECT_TRUE(have(VersionSet::all()));
  }
  void expect_refused() override {
    EXPECT_TRUE(have(VersionSet::all()));
    EXPECT_EQ(ask(), std::nullopt) << daemon_->log();
    expect_done();
  }
  void before_next() override { write(kBoth); }
  void expect_mended() override { EXPECT_TRUE(have(VersionSet::all())); }
};

TEST(FaultyReload, ThatAddsANetdevIsRefusedOrDoneIfACallFails) {
  PSP_NEEDS_LAB();
  Asked::try_all<ToAdd>();
}

TEST(FaultyReload, ThatAddsANetdevIsMendedByTheNextIfPspdDies) {
  PSP_NEEDS_LAB();
  Asked::die_of_all<ToAdd>();
}

TEST(FaultyReload, ThatTakesANetdevAwayIsRefusedOrDoneIfACallFails) {
  PSP_NEEDS_LAB();
  Asked::try_all<ToRemove>();
}

TEST(FaultyReload, ThatTakesANetdevAwayIsMendedByTheNextIfPspdDies) {
  PSP_NEEDS_LAB();
  Asked::die_of_all<ToRemove>();
}

TEST(FaultyReload, ThatChangesVersionsIsRefusedOrDoneIfACallFails) {
  PSP_NEEDS_LAB();
  Asked::try_all<ToChangeVersions>();
}

TEST(FaultyReload, ThatChangesVersionsIsMendedByTheNextIfPspdDies) {
  PSP_NEEDS_LAB();
  Asked::die_of_all<ToChangeVersions>();
}

}  // namespace
}  // namespace psp::lab
