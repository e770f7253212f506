// SPDX-License-Identifier: Apache-2.0
//
// From TLS to PSP on a real wire: nothing in clear behind KEY, nothing lost, and what happens when
// pspd, its keys or the wire fail in the middle.
//
// Threading: the test of the C interface runs each end in a thread of its own.
#include <future>

#include <psp/tls.hh>

#include "tls_lab.hh"

namespace psp::lab {
namespace {

using keyx::ErrorCode;
using keyx::Outcome;
using keyx::Policy;
using keyx::Protocol;

constexpr std::pair<Step, Step> kBothDone{Step::kDone, Step::kDone};

class TlsUpgrade : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    std::signal(SIGPIPE, SIG_IGN);
    lab_.emplace();
    lab_->start(From::kA);
    lab_->start(From::kB);
    a_ops_.emplace(*lab_, From::kA);
    b_ops_.emplace(*lab_, From::kB);
  }
  void expect_full(const Tls& tls) {
    for (const From side : {From::kA, From::kB}) {
      const auto association = lab_->association(side, tls.fd(side));
      ASSERT_TRUE(association);
      EXPECT_EQ(association->state, static_cast<unsigned>(PSP_STATE_FULL));
    }
  }
  // talk sends in both directions and looks at the wire.
  void talk(const Tls& tls) {
    const std::size_t mark = lab_->cable().mark();
    const Octets there = random_octets(100'000), back = random_octets(5000);
    send_all(tls.fd(From::kA), Octets(there.begin(), there.begin() + 50'000));
    send_all(tls.fd(From::kB), back);
    EXPECT_EQ(receive(tls.fd(From::kB), 50'000), Octets(there.begin(), there.begin() + 50'000));
    EXPECT_EQ(receive(tls.fd(From::kA), 5000), back);
    expect_nothing_in_clear(*lab_, tls.connection.flow, mark, back);
  }
  // put_in_clear is a man in the middle, who puts clear octets where B's start of PSP will stand.
  void put_in_clear(const Tls& tls) {
    const Flow& flow = tls.connection.flow;
    ASSERT_TRUE(lab_->association(From::kB, tls.fd(From::kB)));
    std::optional<Segment> next;
    for (const Seen& seen : lab_->cable().since(0))
      if (seen.from == From::kB && of_flow(seen, flow) && !seen.segment->payload.empty())
        next = Segment{
            .seq = seen.segment->seq + static_cast<std::uint32_t>(seen.segment->payload.size()),
            .ack = seen.segment->ack,
            .payload = Octets(40, 'x')};
    ASSERT_TRUE(next);
    lab_->cable().send(From::kB, clear_packet(flow, From::kB, *next));
    usleep(10'000);
  }
  std::optional<Lab> lab_;
  std::optional<LabOps> a_ops_, b_ops_;
};

TEST_P(TlsUpgrade, BothEndsAreFullAndNothingIsLost) {
  Tls tls(*lab_, GetParam());
  ASSERT_EQ(SSL_write(tls.a.get(), "from a", 6), 6);
  ASSERT_EQ(SSL_write(tls.b.get(), "from b", 6), 6);
  auto a = keyx::make_upgrade(tls.a.get(), *a_ops_, {});
  auto b = keyx::make_upgrade(tls.b.get(), *b_ops_, {});
  ASSERT_EQ(drive(*a, *b), kBothDone) << a->error().message << b->error().message;
  EXPECT_EQ(a->outcome().version, Version::kAesGcm256);
  EXPECT_TRUE(a->outcome().proven && b->outcome().proven);
  EXPECT_EQ(a->outcome().rx_spi, b->outcome().tx_spi);
  for (const auto& [upgrade, want] : {std::pair(&*a, "from b"), {&*b, "from a"}}) {
    std::uint8_t early[16] = {};
    EXPECT_EQ(upgrade->read(early), 6u);
    EXPECT_STREQ(reinterpret_cast<const char*>(early), want);
  }
  expect_full(tls);
  SSL_shutdown(tls.a.get());
  a.reset();
  b.reset();
  tls.a.reset();
  tls.b.reset();
  talk(tls);
}

TEST_P(TlsUpgrade, TheInteroperabilityModesEndInPspToo) {
  for (const Protocol protocol : {Protocol::kFizzV0, Protocol::kKernelSelftest})
    for (const std::uint32_t versions : {0b01u, 0b10u}) {
      Tls tls(*lab_, GetParam());
      const Policy policy{.versions = {versions}, .protocol = protocol};
      const bool clear = protocol == Protocol::kKernelSelftest;
      const auto a = clear ? keyx::make_clear_upgrade(tls.fd(From::kA), *a_ops_, policy)
                           : keyx::make_upgrade(tls.a.get(), *a_ops_, policy);
      const auto b = clear ? keyx::make_clear_upgrade(tls.fd(From::kB), *b_ops_, policy)
                           : keyx::make_upgrade(tls.b.get(), *b_ops_, policy);
      ASSERT_EQ(drive(*a, *b), kBothDone) << a->error().message << b->error().message;
      talk(tls);
      expect_full(tls);
    }
}

TEST_P(TlsUpgrade, WithReceiveDisabledBothStayOnTls) {
  Tls tls(*lab_, GetParam());
  auto client = lab_->client(From::kB);
  ASSERT_TRUE(client.set_versions(client.devices()->front().id, {0}));
  const auto a = keyx::make_upgrade(tls.a.get(), *a_ops_, {.allow_tls = true});
  const auto b = keyx::make_upgrade(tls.b.get(), *b_ops_, {.allow_tls = true});
  ASSERT_EQ(drive(*a, *b), kBothDone);
  EXPECT_EQ(a->outcome().kind, Outcome::Kind::kTls);
  EXPECT_NE(a->outcome().why_tls.find("receive disabled"), std::string::npos);
  EXPECT_FALSE(lab_->association(From::kA, tls.fd(From::kA)));
}

// The route of a connection is not looked up while the device is remembered.
TEST_P(TlsUpgrade, ARememberedDeviceIsForgottenByTheFirstConnectionThatDoesNotUseIt) {
  Lab lab({.links = 2});
  for (const From side : {From::kA, From::kB}) lab.start(side);
  LabOps ops(lab, From::kA, 1h);
  const auto ours = lab.connect(GetParam()), other = lab.connect(GetParam(), {.link = 1});
  EXPECT_NE(ops.available(ours.a.get()).versions.bits, 0u);
  EXPECT_NE(ops.available(other.a.get()).versions.bits, 0u) << "nobody has looked";
  const auto refused = ops.rx_assoc(other.a.get(), Version::kAesGcm128);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("goes by eth1"), std::string::npos)
      << refused.error().message;
  for (int i = 0; i < 2; ++i) {
    const auto absent = ops.available(other.a.get());
    EXPECT_EQ(absent.absence, keyx::Absence::kNoDevice) << "a no is not remembered as a yes";
    EXPECT_NE(absent.reason.find("goes by eth1"), std::string::npos) << absent.reason;
  }
  EXPECT_NE(ops.available(ours.a.get()).versions.bits, 0u);
  EXPECT_TRUE(ops.rx_assoc(ours.a.get(), Version::kAesGcm128));
}

// until_key steps both until B waits for START: its KEY is out.
template <typename A>
void until_key(A& a, Upgrade& b) {
  a.step();
  ASSERT_TRUE(eventually([&] {
    b.step();
    return std::string(b.waiting_for()) == "the peer's key";
  }));
}

TEST_P(TlsUpgrade, TwoRotationsInTheMiddleEndInATimeOut) {
  Tls tls(*lab_, GetParam());
  auto client = lab_->client(From::kB);
  const std::uint32_t device = client.devices()->front().id;
  std::optional<keyx::RotationWatch> watch;
  {
    const InNetns inside(lab_->ns(From::kB));
    auto connected = keyx::RotationWatch::connect();
    ASSERT_TRUE(connected) << connected.error().message;
    watch.emplace(std::move(*connected));
  }
  auto ticket = watch->begin();
  const auto a = keyx::make_upgrade(tls.a.get(), *a_ops_, {});
  const auto b = keyx::make_upgrade(tls.b.get(), *b_ops_, {});
  until_key(*a, *b);
  ASSERT_TRUE(client.key_rotate(device));
  ASSERT_TRUE(client.key_rotate(device));
  const auto [ra, rb] = drive(*a, *b, 500ms);
  EXPECT_FALSE(over(ra) && ra == Step::kDone && rb == Step::kDone);
  EXPECT_NE(rb, Step::kDone);  // nothing that A sealed reaches it
  EXPECT_TRUE(eventually([&] {
    watch->process();
    return ticket.state() == keyx::Freshness::kStale;
  }));
}

TEST_P(TlsUpgrade, OneRotationInTheMiddleDoesNoHarmButIsKnown) {
  Tls tls(*lab_, GetParam());
  auto client = lab_->client(From::kB);
  const auto a = keyx::make_upgrade(tls.a.get(), *a_ops_, {});
  const auto b = keyx::make_upgrade(tls.b.get(), *b_ops_, {});
  until_key(*a, *b);
  ASSERT_TRUE(client.key_rotate(client.devices()->front().id));
  ASSERT_EQ(drive(*a, *b), kBothDone) << a->error().message << b->error().message;
  talk(tls);
}

TEST_P(TlsUpgrade, APspdThatStopsInTheMiddleIsAFailure) {
  Tls tls(*lab_, GetParam());
  const auto a = keyx::make_upgrade(tls.a.get(), *a_ops_, {.allow_tls = true});
  const auto b = keyx::make_upgrade(tls.b.get(), *b_ops_, {.allow_tls = true});
  until_key(*a, *b);
  lab_->stop(From::kB);
  const auto [ra, rb] = drive(*a, *b, 2s);
  EXPECT_NE(ra, Step::kDone);
  EXPECT_EQ(rb, Step::kFailed);
}

TEST_P(TlsUpgrade, ClearOctetsBehindTheKeyArePutInByNobody) {
  // A refuses them before tx-assoc (EBUSY) and drops them behind it; in no case does the
  // application read them.
  Tls tls(*lab_, GetParam());
  const auto a = keyx::make_upgrade(tls.a.get(), *a_ops_, {});
  const auto b = keyx::make_upgrade(tls.b.get(), *b_ops_, {});
  until_key(*a, *b);
  put_in_clear(tls);
  const auto [ra, rb] = drive(*a, *b, 3s);
  EXPECT_EQ(ra, Step::kFailed);
  EXPECT_EQ(a->error().code, ErrorCode::kClearData) << a->error().message;
  EXPECT_NE(rb, Step::kDone);
  EXPECT_EQ(a->pending(), 0u);
}

TEST_P(TlsUpgrade, TheCInterfaceWantsToTryAgainWhileClearOctetsAreInTheWay) {
  Tls tls(*lab_, GetParam());
  const InNetns inside(lab_->ns(From::kA));
  psp::tls::Upgrade a(tls.a.get());
  const auto b = keyx::make_upgrade(tls.b.get(), *b_ops_, {});
  until_key(a, *b);
  put_in_clear(tls);
  EXPECT_TRUE(eventually([&] { return a.step() == PSP_UPGRADE_WANT_RETRY; })) << a.message();
  EXPECT_EQ(a.message(), "clear data to leave the receive queue");
  EXPECT_EQ(a.run(10s), PSP_UPGRADE_FAILED);  // which waits, and tries again by itself
  EXPECT_EQ(a.error(), PSP_UPGRADE_ERROR_CLEAR_DATA) << a.message();
}

TEST_P(TlsUpgrade, TheCInterfaceNeedsNothingButTheSsl) {
  Tls tls(*lab_, GetParam());
  for (const From side : {From::kA, From::kB}) fcntl(tls.fd(side), F_SETFL, 0);
  const auto upgrade = [&](From side) {
    const InNetns inside(lab_->ns(side));
    psp::tls::Upgrade up(tls.ssl(side));
    EXPECT_EQ(up.run(10s), PSP_UPGRADE_PSP) << up.message();
    return up.info();
  };
  auto other = std::async(std::launch::async, [&] { return upgrade(From::kB); });
  const auto a = upgrade(From::kA), b = other.get();
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->version, static_cast<unsigned>(PSP_VERSION_AES_GCM_256));
  EXPECT_EQ(a->rx_spi, b->tx_spi);
  EXPECT_EQ(a->tx_spi, b->rx_spi);
  EXPECT_EQ(a->proven, 1u);
  expect_full(tls);
  talk(tls);
}

INSTANTIATE_TEST_SUITE_P(Families, TlsUpgrade,
                         testing::Values(Kind::kIpv4, Kind::kIpv6, Kind::kIpv4Mapped),
                         [](const auto& param) { return kind_name(param.param); });

}  // namespace
}  // namespace psp::lab
