// SPDX-License-Identifier: Apache-2.0
//
// rx-assoc and tx-assoc with a fault at each step (see fault_asked.hh). A connection that was
// refused a key goes on as it was, and gets it when it asks again; one whose pspd dies of the
// request goes on in clear if it has no Tx key, and is aborted if it has one.
//
// Each call fails; pspd dies after all that change something of the host. A rotation makes no call
// at all that can fail.
//
// Threading: see fault_asked.hh.
#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "kernel/bpf/structs.h"

#include "fault_asked.hh"

namespace psp::lab {
namespace {

constexpr Version kVersion = Version::kAesGcm128;

class Securing : public Asked {
 public:
  Securing() : Asked(FaultLab::With::kNothing, 1) {}

 protected:
  void prepare() override {
    connection_.emplace(lab_.lab().connect(Kind::kIpv4));
    peers_.emplace(lab_.lab().client(From::kB));
    b_rx_ = peers_->rx_assoc(connection_->b.get(), kVersion).value().rx;
  }
  // The next request of this client is the one that meets the fault.
  template <typename Call>
  std::optional<std::string> ask_by(Call call) {
    Client client = this->client();
    lab_.plan()->listens = true;
    const auto done = call(client);
    return done ? std::nullopt : std::optional(done.error().message);
  }
  ClientResult<void> take_rx_key(Client& client) {
    auto key = client.rx_assoc(connection_->a.get(), kVersion);
    if (!key) return std::unexpected(key.error());
    a_rx_ = std::move(key->rx);
    return {};
  }
  ClientResult<void> take_tx_key(Client& client) {
    return client.tx_assoc(connection_->a.get(), kVersion, b_rx_);
  }
  void give_peer_its_tx_key() {
    const auto done = peers_->tx_assoc(connection_->b.get(), kVersion, a_rx_);
    EXPECT_TRUE(done) << done.error().message;
  }
  const Connection& connection() const { return *connection_; }
  void expect_carried() {
    send_all(connection_->a.get(), secret());
    EXPECT_EQ(receive(connection_->b.get(), secret().size()), secret());
  }
  // expect_secured looks at the whole, and ends it: all is as before.
  void expect_secured() {
    give_peer_its_tx_key();
    lab_.expect_works(*connection_);
    end();
  }
  // Its next one has aborted it if it had its Tx key; else nothing was ever promised.
  void expect_mended() override {
    const bool secured =
        is(died_after_, "setsockopt") && died_after_.detail != (PSP_SOL | PSP_SO_RX_ATTACH);
    EXPECT_EQ(is_over(connection_->a.get()), secured);
    if (!is_over(connection_->a.get())) expect_carried();
    end();
  }

 private:
  void end() {
    const linger at_once{.l_onoff = 1, .l_linger = 0};
    for (const int fd : {connection_->a.get(), connection_->b.get()})
      EXPECT_EQ(::setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), 0);
    connection_.reset();
    peers_.reset();
    EXPECT_TRUE(eventually([&] { return client().associations().value().size() <= 1; }))
        << "that of the open connection";
  }

  std::optional<Connection> connection_;
  std::optional<Client> peers_;  // pspd of host B, which meets no fault
  KeyInfo a_rx_, b_rx_;
};

class ToTakeAnRxKey : public Securing {
  std::optional<std::string> ask() override {
    return ask_by([&](Client& client) { return take_rx_key(client); });
  }
  void expect_done() override {
    Client client = this->client();
    const auto done = take_tx_key(client);
    EXPECT_TRUE(done) << done.error().message;
    expect_secured();
  }
  void expect_refused() override {
    expect_carried();
    Client client = this->client();
    const auto done = take_rx_key(client);
    EXPECT_TRUE(done) << done.error().message;
    expect_done();
  }
};

// What its application said last in clear has not come through when it asks: it is sent again
// later, and the kernel joins it with what came after.
class ToTakeATxKey : public Securing {
  void prepare() override {
    Securing::prepare();
    Client client = this->client();
    const auto done = take_rx_key(client);
    EXPECT_TRUE(done) << done.error().message;
    // What is said next must not wait for its ACK, however long the request takes.
    const int on = 1;
    EXPECT_EQ(::setsockopt(connection().a.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), 0);
    cable().carry(false);
    send_all(connection().a.get(), kLastInClear);
  }
  std::optional<std::string> ask() override {
    auto refused = ask_by([&](Client& client) { return take_tx_key(client); });
    if (!refused) {
      const std::size_t mark = cable().mark();
      send_all(connection().a.get(), kFirstSealed);
      EXPECT_TRUE(cable().find(mark, [](const Seen& seen) { return seen.psp; }))
          << "it is lost too";
    }
    cable().carry(true);
    return refused;
  }
  void expect_done() override {
    Octets all = kLastInClear;
    all.insert(all.end(), kFirstSealed.begin(), kFirstSealed.end());
    EXPECT_EQ(receive(connection().b.get(), all.size()), all);
    expect_all_acknowledged();
    expect_secured();
  }
  void expect_refused() override {
    EXPECT_EQ(receive(connection().b.get(), kLastInClear.size()), kLastInClear);
    expect_all_acknowledged();
    Client client = this->client();
    const auto done = take_tx_key(client);
    EXPECT_TRUE(done) << done.error().message;
    expect_secured();
  }
  void expect_mended() override {
    cable().carry(true);
    if (!is_over(connection().a.get())) {
      EXPECT_EQ(receive(connection().b.get(), kLastInClear.size()), kLastInClear);
    }
    Securing::expect_mended();
  }

  // Its peer, which has no Tx key yet, acknowledges in clear.
  void expect_all_acknowledged() {
    int queued = 1;
    EXPECT_TRUE(eventually(
        [&] { return ::ioctl(connection().a.get(), SIOCOUTQ, &queued) == 0 && queued == 0; }));
  }
  Cable& cable() { return lab_.lab().cable(); }
  const Octets kLastInClear = octets_of("the last words in clear"),
               kFirstSealed = octets_of("and the first that are sealed");
};

TEST(FaultyRxAssoc, InWhichACallFailsIsRefusedOrDone) {
  PSP_NEEDS_LAB();
  Asked::try_all<ToTakeAnRxKey>();
}

TEST(FaultyRxAssoc, OfWhichPspdDiesLeavesTheConnectionInClear) {
  PSP_NEEDS_LAB();
  Asked::die_of_all<ToTakeAnRxKey>();
}

TEST(FaultyTxAssoc, InWhichACallFailsIsRefusedOrDone) {
  PSP_NEEDS_LAB();
  Asked::try_all<ToTakeATxKey>();
}

TEST(FaultyTxAssoc, OfWhichPspdDiesLeavesTheConnectionInClearOrAborted) {
  PSP_NEEDS_LAB();
  Asked::die_of_all<ToTakeATxKey>();
}

}  // namespace
}  // namespace psp::lab
