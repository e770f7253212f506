// SPDX-License-Identifier: Apache-2.0
//
// libpsp-tls.so from outside, with TLS of the test's own: statuses, time-outs, options, messages.
// There is no pspd here; tests/tls has one. So every upgrade here stays on TLS or fails, as it must
// on a host without PSP. Every allocation of the library fails once, and no exception may leave
// (little_memory.hh). Structs of other sizes stand for callers of other releases; a C caller is in
// c_tls_header_test.c.
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <future>
#include <gmock/gmock.h>
#include <openssl/evp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <psp/tls.hh>

#include "little_memory.hh"

extern "C" int psp_c_tls_test(SSL* ssl, const char* pspd, char* message, size_t size);

namespace psp::tls {
namespace {

using namespace std::chrono_literals;
using keyx::test::memory_left;
using ::testing::HasSubstr;

constexpr char kNobody[] = "@psp-tls-test-nobody";
constexpr unsigned char kPsk[32] = {1, 2, 3};

SSL_SESSION* session(SSL* ssl) {
  const unsigned char suite[] = {0x13, 0x01};
  SSL_SESSION* const out = SSL_SESSION_new();
  SSL_SESSION_set1_master_key(out, kPsk, sizeof kPsk);
  SSL_SESSION_set_cipher(out, SSL_CIPHER_find(ssl, suite));
  SSL_SESSION_set_protocol_version(out, TLS1_3_VERSION);
  return out;
}

// End is one end of a TLS connection by a PSK, made with OpenSSL alone.
struct End {
  End(bool server, int socket, bool announce = false) : fd(socket) {
    ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256");
    SSL_CTX_set_psk_use_session_callback(
        ctx, [](SSL* of, const EVP_MD*, const unsigned char** id, size_t* size, SSL_SESSION** out) {
          *id = reinterpret_cast<const unsigned char*>("test");
          *size = 4;
          *out = session(of);
          return 1;
        });
    SSL_CTX_set_psk_find_session_callback(
        ctx, [](SSL* of, const unsigned char*, size_t, SSL_SESSION** out) {
          *out = session(of);
          return 1;
        });
    if (announce) {
      EXPECT_EQ(psp_upgrade_announce(ctx), 0);
    }
    ssl = SSL_new(ctx);
    SSL_set_fd(ssl, fd);
    server ? SSL_set_accept_state(ssl) : SSL_set_connect_state(ssl);
  }
  ~End() {
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    close(fd);
  }
  End(const End&) = delete;
  End& operator=(const End&) = delete;
  SSL_CTX* ctx = nullptr;
  SSL* ssl = nullptr;
  int fd;
};

// Link is two ends with the handshake done, on blocking sockets.
class Link {
 public:
  explicit Link(bool client_announces = false, bool server_announces = false) {
    std::signal(SIGPIPE, SIG_IGN);
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    client.emplace(false, fds[0], client_announces);
    server.emplace(true, fds[1], server_announces);
    auto other = std::async(std::launch::async, [&] { return SSL_do_handshake(server->ssl); });
    EXPECT_EQ(SSL_do_handshake(client->ssl), 1);
    EXPECT_EQ(other.get(), 1);
  }
  std::optional<End> client, server;
};

Options nobody(int policy = PSP_UPGRADE_REQUIRED) {
  Options options;
  options.pspd = kNobody;
  options.policy = policy;
  return options;
}

TEST(TlsApi, WithoutPspdBothStayOnTlsIfBothPreferIt) {
  Link link;
  auto other = std::async(std::launch::async, [&] {
    char message[512];
    const int status = psp_c_tls_test(link.server->ssl, kNobody, message, sizeof message);
    EXPECT_THAT(message, HasSubstr("cannot receive PSP"));
    return status;
  });
  ASSERT_EQ(SSL_write(link.client->ssl, "early", 5), 5);
  Upgrade up(link.client->ssl, nobody(PSP_UPGRADE_PREFERRED));
  EXPECT_EQ(up.run(10s), PSP_UPGRADE_TLS);
  EXPECT_THAT(up.message(), HasSubstr("no pspd answers at @psp-tls-test-nobody"));
  EXPECT_EQ(up.error(), PSP_UPGRADE_ERROR_NONE);
  EXPECT_FALSE(up.info());
  EXPECT_EQ(other.get(), PSP_UPGRADE_TLS);
  EXPECT_EQ(fcntl(link.client->fd, F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(SSL_write(link.server->ssl, "on", 2), 2);
  char data[4];
  EXPECT_EQ(SSL_read(link.client->ssl, data, sizeof data), 2);
}

TEST(TlsApi, RequiredFailsOnBothEndsWithBothReasons) {
  Link link;
  auto other = std::async(std::launch::async, [&] {
    Upgrade up(link.server->ssl, nobody(PSP_UPGRADE_PREFERRED));
    EXPECT_EQ(up.run(10s), PSP_UPGRADE_FAILED);
    EXPECT_EQ(up.error(), PSP_UPGRADE_ERROR_NO_PSP);
  });
  Upgrade up(link.client->ssl, nobody());
  EXPECT_EQ(up.run(10s), PSP_UPGRADE_FAILED);
  EXPECT_EQ(up.step(), PSP_UPGRADE_FAILED);
  EXPECT_EQ(up.error(), PSP_UPGRADE_ERROR_NO_PSP);
  EXPECT_THAT(up.message(), HasSubstr("the other end cannot receive PSP"));
  other.get();
}

TEST(TlsApi, TheEarlyOctetsAreThere) {
  Link link;
  ASSERT_EQ(SSL_write(link.server->ssl, "early", 5), 5);
  auto other = std::async(std::launch::async, [&] {
    Upgrade up(link.server->ssl, nobody(PSP_UPGRADE_PREFERRED));
    return up.run(10s);
  });
  Upgrade up(link.client->ssl, nobody(PSP_UPGRADE_PREFERRED));
  EXPECT_EQ(up.pending(), 0u);
  EXPECT_EQ(up.run(10s), PSP_UPGRADE_TLS);
  EXPECT_EQ(up.pending(), 5u);
  std::byte data[8];
  EXPECT_EQ(up.read(std::span(data).first(2)), 2u);
  EXPECT_EQ(up.read(data), 3u);
  EXPECT_EQ(static_cast<char>(data[0]), 'r');
  EXPECT_EQ(up.pending(), 0u);
  other.get();
}

TEST(TlsApi, ASilentPeerIsATimeOutAndTheSocketIsBlockingAgain) {
  Link link;
  Upgrade up(link.client->ssl, nobody());
  EXPECT_EQ(up.run(30ms), PSP_UPGRADE_FAILED);
  EXPECT_EQ(up.error(), PSP_UPGRADE_ERROR_TIMEOUT);
  EXPECT_THAT(up.message(), HasSubstr("without the peer's offer"));
  EXPECT_EQ(fcntl(link.client->fd, F_GETFL) & O_NONBLOCK, 0);
}

TEST(TlsApi, ANonBlockingSocketIsDrivenByWants) {
  Link link;
  for (const auto& end : {&link.client, &link.server}) fcntl((*end)->fd, F_SETFL, O_NONBLOCK);
  Upgrade client(link.client->ssl, nobody(PSP_UPGRADE_PREFERRED));
  Upgrade server(link.server->ssl, nobody(PSP_UPGRADE_PREFERRED));
  EXPECT_EQ(client.step(), PSP_UPGRADE_WANT_READ);
  EXPECT_EQ(client.message(), "the peer's offer");
  EXPECT_EQ(server.step(), PSP_UPGRADE_TLS);
  EXPECT_EQ(client.step(), PSP_UPGRADE_TLS);
}

TEST(TlsApi, OptionsThatMakeNoSenseAreUsageErrors) {
  Link link;
  std::vector<std::pair<Options, const char*>> table(4);
  table[0].first.protocol = "ike";
  table[0].second = "\"ike\"";
  table[1].first.policy = 7;
  table[1].second = "policy";
  table[2].first.protocol = "fizz-v0";
  table[2].first.versions = 3;
  table[2].second = "exactly one";
  table[3].first.protocol = "kernel-selftest";
  table[3].first.versions = 1;
  table[3].second = "without TLS";
  for (auto& [options, words] : table) {
    options.pspd = kNobody;
    Upgrade up(link.client->ssl, options);
    EXPECT_EQ(up.step(), PSP_UPGRADE_FAILED);
    EXPECT_EQ(up.error(), PSP_UPGRADE_ERROR_USAGE);
    EXPECT_THAT(up.message(), HasSubstr(words));
    EXPECT_EQ(up.pending(), 0u);
    EXPECT_FALSE(up.info());
  }
  psp_upgrade_options clear = nobody();
  struct psp_upgrade_state* const up = psp_upgrade_new_clear(link.client->fd, &clear);
  EXPECT_EQ(psp_upgrade(up), PSP_UPGRADE_FAILED);
  EXPECT_THAT(psp_upgrade_message(up), HasSubstr("exactly one"));
  psp_upgrade_free(up);
}

TEST(TlsApi, AnOlderCallersShorterOptionsAreTaken) {
  Link link;
  psp_upgrade_options old = nobody();
  old.size = offsetof(psp_upgrade_options, protocol);
  old.protocol = "from behind the end";
  struct psp_upgrade_state* const up = psp_upgrade_new(link.client->ssl, &old);
  fcntl(link.client->fd, F_SETFL, O_NONBLOCK);
  EXPECT_EQ(psp_upgrade(up), PSP_UPGRADE_WANT_READ);
  psp_upgrade_free(up);
}

TEST(TlsApi, WithoutThePeersAnnouncementItStaysOnTlsAtOnce) {
  Link one(true, false), both(true, true), none;
  EXPECT_EQ(psp_upgrade_announced(one.client->ssl), 0);
  EXPECT_EQ(psp_upgrade_announced(one.server->ssl), -1);
  EXPECT_EQ(psp_upgrade_announced(both.client->ssl), 1);
  EXPECT_EQ(psp_upgrade_announced(both.server->ssl), 1);
  EXPECT_EQ(psp_upgrade_announced(none.client->ssl), -1);
  Upgrade up(one.client->ssl, nobody(PSP_UPGRADE_PREFERRED));
  EXPECT_EQ(up.step(), PSP_UPGRADE_TLS);
  EXPECT_THAT(up.message(), HasSubstr("did not announce"));
  EXPECT_EQ(psp_upgrade_announce(one.client->ctx), -EINVAL) << "twice";
}

// goes_through calls `body` with ever more memory until it has enough; false: an exception left.
bool goes_through(const std::function<bool()>& body) {
  for (int allocations = 0; allocations < 10000; ++allocations) {
    memory_left = allocations;
    try {
      const bool done = body();
      const bool enough = memory_left > 0;
      memory_left = -1;
      if (done || enough) return true;
    } catch (...) {
      memory_left = -1;
      return false;
    }
  }
  return false;
}

TEST(TlsApi, NoExceptionLeavesWhereverMemoryEnds) {
  const Options options = nobody(PSP_UPGRADE_PREFERRED);
  psp_error error = PSP_ERROR_INIT;
  EXPECT_TRUE(goes_through([&] { return psp_rotation_new(kNobody, &error) != nullptr; }));
  Link link;
  EXPECT_TRUE(goes_through([&] {
    psp_upgrade_state* const up = psp_upgrade_new(link.client->ssl, &options);
    psp_upgrade_free(up);
    return up != nullptr;
  }));
  EXPECT_TRUE(goes_through([&] {
    psp_upgrade_state* const up = psp_upgrade_new_clear(link.client->fd, &options);
    psp_upgrade_free(up);
    return up != nullptr;
  }));
  for (const int timeout_ms : {0, 1}) {
    unsigned failed = 0;
    EXPECT_TRUE(goes_through([&] {
      const int left = std::exchange(memory_left, -1);  // the link is the test's
      Link each;
      psp_upgrade_state* const up = psp_upgrade_new(each.client->ssl, &options);
      memory_left = left;
      const int status = psp_upgrade_run(up, timeout_ms);
      const bool enough = memory_left > 0;
      memory_left = -1;
      failed += !enough && status == PSP_UPGRADE_FAILED;
      psp_upgrade_free(up);
      return enough;
    }));
    EXPECT_GT(failed, 0u);
  }
}

TEST(TlsApi, AnOlderSmallerInfoIsFilledNoFurtherThanItsSize) {
  Link link;
  const Options options = nobody(PSP_UPGRADE_PREFERRED);
  psp_upgrade_state* const up = psp_upgrade_new(link.client->ssl, &options);
  for (const std::size_t size : {std::size_t{0}, offsetof(psp_upgrade_info, tx_spi)}) {
    psp_upgrade_info info;
    std::memset(&info, 0x5a, sizeof info);
    info.size = size;
    EXPECT_EQ(psp_upgrade_get_info(up, &info), -EINVAL) << "before its end";
    EXPECT_EQ(info.dev_id, size == 0 ? 0x5a5a5a5au : 0u);
    EXPECT_EQ(info.tx_spi, 0x5a5a5a5au);
    EXPECT_EQ(info.size, size);
  }
  psp_upgrade_free(up);
}

TEST(TlsApi, AWatchWithoutPspdSaysWhy) {
  std::string why;
  EXPECT_FALSE(Rotation::watch(&why, kNobody));
  EXPECT_THAT(why, HasSubstr("no pspd answers"));
}

}  // namespace
}  // namespace psp::tls
