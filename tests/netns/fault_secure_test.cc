// SPDX-License-Identifier: Apache-2.0
//
// rx-assoc and tx-assoc of a connection with a fault at each step (see fault_asked.hh): of what a
// pspd is asked most. One that is refused leaves the socket as it was: without keys it goes on in
// clear, with an Rx key it can be given the other one. Of what pspd dies of, a socket that had both
// keys is aborted by the next, and one that had not goes on.
//
// Threading: see fault_asked.hh.
#include <gtest/gtest.h>

#include "fault_asked.hh"

namespace psp::lab {
namespace {

class Securing : public Asked {
 public:
  Securing() : Asked(FaultLab::With::kNothing, 1) {}

 protected:
  void prepare() override {
    connection_.emplace(lab_.lab().connect(Kind::kIpv4));
    prepare_keys();
  }
  virtual void prepare_keys() {}
  int socket() const { return connection_->a.get(); }
  // announced is a client whose next request is the one that is meant.
  Client announced() {
    Client client = this->client();
    lab_.plan()->listens = true;
    return client;
  }
  void expect_clear() {
    send_all(connection_->a.get(), octets_of("clear"));
    EXPECT_EQ(receive(connection_->b.get(), 5), octets_of("clear"));
  }
  // forget ends the connection: nothing of it is left.
  void forget() {
    connection_.reset();
    EXPECT_TRUE(eventually([this] {
      const auto all = client().associations();
      return all && all->size() == 1;  // the one that is open all the time
    }));
  }

  std::optional<Connection> connection_;
};

class ToReceive : public Securing {
  std::optional<std::string> ask() override {
    const auto done = announced().rx_assoc(socket(), Version::kAesGcm128, 1);
    return done ? std::nullopt : std::optional(done.error().message);
  }
  void expect_done() override {
    EXPECT_TRUE(lab_.lab().association(From::kA, socket()));
    forget();
  }
  void expect_refused() override {
    EXPECT_FALSE(lab_.lab().association(From::kA, socket()));
    expect_clear();
    EXPECT_TRUE(client().rx_assoc(socket(), Version::kAesGcm128, 1)) << "nothing is in the way";
    forget();
  }
  void expect_mended() override {
    expect_clear();
    connection_.reset();
  }
};

class ToSend : public Securing {
  void prepare_keys() override {
    EXPECT_TRUE(client().rx_assoc(socket(), Version::kAesGcm128, 1)) << daemon_->log();
    key_ = random_key(Version::kAesGcm128);
  }
  std::optional<std::string> ask() override {
    mark_ = lab_.lab().cable().mark();
    const auto done = announced().tx_assoc(socket(), Version::kAesGcm128, key_, 1);
    return done ? std::nullopt : std::optional(done.error().message);
  }
  void expect_done() override {
    send_all(socket(), secret());
    EXPECT_TRUE(lab_.lab().cable().find(
        mark_, [](const Seen& seen) { return seen.from == From::kA && seen.psp; }, 5s));
    expect_nothing_in_clear(lab_.lab(), connection_->flow, mark_, secret());
    forget();
  }
  void expect_refused() override {
    const auto again = client().tx_assoc(socket(), Version::kAesGcm128, key_, 1);
    ASSERT_TRUE(again) << again.error().message << daemon_->log();
    expect_done();
  }
  void expect_mended() override {
    if (!is_over(socket())) expect_clear();
    connection_.reset();
  }

  KeyInfo key_;
  std::size_t mark_ = 0;
};

TEST(FaultyRxAssoc, InWhichACallFailsIsRefusedOrDone) {
  PSP_NEEDS_LAB();
  Asked::try_all<ToReceive>();
}

TEST(FaultyRxAssoc, OfWhichPspdDiesIsMendedByTheNext) {
  PSP_NEEDS_LAB();
  Asked::die_of_all<ToReceive>();
}

TEST(FaultyTxAssoc, InWhichACallFailsIsRefusedOrDone) {
  PSP_NEEDS_LAB();
  Asked::try_all<ToSend>();
}

TEST(FaultyTxAssoc, OfWhichPspdDiesIsMendedByTheNext) {
  PSP_NEEDS_LAB();
  Asked::die_of_all<ToSend>();
}

}  // namespace
}  // namespace psp::lab
