// SPDX-License-Identifier: Apache-2.0
//
// The interoperability modes: octet for octet, against an independent peer in Python, and every
// exit of their state machine. interop_peer.py was written after the protocols and not after this
// code; both ends then talk on, to show that they are at the same octet. Messages are also written
// out by hand. PSP is a model. fizz itself and Linux's psp_responder are not run here.
#include <cstdlib>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <openssl/pem.h>

#include "test_peer.hh"

namespace psp::keyx {
namespace {

using test::Bytes;
using test::ModelOps;
using test::refused;
using test::run;
using test::ScriptedPeer;
using test::Side;
using test::unread;
using ::testing::HasSubstr;

constexpr Spi kOwnSpi{0x8000'0101};   // ModelOps' first
constexpr Spi kPeerSpi{0x80C0'FFEE};  // of interop_peer.py

Policy policy(Protocol protocol, Version version = Version::kAesGcm128) {
  return {.versions = {1u << static_cast<unsigned>(version)}, .protocol = protocol};
}

std::string hex(std::span<const std::uint8_t> octets) {
  std::string out;
  for (std::uint8_t octet : octets) out += fmt::format("{:02x}", octet);
  return out;
}

Bytes peer_key(Version version) {
  Bytes key(key_size(version));
  for (std::size_t i = 0; i < key.size(); ++i) key[i] = static_cast<std::uint8_t>(0x40 + i);
  return key;
}

// sa is an SA message of fizz V0, written down octet by octet.
Bytes sa(std::uint32_t spi, unsigned version, const Bytes& key) {
  Bytes out{1, 40};
  for (int shift = 24; shift >= 0; shift -= 8)
    out.push_back(static_cast<std::uint8_t>(spi >> shift));
  out.push_back(static_cast<std::uint8_t>(version));
  out.resize(out.size() + 3);
  out.insert(out.end(), key.begin(), key.end());
  out.resize(42);
  return out;
}

// Python is interop_peer.py as a child process.
class Python {
 public:
  Python(const std::string& protocol, const std::string& role, const std::string& port,
         Version version, const std::string& certificate) {
    const std::string command =
        fmt::format("{} {} {} {} {} {} '{}'", PSP_PYTHON, PSP_PEER, protocol, role, port,
                    static_cast<unsigned>(version), certificate);
    out_ = popen(command.c_str(), "re");
  }
  ~Python() {
    if (out_ != nullptr) pclose(out_);
  }
  Python(const Python&) = delete;
  Python& operator=(const Python&) = delete;
  std::string line() {
    char text[256] = {};
    if (out_ == nullptr || fgets(text, sizeof text, out_) == nullptr) return "";
    std::string out = text;
    if (!out.empty() && out.back() == '\n') out.pop_back();
    return out;
  }
  int status() {
    const int status = pclose(out_);
    out_ = nullptr;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  std::FILE* out_ = nullptr;
};

// certificate_file writes the first-use certificate of the server's context, with its key.
std::string certificate_file() {
  std::string path = "/tmp/psp-interop-XXXXXX";
  const test::Fd fd(mkstemp(path.data()));
  std::FILE* const file = std::fopen(path.c_str(), "w");
  SSL_CTX* const ctx = test::first_use_context(true).ctx.get();
  PEM_write_PrivateKey(file, SSL_CTX_get0_privatekey(ctx), nullptr, nullptr, 0, nullptr, nullptr);
  PEM_write_X509(file, SSL_CTX_get0_certificate(ctx));
  std::fclose(file);
  return path;
}

test::Fd connect_to(const std::string& port) {
  test::Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<std::uint16_t>(std::atoi(port.c_str())));
  EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  return fd;
}

// Meeting is our end of a TCP connection with a Python that plays `role`.
struct Meeting {
  Meeting(const std::string& protocol, const std::string& role, Version version) {
    signal(SIGPIPE, SIG_IGN);
    certificate = certificate_file();
    if (role == "server") {
      python.emplace(protocol, role, "0", version, certificate);
      fd = connect_to(python->line());
      return;
    }
    const test::Fd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in any{};
    any.sin_family = AF_INET;
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof any;
    bind(listener.get(), reinterpret_cast<sockaddr*>(&any), size);
    listen(listener.get(), 1);
    getsockname(listener.get(), reinterpret_cast<sockaddr*>(&any), &size);
    python.emplace(protocol, role, std::to_string(ntohs(any.sin_port)), version, certificate);
    fd = test::Fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }
  ~Meeting() { unlink(certificate.c_str()); }

  // talk_on shows that both ends are at the same octet of the bare stream.
  void talk_on() {
    char data[8] = {};
    EXPECT_EQ(recv(fd.get(), data, 4, MSG_WAITALL), 4);
    EXPECT_STREQ(data, "ping");
    EXPECT_EQ(send(fd.get(), "pong", 4, MSG_NOSIGNAL), 4);
    EXPECT_EQ(python->line(), "pong");
    EXPECT_EQ(python->status(), 0);
  }

  std::string certificate;
  std::optional<Python> python;
  test::Fd fd;
};

void expect_swapped(Meeting& meeting, const ModelOps& ops, const Outcome& outcome,
                    Version version) {
  EXPECT_EQ(outcome.kind, Outcome::Kind::kPsp);
  EXPECT_EQ(outcome.version, version);
  EXPECT_EQ(outcome.rx_spi, kOwnSpi);
  EXPECT_EQ(outcome.tx_spi, kPeerSpi);
  EXPECT_FALSE(outcome.proven);
  EXPECT_EQ(ops.tx_key, peer_key(version));
  EXPECT_EQ(meeting.python->line(), "80000101 " + hex(ops.rx_key_given));
}

class EachVersion : public ::testing::TestWithParam<unsigned> {
 protected:
  Version version() const { return static_cast<Version>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Versions, EachVersion, ::testing::Range(0u, 4u));

TEST_P(EachVersion, FizzV0WithAnIndependentPeer) {
  for (const std::string role : {"server", "client"}) {
    Meeting meeting("fizz-v0", role, version());
    Side side(test::first_use_context(role == "client"), std::move(meeting.fd));
    ASSERT_EQ(SSL_do_handshake(side.ssl.get()), 1);
    ModelOps ops;
    const auto upgrade = make_upgrade(side.ssl.get(), ops, policy(Protocol::kFizzV0, version()));
    ASSERT_EQ(upgrade->step(), Step::kDone) << upgrade->error().message;  // a blocking socket
    expect_swapped(meeting, ops, upgrade->outcome(), version());
    SSL_shutdown(side.ssl.get());
    side.ssl.reset();
    meeting.fd = std::move(side.fd);
    meeting.talk_on();
  }
}

TEST_P(EachVersion, KernelSelftestWithAnIndependentPeer) {
  for (const std::string role : {"server", "client"}) {
    Meeting meeting("kernel-selftest", role, version());
    ModelOps ops;
    const auto upgrade =
        make_clear_upgrade(meeting.fd.get(), ops, policy(Protocol::kKernelSelftest, version()));
    ASSERT_EQ(upgrade->step(), Step::kDone) << upgrade->error().message;
    expect_swapped(meeting, ops, upgrade->outcome(), version());
    meeting.talk_on();
  }
}

TEST(FizzV0, AFailedRxAssocIsToldInItsWords) {
  Meeting meeting("fizz-v0", "server", Version::kAesGcm128);
  Side side(test::first_use_context(false), std::move(meeting.fd));
  ASSERT_EQ(SSL_do_handshake(side.ssl.get()), 1);
  ModelOps ops;
  ops.rx_fault = refused(ENODEV, "the device has gone");
  const auto upgrade = make_upgrade(side.ssl.get(), ops, policy(Protocol::kFizzV0));
  ASSERT_EQ(upgrade->step(), Step::kFailed);
  EXPECT_EQ(upgrade->error().code, ErrorCode::kRxAssoc);
  EXPECT_EQ(upgrade->error().sys_errno, ENODEV);
  EXPECT_EQ(meeting.python->line(), "error 01");
}

// Fizz is our end as a client, opposite a peer by hand.
struct Fizz {
  Fizz() : upgrade(make_upgrade(peer.client.ssl.get(), ops, policy(Protocol::kFizzV0))) {}
  Step run() { return test::run(*upgrade, peer.client); }
  // heard is all that the peer's TLS has got.
  Bytes heard() {
    Bytes out(256);
    std::size_t size = 0;
    for (std::size_t n = 0;
         test::wait_readable(peer.own.fd.get(), 20) &&
         SSL_read_ex(peer.own.ssl.get(), out.data() + size, out.size() - size, &n) == 1;
         size += n) {
    }
    out.resize(size);
    return out;
  }
  ScriptedPeer peer;
  ModelOps ops;
  std::unique_ptr<Upgrade> upgrade;
};

TEST(FizzV0, TheMessageIsExactAndNothingFollowsIt) {
  Fizz fizz;
  EXPECT_EQ(fizz.run(), Step::kWantRead);
  EXPECT_STREQ(fizz.upgrade->waiting_for(), "the peer's key");
  EXPECT_EQ(fizz.heard(), sa(kOwnSpi.value, 0, fizz.ops.rx_key_given));
  fizz.peer.say_raw(sa(7, 0, Bytes(16, 9)));
  EXPECT_EQ(fizz.run(), Step::kDone);
  EXPECT_EQ(fizz.ops.tx_spi, Spi{7});
  EXPECT_EQ(fizz.ops.tx_key, Bytes(16, 9));
  SSL_shutdown(fizz.peer.client.ssl.get());
  fizz.upgrade.reset();
  fizz.peer.client.ssl.reset();
  usleep(2000);
  EXPECT_EQ(unread(fizz.peer.own.fd.get()), 0);
}

TEST(FizzV0, MessagesMayComeInPieces) {
  Fizz fizz;
  for (const std::uint8_t octet : sa(7, 0, Bytes(16, 9))) {
    fizz.peer.say_raw(Bytes{octet});
  }
  EXPECT_EQ(fizz.run(), Step::kDone);
  EXPECT_EQ(fizz.ops.tx_spi, Spi{7});
}

struct Bad {
  const char* what;
  Bytes octets;
  ErrorCode code = ErrorCode::kProtocol;
};

TEST(FizzV0, WhatIsNoKeyIsNeverInstalled) {
  Bytes longer = sa(7, 0, Bytes(16, 9));
  longer.push_back('x');
  Bytes shorter = sa(7, 0, Bytes(16, 9));
  shorter[1] = 39;
  shorter.pop_back();
  const Bad table[] = {
      {"an error", {0, 1, 1}, ErrorCode::kPeerRefused},
      {"an error of no length", {0, 0}},
      {"an error that is too long", {0, 2, 1, 1}},
      {"an unknown tag", {2, 1, 1}},
      {"too short", shorter},
      {"an empty SA", {1, 0}},
      {"SPI 0", sa(0, 0, Bytes(16, 9))},
      {"SPI 0 of the other phase", sa(0x8000'0000, 0, Bytes(16, 9))},
      {"another version", sa(7, 1, Bytes(32, 9))},
      {"an unknown version", sa(7, 4, Bytes(32, 9))},
      {"more in the same record", longer, ErrorCode::kClearData},
  };
  for (const Bad& row : table) {
    Fizz fizz;
    fizz.peer.say_raw(row.octets);
    ASSERT_EQ(fizz.run(), Step::kFailed) << row.what;
    EXPECT_EQ(fizz.upgrade->error().code, row.code)
        << row.what << ": " << fizz.upgrade->error().message;
    EXPECT_EQ(fizz.ops.tx_calls, 0u) << row.what;
    EXPECT_EQ(fizz.heard().size(), 42u) << row.what;
  }
}

TEST(FizzV0, ALongerValueIsReadAsFizzDoes) {
  Fizz fizz;
  Bytes octets = sa(7, 0, Bytes(16, 9));
  octets[1] = 50;
  octets.resize(2 + 50, 'x');
  fizz.peer.say_raw(octets);
  EXPECT_EQ(fizz.run(), Step::kDone);
  EXPECT_EQ(fizz.ops.tx_key, Bytes(16, 9));
}

TEST(FizzV0, EndOfFileInEachStepFails) {
  const Bytes message = sa(7, 0, Bytes(16, 9));
  for (const std::size_t size : {0, 1, 2, 41}) {
    Fizz fizz;
    if (size > 0) fizz.peer.say_raw(std::span(message).first(size));
    shutdown(fizz.peer.own.fd.get(), SHUT_WR);
    ASSERT_EQ(fizz.run(), Step::kFailed) << size;
    EXPECT_EQ(fizz.upgrade->error().code, ErrorCode::kPeerClosed);
    EXPECT_EQ(fizz.ops.tx_calls, 0u);
  }
}

TEST(FizzV0, TxAssocIsTriedAgainWhileBusyAndFailsOtherwise) {
  for (const auto& [faults, want] :
       {std::pair(2u, Step::kDone), std::pair(kTxAssocTries, Step::kFailed)}) {
    Fizz fizz;
    fizz.ops.tx_faults.assign(faults, refused(EBUSY, "busy"));
    fizz.peer.say_raw(sa(7, 0, Bytes(16, 9)));
    EXPECT_EQ(fizz.run(), want);
  }
  Fizz fizz;
  fizz.ops.tx_faults = {refused(ENODEV, "the device has gone")};
  fizz.peer.say_raw(sa(7, 0, Bytes(16, 9)));
  ASSERT_EQ(fizz.run(), Step::kFailed);
  EXPECT_EQ(fizz.upgrade->error().code, ErrorCode::kTxAssoc);
  EXPECT_EQ(fizz.upgrade->error().sys_errno, ENODEV);
}

TEST(Interop, WithoutOneVersionOrWithTlsAllowedItIsRefused) {
  for (const bool in_clear : {false, true})
    for (const auto& [versions, allow_tls] :
         {std::pair(0b0011u, false), std::pair(0u, false), std::pair(0b0001u, true)}) {
      ScriptedPeer peer;
      ModelOps ops;
      const Policy unfit{.versions = {versions},
                         .allow_tls = allow_tls,
                         .protocol = in_clear ? Protocol::kKernelSelftest : Protocol::kFizzV0};
      const auto upgrade = in_clear ? make_clear_upgrade(peer.client.fd.get(), ops, unfit)
                                    : make_upgrade(peer.client.ssl.get(), ops, unfit);
      ASSERT_EQ(upgrade->step(), Step::kFailed);
      EXPECT_EQ(upgrade->error().code, ErrorCode::kUsage);
      EXPECT_EQ(ops.rx_calls, 0u);
    }
}

TEST(Interop, ProtocolsAreKnownByTheirNames) {
  for (const Protocol protocol : {Protocol::kSoftpsp, Protocol::kFizzV0, Protocol::kKernelSelftest})
    EXPECT_EQ(parse_protocol(name(protocol)), protocol);
  EXPECT_EQ(parse_protocol("fizz"), std::nullopt);
  EXPECT_EQ(parse_protocol(""), std::nullopt);
}

TEST(KernelSelftest, ClearKeysAreSentOnlyIfAskedForByName) {
  for (const Protocol protocol : {Protocol::kSoftpsp, Protocol::kFizzV0}) {
    auto [near, far] = test::tcp_pair();
    ModelOps ops;
    const auto upgrade = make_clear_upgrade(near.get(), ops, policy(protocol));
    ASSERT_EQ(upgrade->step(), Step::kFailed);
    EXPECT_EQ(upgrade->error().code, ErrorCode::kUsage);
    EXPECT_EQ(ops.rx_calls, 0u);
    EXPECT_EQ(unread(far.get()), 0);
  }
  // And never because an SSL was given.
  ScriptedPeer peer;
  ModelOps ops;
  const auto upgrade = make_upgrade(peer.client.ssl.get(), ops, policy(Protocol::kKernelSelftest));
  ASSERT_EQ(upgrade->step(), Step::kFailed);
  EXPECT_EQ(upgrade->error().code, ErrorCode::kUsage);
  EXPECT_EQ(unread(peer.own.fd.get()), 0);
}

TEST(KernelSelftest, OneOctetAtATimeIsEnoughAndNotOneMoreIsRead) {
  auto [near, far] = test::tcp_pair();
  ModelOps ops;
  const auto upgrade = make_clear_upgrade(near.get(), ops, policy(Protocol::kKernelSelftest));
  const std::uint32_t spi = 0x1234;
  Bytes octets(4 + 16 + 3, 'k');
  std::memcpy(octets.data(), &spi, 4);
  for (const std::uint8_t octet : octets) {
    send(far.get(), &octet, 1, 0);
    upgrade->step();
  }
  usleep(2000);
  ASSERT_EQ(upgrade->step(), Step::kDone);
  EXPECT_EQ(ops.tx_spi, Spi{0x1234});
  EXPECT_EQ(unread(near.get()), 3);
}

// An urgent pointer that a clear segment moved on the way takes no octet out of what comes as PSP.
void expect_urgent_stays_in_line(int near, int far) {
  ASSERT_EQ(send(far, "12345678", 8, MSG_OOB), 8);
  EXPECT_EQ(test::read_all(near, 8), "12345678");
}

TEST(KernelSelftest, AnUrgentPointerTakesNoOctetOutOfThePspStream) {
  auto [near, far] = test::tcp_pair();
  ModelOps ops;
  int when_key_is_made = -1;
  ops.on_rx_assoc = [&](int fd) { when_key_is_made = test::urgent_inline(fd); };
  const auto upgrade = make_clear_upgrade(near.get(), ops, policy(Protocol::kKernelSelftest));
  Bytes octets(4 + 16, 'k');
  ASSERT_EQ(send(far.get(), octets.data(), octets.size(), 0), 20);
  ASSERT_TRUE(test::wait_readable(near.get()));
  ASSERT_EQ(upgrade->step(), Step::kDone) << upgrade->error().message;
  EXPECT_EQ(when_key_is_made, 1);
  Bytes key(20);
  ASSERT_EQ(recv(far.get(), key.data(), key.size(), 0), 20);
  expect_urgent_stays_in_line(near.get(), far.get());
}

TEST(FizzV0, KeyUpdatesWithoutEndEndNoStepLate) {
  Fizz fizz;
  ASSERT_TRUE(test::key_updates(fizz.peer.own.ssl.get(), 1000));
  ASSERT_TRUE(test::wait_readable(fizz.peer.client.fd.get()));
  ASSERT_EQ(fizz.upgrade->step(), Step::kWantRetry);
  EXPECT_GT(unread(fizz.peer.client.fd.get()), 0);
  fizz.peer.say_raw(sa(7, 0, Bytes(16, 9)));
  EXPECT_EQ(fizz.run(), Step::kDone) << fizz.upgrade->error().message;
}

TEST(FizzV0, AnUrgentPointerTakesNoOctetOutOfThePspStream) {
  Fizz fizz;
  int when_key_is_made = -1;
  fizz.ops.on_rx_assoc = [&](int fd) { when_key_is_made = test::urgent_inline(fd); };
  fizz.peer.say_raw(sa(7, 0, Bytes(16, 9)));
  ASSERT_EQ(fizz.run(), Step::kDone);
  EXPECT_EQ(when_key_is_made, 1);
  fizz.upgrade.reset();
  expect_urgent_stays_in_line(fizz.peer.client.fd.get(), fizz.peer.own.fd.get());
}

TEST(KernelSelftest, EveryExitIsAFailureThatSaysWhy) {
  const auto fail = [](std::size_t size, std::uint32_t spi, ModelOps& ops, bool reset) {
    auto [near, far] = test::tcp_pair();
    const auto upgrade = make_clear_upgrade(near.get(), ops, policy(Protocol::kKernelSelftest));
    Bytes octets(size, 'k');
    if (size >= 4) std::memcpy(octets.data(), &spi, 4);
    EXPECT_EQ(send(far.get(), octets.data(), size, 0), static_cast<ssize_t>(size));
    upgrade->step();
    if (reset)
      far.reset_connection();
    else
      shutdown(far.get(), SHUT_WR);
    usleep(2000);
    Step step = Step::kWantRetry;
    while (step == Step::kWantRetry) step = upgrade->step();
    EXPECT_EQ(step, Step::kFailed);
    return upgrade->error().code;
  };
  ModelOps good, no_rx, no_tx, busy;
  no_rx.rx_fault = refused(ENOSPC, "no SPI");
  no_tx.tx_faults = {refused(ENODEV, "gone")};
  busy.tx_faults.assign(kTxAssocTries, refused(EBUSY, "busy"));
  EXPECT_EQ(fail(0, 1, good, false), ErrorCode::kPeerClosed);
  EXPECT_EQ(fail(19, 1, good, false), ErrorCode::kPeerClosed);
  EXPECT_EQ(fail(0, 1, good, true), ErrorCode::kPeerClosed);
  EXPECT_EQ(fail(20, 0, good, false), ErrorCode::kProtocol);
  EXPECT_EQ(good.tx_calls, 0u);
  EXPECT_EQ(fail(20, 1, no_rx, false), ErrorCode::kRxAssoc);
  EXPECT_EQ(fail(20, 1, no_tx, false), ErrorCode::kTxAssoc);
  EXPECT_EQ(fail(20, 1, busy, false), ErrorCode::kClearData);
}

}  // namespace
}  // namespace psp::keyx
