// SPDX-License-Identifier: Apache-2.0
//
// dev-assoc and dev-disassoc of a container's netdev with a fault at each step (see
// fault_asked.hh). The container is where a next pspd has no business of its own: it has to find
// there what a dead one has left.
//
// A call fails, once or from then on, at each third place where a line of the code calls something
// for the first time; pspd dies after all of these that change something of the host. With
// PSP_FAULT_ALL=1 all calls are taken for both, which takes an hour.
//
// Threading: see fault_asked.hh.
#include <gtest/gtest.h>
#include <thread>

#include "fault_asked.hh"

namespace psp::lab {
namespace {

class Association : public Asked {
 public:
  Association() : Asked(FaultLab::With::kContainer, 1), before_(inside_state()) {}

 protected:
  Container& container() { return lab_.container(); }
  std::optional<std::string> ask_for(bool association) {
    Client client = this->client();
    const auto id = client.devices().value().at(0).id;
    lab_.plan()->listens = true;
    const auto done = association
                          ? client.dev_assoc(id, container().ifindex(), container().nsid())
                          : client.dev_disassoc(id, container().ifindex(), container().nsid());
    return done ? std::nullopt : std::optional(done.error().message);
  }
  // It keeps the namespace that it was asked for.
  void warm() override {
    must(true);
    must(false);
  }
  void must(bool association) {
    const auto done = association ? container().associate() : container().disassociate();
    EXPECT_TRUE(done) << daemon_->log();
  }
  void expect_nothing_inside() {
    EXPECT_TRUE(eventually([&] { return inside_state() == before_; })) << inside_state();
  }

 private:
  std::string inside_state() {
    return container().ns().sh(
        "ip -o link | cut -d: -f2; tc qdisc show dev eth0; tc filter show dev eth0 ingress; "
        "tc filter show dev eth0 egress; ethtool -k eth0 | grep rx-udp-gro");
  }
  const std::string before_;  // there was a pspd
};

class ToAssociate : public Association {
  std::optional<std::string> ask() override { return ask_for(true); }
  void expect_done() override {
    { const Connection inside = lab_.secured_inside(); }
    must(false);
    expect_nothing_inside();
  }
  void expect_refused() override { EXPECT_TRUE(devices().at(0).associated.empty()); }
  void expect_mended() override { expect_nothing_inside(); }
};

class ToDisassociate : public Association {
  bool takes_away() const override { return true; }
  void prepare() override {
    if (!inside_) {
      must(true);
      inside_.emplace(lab_.secured_inside());
    }
    prober_.emplace(lab_.lab(), *inside_);
  }
  std::optional<std::string> ask() override { return ask_for(false); }
  // Its connection is silent, until a netdev there has the device again.
  void expect_done() override {
    expect_nothing_inside();
    std::this_thread::sleep_for(5ms);
    prober_.reset();
    must(true);
    renew();
  }
  void expect_refused() override {
    prober_.reset();
    EXPECT_FALSE(is_over(inside_->a.get()));
    renew();
  }
  void expect_mended() override {
    prober_.reset();
    EXPECT_TRUE(is_over(inside_->a.get()));
    inside_.reset();
    expect_nothing_inside();
  }
  // renew: the next case has a connection that nobody has probed.
  void renew() {
    inside_.reset();
    inside_.emplace(lab_.secured_inside());
  }

  std::optional<Connection> inside_;
  std::optional<Prober> prober_;
};

TEST(FaultyAssoc, InWhichACallFailsIsRefusedOrDone) {
  PSP_NEEDS_LAB();
  Asked::try_all<ToAssociate>();
}

TEST(FaultyAssoc, OfWhichPspdDiesIsMendedByTheNext) {
  PSP_NEEDS_LAB();
  Asked::die_of_all<ToAssociate>();
}

TEST(FaultyDisassoc, InWhichACallFailsIsRefusedOrDone) {
  PSP_NEEDS_LAB();
  Asked::try_all<ToDisassociate>();
}

TEST(FaultyDisassoc, OfWhichPspdDiesIsMendedByTheNext) {
  PSP_NEEDS_LAB();
  Asked::die_of_all<ToDisassociate>();
}

}  // namespace
}  // namespace psp::lab
