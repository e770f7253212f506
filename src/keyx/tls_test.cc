// SPDX-License-Identifier: Apache-2.0
//
// Who is let in: certificates with right and wrong names and authorities, pre-shared keys, first
// use. The certificates are made here, so that none can expire in the tree. Each pair of ends
// shakes hands over loopback and exchanges keys; both verdicts and both sentences are looked at.
// For each rule there is one who is just right and one who is just not. Revocation is not looked
// at, here or there.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include "test_peer.hh"

namespace psp::keyx {
namespace {

using test::Bytes;
using test::drive;
using test::ModelOps;
using test::Side;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Free {
  void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
  void operator()(X509* p) const { X509_free(p); }
  void operator()(X509_EXTENSION* p) const { X509_EXTENSION_free(p); }
  void operator()(std::FILE* p) const { std::fclose(p); }
};

// Authority signs certificates into files of a directory.
class Authority {
 public:
  Authority(const std::string& directory, const std::string& common_name)
      : directory_(directory), key_(EVP_EC_gen("P-256")) {
    certificate_ = make(common_name, key_.get(), nullptr, nullptr, "");
    write_certificate(file(common_name + ".pem"), certificate_.get());
  }
  // issue writes NAME.pem and NAME.key; `san` is for example "DNS:localhost,IP:127.0.0.1".
  void issue(const std::string& common_name, const std::string& san) const {
    const std::unique_ptr<EVP_PKEY, Free> key(EVP_EC_gen("P-256"));
    const auto leaf = make(common_name, key.get(), certificate_.get(), key_.get(), san);
    write_certificate(file(common_name + ".pem"), leaf.get());
    const std::unique_ptr<std::FILE, Free> out(std::fopen(file(common_name + ".key").c_str(), "w"));
    PEM_write_PrivateKey(out.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr);
    chmod(file(common_name + ".key").c_str(), 0600);
  }

 private:
  std::string file(const std::string& name) const { return directory_ + "/" + name; }
  static void write_certificate(const std::string& path, X509* certificate) {
    const std::unique_ptr<std::FILE, Free> out(std::fopen(path.c_str(), "w"));
    PEM_write_X509(out.get(), certificate);
  }
  static void extend(X509* x, X509* issuer, int nid, const std::string& value) {
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, issuer, x, nullptr, nullptr, 0);
    const std::unique_ptr<X509_EXTENSION, Free> extension(
        X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
    ASSERT_TRUE(extension) << value;
    X509_add_ext(x, extension.get(), -1);
  }
  static std::unique_ptr<X509, Free> make(const std::string& common_name, EVP_PKEY* key,
                                          X509* issuer, EVP_PKEY* issuer_key,
                                          const std::string& san) {
    static long serial = 1;
    std::unique_ptr<X509, Free> x(X509_new());
    X509_set_version(x.get(), X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x.get()), serial++);
    X509_gmtime_adj(X509_getm_notBefore(x.get()), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x.get()), 86400);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x.get()), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(common_name.c_str()), -1, -1,
                               0);
    X509_set_issuer_name(x.get(), X509_get_subject_name(issuer != nullptr ? issuer : x.get()));
    X509_set_pubkey(x.get(), key);
    extend(x.get(), issuer != nullptr ? issuer : x.get(), NID_basic_constraints,
           issuer != nullptr ? "CA:FALSE" : "critical,CA:TRUE");
    if (!san.empty()) extend(x.get(), issuer, NID_subject_alt_name, san);
    X509_sign(x.get(), issuer_key != nullptr ? issuer_key : key, EVP_sha256());
    return x;
  }

  std::string directory_;
  std::unique_ptr<EVP_PKEY, Free> key_;
  std::unique_ptr<X509, Free> certificate_;
};

class Tls : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    char name[] = "/tmp/psp-tls-test-XXXXXX";
    directory_ = mkdtemp(name);
    const Authority ours(directory_, "ours"), theirs(directory_, "theirs");
    ours.issue("server", "DNS:localhost,IP:127.0.0.1");
    ours.issue("client", "DNS:client");
    theirs.issue("stranger", "DNS:localhost");
    ours.issue("localhost", "");
    ours.issue("elsewhere", "DNS:elsewhere,DNS:10.0.0.9");
    ours.issue("whole", "DNS:*.one.example");
    ours.issue("partial", "DNS:h*.one.example");
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(directory_); }

  static std::string file(const std::string& name) { return directory_ + "/" + name; }
  static std::string write(const std::string& name, const std::string& content,
                           mode_t mode = 0600) {
    std::ofstream(file(name)) << content;
    chmod(file(name).c_str(), mode);
    return file(name);
  }
  static TlsOptions server_options() {
    return {.server = true, .cert_file = file("server.pem"), .key_file = file("server.key")};
  }

  struct Result {
    // The first error of each side, in the handshake or in the exchange behind it.
    std::optional<Error> client, server;
    bool client_knows_peer = false, server_knows_peer = false;
  };
  // talk lets two ends meet: handshake, then exchange. In TLS 1.3 a client learns that its
  // certificate is refused only when it reads.
  static Result talk(const TlsOptions& client_options, const TlsOptions& server_options,
                     const std::string& name = "localhost") {
    Result result;
    const auto client_context = make_context(client_options);
    const auto server_context = make_context(server_options);
    EXPECT_TRUE(client_context) << client_context.error().message;
    EXPECT_TRUE(server_context) << server_context.error().message;
    auto [near, far] = test::tcp_pair();
    Side client(*client_context, std::move(near), name), server(*server_context, std::move(far));
    const auto [a, b] = test::shake(client, server);
    if (!a) result.client = a.error();
    if (!b) result.server = b.error();
    ModelOps ops;
    Exchange x(client.ssl.get(), ops, {}), y(server.ssl.get(), ops, {});
    if (!b) shutdown(server.fd.get(), SHUT_WR);
    if (a && b) {
      result.client_knows_peer = peer_authenticated(*client_context, client.ssl.get());
      result.server_knows_peer = peer_authenticated(*server_context, server.ssl.get());
      EXPECT_EQ(drive(x, client, y, server), std::pair(Step::kDone, Step::kDone));
    } else if (a && test::run(x, client) == Step::kFailed) {
      result.client = x.error();
    }
    return result;
  }
  static std::string directory_;
};
std::string Tls::directory_;

TEST_F(Tls, ACertificateForTheNameAndFromTheAuthorityIsAccepted) {
  const auto result = talk({.ca_file = file("ours.pem")}, server_options());
  EXPECT_FALSE(result.client) << result.client->message;
  EXPECT_FALSE(result.server) << result.server->message;
  EXPECT_TRUE(result.client_knows_peer);
  EXPECT_FALSE(result.server_knows_peer);
}

TEST_F(Tls, ACertificateForTheAddressIsAccepted) {
  const auto result = talk({.ca_file = file("ours.pem")}, server_options(), "127.0.0.1");
  EXPECT_FALSE(result.client) << result.client->message;
}

TEST_F(Tls, ACertificateForAnotherNameOrAddressIsRefused) {
  for (const char* name : {"example.org", "127.0.0.2", "::1"}) {
    const auto result = talk({.ca_file = file("ours.pem")}, server_options(), name);
    ASSERT_TRUE(result.client) << name;
    EXPECT_EQ(result.client->code, ErrorCode::kAuthentication);
    EXPECT_THAT(result.client->message, HasSubstr("another name"));
    EXPECT_EQ(result.server->code, ErrorCode::kAuthentication) << result.server->message;
  }
}

TEST_F(Tls, AServerIsItsSubjectAltNameAndAWildCardThereIsOneWholeLabel) {
  const auto accepted = [](const std::string& certificate, const std::string& name) {
    return !talk({.ca_file = file("ours.pem")},
                 {.server = true,
                  .cert_file = file(certificate + ".pem"),
                  .key_file = file(certificate + ".key")},
                 name)
                .client;
  };
  EXPECT_TRUE(accepted("whole", "host.one.example"));
  EXPECT_FALSE(accepted("whole", "one.example"));
  EXPECT_FALSE(accepted("whole", "a.host.one.example"));
  EXPECT_FALSE(accepted("partial", "host.one.example"));
  EXPECT_FALSE(accepted("localhost", "localhost")) << "it is the subject only";
}

TEST_F(Tls, ANameThatStandsForManyIsNoPeer) {
  const auto context = make_context({.ca_file = file("ours.pem")});
  ASSERT_TRUE(context);
  auto [near, far] = test::tcp_pair();
  for (const char* name : {"", ".", ".example", "*.example", "h*.example"}) {
    EXPECT_FALSE(check_peer_name(name)) << name;
    const auto made = make_connection(*context, near.get(), name);
    ASSERT_FALSE(made) << name;
    EXPECT_EQ(made.error().code, ErrorCode::kUsage);
  }
}

TEST_F(Tls, AClientIsNamedExactlyByItsSubjectAltName) {
  const auto named = [](const std::string& certificate, const std::string& name) {
    const std::unique_ptr<std::FILE, Free> in(std::fopen(file(certificate + ".pem").c_str(), "r"));
    const std::unique_ptr<X509, Free> x(PEM_read_X509(in.get(), nullptr, nullptr, nullptr));
    return certificate_names(x.get(), name);
  };
  EXPECT_TRUE(named("server", "localhost"));
  EXPECT_TRUE(named("server", "127.0.0.1"));
  EXPECT_TRUE(named("client", "CLIENT")) << "as DNS has it";
  EXPECT_FALSE(named("localhost", "localhost")) << "it is the subject only";
  EXPECT_FALSE(named("whole", "host.one.example"));
  EXPECT_FALSE(named("whole", "*.one.example"));
  EXPECT_FALSE(named("whole", ".one.example"));
  EXPECT_FALSE(named("partial", "host.one.example"));
  EXPECT_FALSE(named("elsewhere", "10.0.0.9")) << "an address is no DNS name";
}

TEST_F(Tls, ACertificateOfAnotherAuthorityIsRefused) {
  const auto result =
      talk({.ca_file = file("ours.pem")},
           {.server = true, .cert_file = file("stranger.pem"), .key_file = file("stranger.key")});
  ASSERT_TRUE(result.client);
  EXPECT_EQ(result.client->code, ErrorCode::kAuthentication);
  EXPECT_THAT(result.client->message, HasSubstr("not one that this end believes"));
}

TEST_F(Tls, AServerWithAnAuthorityLetsInWhoHasItsCertificateAndNobodyElse) {
  TlsOptions server = server_options();
  server.ca_file = file("ours.pem");
  const TlsOptions none{.ca_file = file("ours.pem")};
  TlsOptions right = none, wrong = none;
  right.cert_file = file("client.pem");
  right.key_file = file("client.key");
  wrong.cert_file = file("stranger.pem");
  wrong.key_file = file("stranger.key");

  const auto good = talk(right, server);
  EXPECT_FALSE(good.client || good.server);
  EXPECT_TRUE(good.server_knows_peer);
  for (const TlsOptions& bad : {none, wrong}) {
    const auto result = talk(bad, server);
    ASSERT_TRUE(result.server && result.client);
    EXPECT_EQ(result.server->code, ErrorCode::kAuthentication) << result.server->message;
    EXPECT_EQ(result.client->code, ErrorCode::kAuthentication) << result.client->message;
  }
}

TEST_F(Tls, TheSamePskOnBothEndsAuthenticatesBoth) {
  const std::string hex = write("psk.hex", "00112233445566778899aabbccddeeff\n");
  const std::string base64 = write("psk.b64", "ABEiM0RVZneImaq7zN3u/w==\n");
  const auto result = talk({.psk_file = hex}, {.server = true, .psk_file = base64});
  EXPECT_FALSE(result.client) << result.client->message;
  EXPECT_FALSE(result.server) << result.server->message;
  EXPECT_TRUE(result.client_knows_peer);
  EXPECT_TRUE(result.server_knows_peer);
}

TEST_F(Tls, AnotherPskIsRefusedOnBothEnds) {
  const auto result =
      talk({.psk_file = write("one", "00112233445566778899aabbccddeeff")},
           {.server = true, .psk_file = write("two", "00112233445566778899aabbccddeefe")});
  ASSERT_TRUE(result.client && result.server);
  EXPECT_EQ(result.client->code, ErrorCode::kAuthentication) << result.client->message;
  EXPECT_EQ(result.server->code, ErrorCode::kAuthentication) << result.server->message;
  EXPECT_THAT(result.server->message, HasSubstr("different pre-shared key"));
}

TEST_F(Tls, APskNeverFallsBackToCertificates) {
  const std::string psk = write("psk", "00112233445566778899aabbccddeeff");
  const TlsOptions first_client{.first_use = true}, first_server{.server = true, .first_use = true};
  for (const auto& [client, server] :
       {std::pair(TlsOptions{.psk_file = psk}, first_server),
        std::pair(TlsOptions{.psk_file = psk}, server_options()),
        std::pair(first_client, TlsOptions{.server = true, .psk_file = psk})}) {
    const auto result = talk(client, server);
    ASSERT_TRUE(result.client && result.server);
    EXPECT_EQ(result.client->code, ErrorCode::kAuthentication) << result.client->message;
    EXPECT_EQ(result.server->code, ErrorCode::kAuthentication) << result.server->message;
  }
}

TEST_F(Tls, FirstUseShowsTheSameFingerprintsOnBothEndsAndClaimsNothing) {
  auto [near, far] = test::tcp_pair();
  Side client(test::first_use_context(false), std::move(near));
  Side server(test::first_use_context(true), std::move(far));
  const auto [a, b] = test::shake(client, server);
  ASSERT_TRUE(a && b);
  EXPECT_EQ(peer_fingerprint(client.ssl.get()), server.context->own_fingerprint);
  EXPECT_EQ(peer_fingerprint(server.ssl.get()), client.context->own_fingerprint);
  EXPECT_EQ(server.context->own_fingerprint.size(), 32 * 3 - 1);
  EXPECT_NE(client.context->own_fingerprint, server.context->own_fingerprint);
  EXPECT_FALSE(peer_authenticated(*client.context, client.ssl.get()));
  EXPECT_FALSE(peer_authenticated(*server.context, server.ssl.get()));
}

TEST_F(Tls, TheEndOfAPeerThatSpeaksNoTlsIsSaidSo) {
  auto [near, far] = test::tcp_pair();
  Side client(test::first_use_context(false), std::move(near));
  EXPECT_EQ(send(far.get(), "hello\r\n", 7, 0), 7);
  std::expected<Step, Error> result = Step::kWantRead;
  for (int i = 0; i < 1000 && result && *result != Step::kDone; ++i) {
    result = handshake(*client.context, client.ssl.get());
    usleep(100);
  }
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kProtocol);
  EXPECT_THAT(result.error().message, HasSubstr("does not speak TLS"));
}

TEST_F(Tls, AnEndOfFileInTheHandshakeIsAClosedPeer) {
  auto [near, far] = test::tcp_pair();
  Side client(test::first_use_context(false), std::move(near));
  ASSERT_TRUE(handshake(*client.context, client.ssl.get()));
  shutdown(far.get(), SHUT_WR);
  ASSERT_TRUE(test::wait_readable(client.fd.get()));
  const auto result = handshake(*client.context, client.ssl.get());
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kPeerClosed);
}

TEST_F(Tls, WhoeverSendsWithoutEndInTheHandshakeEndsNoStepLate) {
  // Anybody on the way can: these records are in clear, and OpenSSL skips them one after the other.
  auto [near, far] = test::tcp_pair();
  Side client(test::first_use_context(false), std::move(near));
  ASSERT_EQ(*handshake(*client.context, client.ssl.get()), Step::kWantRead);
  const Bytes hello_request{22, 3, 3, 0, 4, 0, 0, 0, 0};
  Bytes many;
  for (unsigned i = 0; i < 5000; ++i)
    many.insert(many.end(), hello_request.begin(), hello_request.end());
  ASSERT_EQ(send(far.get(), many.data(), many.size(), 0), static_cast<ssize_t>(many.size()));
  ASSERT_TRUE(test::wait_readable(client.fd.get()));
  const auto step = handshake(*client.context, client.ssl.get());
  ASSERT_TRUE(step) << step.error().message;
  EXPECT_EQ(*step, Step::kWantRead);
  EXPECT_GT(test::unread(client.fd.get()), 0);
}

TEST_F(Tls, SettingsThatDoNotFitTogetherAreUsageErrors) {
  const TlsOptions table[] = {
      {},
      {.ca_file = file("ours.pem"), .first_use = true},
      {.psk_file = file("psk"), .first_use = true},
      {.cert_file = file("client.pem"), .ca_file = file("ours.pem")},
      {.cert_file = file("client.pem"), .key_file = file("client.key")},
      {.server = true, .ca_file = file("ours.pem")},
      {.server = true, .cert_file = file("server.pem"), .key_file = file("client.key")},
      {.ca_file = file("absent.pem")},
      {.psk_file = file("absent")},
      {.psk_file = write("short", "0123456789abcde\n")},
  };
  for (const TlsOptions& options : table) {
    const auto context = make_context(options);
    ASSERT_FALSE(context) << &options - table;
    EXPECT_EQ(context.error().code, ErrorCode::kUsage);
    EXPECT_THAT(context.error().message, ::testing::Not(HasSubstr("no reason given")));
    EXPECT_THAT(context.error().message, ::testing::Not(HasSubstr("system lib")));
  }
}

TEST_F(Tls, ASecretThatOthersCanReadIsWarnedOf) {
  const std::string text = "00112233445566778899aabbccddeeff";
  const auto tight = make_context({.psk_file = write("tight", text, 0600)});
  const auto loose = make_context({.psk_file = write("loose", text, 0644)});
  ASSERT_TRUE(tight && loose);
  EXPECT_THAT(tight->warnings, IsEmpty());
  ASSERT_EQ(loose->warnings.size(), 1u);
  EXPECT_THAT(loose->warnings[0], HasSubstr("chmod 600"));
}

Bytes decoded(const std::string& text) {
  const auto psk = decode_psk({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  return psk ? Bytes(psk->span().begin(), psk->span().end()) : Bytes{};
}

TEST(Psk, HexBase64AndRawAreTold) {
  const Bytes octets{0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
                     0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff};
  EXPECT_EQ(decoded("00112233445566778899aabbccddeeff"), octets);
  EXPECT_EQ(decoded(" 00112233445566778899AABBCCDDEEFF \r\n"), octets);
  EXPECT_EQ(decoded("ABEiM0RVZneImaq7zN3u/w==\n"), octets);
  const std::string raw = "sixteen octets!!";
  EXPECT_EQ(decoded(raw), Bytes(raw.begin(), raw.end()));
  EXPECT_EQ(decoded(raw + "\n"), Bytes(raw.begin(), raw.end()));
  const std::string zeros(16, '\0');
  EXPECT_EQ(decoded(zeros), Bytes(16, 0));
}

TEST(Psk, TooShortOrTooLongIsRefused) {
  EXPECT_EQ(decoded(""), Bytes{});
  EXPECT_EQ(decoded("00112233445566"), Bytes{});
  EXPECT_EQ(decoded("fifteen octets!"), Bytes{});
  EXPECT_EQ(decoded(std::string(512, '!')).size(), 512u);
  EXPECT_EQ(decoded(std::string(513, '!')), Bytes{});
}

}  // namespace
}  // namespace psp::keyx
