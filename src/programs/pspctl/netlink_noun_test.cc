// SPDX-License-Identifier: Apache-2.0
//
// pspctl netlink: every operation by its names, values in all their ways of writing, and no key
// where it does not belong.
//
// Values go through octets and back, and must be what they were: that is the oracle for the coding.
// Requests go to the real server over fakes, so a refusal has the server's own words. That the
// kernel takes the same octets is not shown here.
#include <cstdio>
#include <sys/socket.h>
#include <unistd.h>

#include "netlink/spec.hh"

#include "attribute_json.hh"
#include "pspctl_fixture.hh"

namespace psp::ctl {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;
using ::testing::Not;

const netlink::spec::AttributeSet& set_of(std::string_view operation) {
  return *netlink::spec::find_operation(operation)->attributes;
}

// twice is `text` after a way through octets.
std::string twice(std::string_view operation, const std::string& text) {
  Json object = Json::parse(text);
  AttributeOctets octets;
  const auto encoded = encode(object, set_of(operation), "", octets);
  if (!encoded) return encoded.error().message;
  return decode(octets.span(), set_of(operation), true).dump();
}

TEST(AttributeJson, TakesEveryTypeThereAndBack) {
  EXPECT_EQ(twice("dev-get", R"({"id":4294967295,"psp-versions-ena":[],"nsid":-2147483648})"),
            R"({"id":4294967295,"psp-versions-ena":[],"nsid":-2147483648})");
  EXPECT_EQ(twice("dev-get", R"({"by-association":true})"), R"({"by-association":true})");
  EXPECT_EQ(twice("dev-get", R"({"by-association":false})"), "{}");
  EXPECT_EQ(twice("dev-get", R"({"assoc-list":[{"ifindex":1,"nsid":-1},{"ifindex":2}]})"),
            R"({"assoc-list":[{"ifindex":1,"nsid":-1},{"ifindex":2}]})");
  EXPECT_EQ(twice("tx-assoc", R"({"tx-key":{"key":"00fFA0","spi":7}})"),
            R"({"tx-key":{"key":"00ffa0","spi":7}})");
  EXPECT_EQ(twice("get-stats", R"({"rx-bytes":18446744073709551615,"tx-bytes":4294967295})"),
            R"({"rx-bytes":18446744073709551615,"tx-bytes":4294967295})");
}

TEST(AttributeJson, KnowsEnumerationsByNameAndNumber) {
  EXPECT_EQ(twice("rx-assoc", R"({"version":"hdr0-aes-gmac-128"})"),
            R"({"version":"hdr0-aes-gmac-128"})");
  EXPECT_EQ(twice("rx-assoc", R"({"version":1})"), R"({"version":"hdr0-aes-gcm-256"})");
  EXPECT_EQ(twice("rx-assoc", R"({"version":9})"), R"({"version":9})");
  const std::string both = R"({"psp-versions-ena":["hdr0-aes-gcm-128","hdr0-aes-gmac-256"]})";
  EXPECT_EQ(twice("dev-set", R"({"psp-versions-ena":9})"), both);
  EXPECT_EQ(twice("dev-set", both), both);
  EXPECT_EQ(twice("dev-set", R"({"psp-versions-ena":"hdr0-aes-gcm-256"})"),
            R"({"psp-versions-ena":["hdr0-aes-gcm-256"]})");
  EXPECT_EQ(twice("dev-set", R"({"psp-versions-ena":33})"),
            R"({"psp-versions-ena":["hdr0-aes-gcm-128",5]})");
}

TEST(AttributeJson, SaysWhereAValueIsWrong) {
  EXPECT_EQ(twice("dev-get", R"({"id":4294967296})"), ".id: not a number from 0 to 4294967295");
  EXPECT_EQ(twice("dev-get", R"({"id":1.5})"), ".id: not a number from 0 to 4294967295");
  EXPECT_EQ(twice("dev-get", R"({"nsid":-2147483649})"),
            ".nsid: not a number from -2147483648 to 2147483647");
  EXPECT_EQ(twice("dev-get", R"({"by-association":1})"), ".by-association: neither true nor false");
  EXPECT_EQ(twice("dev-get", R"({"assoc-list":[{"frob":1}]})"),
            ".assoc-list.frob: no such attribute (ifindex, nsid)");
  EXPECT_EQ(twice("tx-assoc", R"({"tx-key":[]})"), ".tx-key: not a JSON object");
  for (const char* key : {R"("0")", R"("0x")", R"("zz")", "1"})
    EXPECT_EQ(twice("tx-assoc", std::string(R"({"tx-key":{"key":)") + key + "}}"),
              ".tx-key.key: not hex digits");
  EXPECT_THAT(twice("rx-assoc", R"({"version":"aes"})"), HasSubstr(".version: neither a number"));
}

TEST(AttributeJson, ReadsAnswersThatAreNewerOrBroken) {
  const auto& dev = set_of("dev-get");
  // Attribute 40 is unknown; id has two octets; the last header says more than there is.
  const std::vector<std::uint8_t> octets = {6, 0, 40, 0, 0xab, 0xcd, 0, 0, 6, 0, 1,
                                            0, 1, 2,  0, 0,    9,    0, 2, 0, 1, 2};
  EXPECT_EQ(decode(octets, dev, true).dump(), R"({"40":"abcd","id":"0102"})");
  EXPECT_EQ(decode(octets, dev, false).dump(), R"({"40":null,"id":"0102"})");
}

TEST_F(Pspctl, AsksAnyOperationByName) {
  pspd.start();
  EXPECT_EQ(text({"netlink", "dev-get", "--json", R"({"id":2})"}),
            R"({"id":2,"ifindex":424242,"psp-versions-cap":["hdr0-aes-gcm-128",)"
            R"("hdr0-aes-gcm-256"],"psp-versions-ena":[]})"
            "\n");
  EXPECT_EQ(Json::parse(text({"netlink", "dev-get", "--dump"})).size(), 2u);
  EXPECT_EQ(text({"netlink", "dev-set", "--json", R"({"id":2,"psp-versions-ena":2})"}), "{}\n");
  EXPECT_EQ(json({"dev", "show", "id", "2"})[0]["psp-versions-ena"][0], "hdr0-aes-gcm-256");
  EXPECT_EQ(text({"netlink", "key-rotate", "--json", R"({"id":1})"}), "{\"id\":1}\n");
  EXPECT_EQ(Json::parse(text({"net", "get-stats", "--json", R"({"dev-id":1})"}))["rx-bytes"],
            1ull << 40);
  EXPECT_THAT(text({"-p", "netlink", "dev-get", "--json={\"id\":2}"}),
              testing::StartsWith("{\n    \"id\": 2,\n"));
}

TEST_F(Pspctl, ReadsTheRequestOfAFileOrStandardInput) {
  pspd.start();
  const std::string request = R"({"id":2})";
  const std::string expected = text({"netlink", "dev-get", "--json", request});
  for (const char* name : {"-", "@-"})
    EXPECT_EQ(call_pspd({"netlink", "dev-get", "--json", name}, {.in = request}).out, expected);
  char path[] = "/tmp/pspctl-test-XXXXXX";
  const UniqueFd file(mkstemp(path));
  ASSERT_EQ(write(file.get(), request.data(), request.size()), std::ssize(request));
  EXPECT_EQ(text({"netlink", "dev-get", "--json", std::string("@") + path}), expected);
  unlink(path);
  EXPECT_THAT(call_pspd({"netlink", "dev-get", "--json", std::string("@") + path}).err,
              HasSubstr(": No such file or directory\n"));
  const std::string long_one(65536, ' ');
  EXPECT_THAT(call_pspd({"netlink", "dev-get", "--json", "-"}, {.in = long_one}).err,
              HasSubstr("--json -: too long"));
}

TEST_F(Pspctl, SecuresASocketThatItInherits) {
  pspd.sockets.sockets[FakePspd::kPassedFd].info = {
      .cookie = 5, .route_ifindex = 1, .established = true};
  pspd.start();
  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM, 0));
  const std::string fd = std::to_string(socket.get());
  const auto rx =
      Json::parse(text({"netlink", "rx-assoc", "--json", R"({"version":0,"sock-fd":)" + fd + "}"}));
  EXPECT_EQ(rx["dev-id"], 1);
  EXPECT_TRUE(rx["rx-key"]["key"].is_null());  // not without being asked for it
  EXPECT_EQ(rx["rx-key"]["spi"], 1);
  const std::string tx = R"({"version":0,"sock-fd":)" + fd +
                         R"(,"tx-key":{"spi":9,"key":"000102030405060708090a0b0c0d0e0f"}})";
  EXPECT_EQ(call_pspd({"netlink", "tx-assoc", "--json", "-"}, {.in = tx}).out, "{}\n");
  ASSERT_EQ(pspd.driver.added.size(), 1u);
  EXPECT_EQ(pspd.driver.added[0].key[15], 0x0f);
}

TEST_F(Pspctl, ShowsAKeyOnlyIfAskedTo) {
  pspd.sockets.sockets[FakePspd::kPassedFd].info = {
      .cookie = 5, .route_ifindex = 1, .established = true};
  pspd.start();
  const auto rx = Json::parse(text({"netlink", "rx-assoc", "--show-keys", "--json",
                                    R"({"version":"hdr0-aes-gcm-256","sock-fd":0})"}));
  EXPECT_EQ(rx["rx-key"]["key"],
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
}

TEST_F(Pspctl, TakesNoKeyFromTheCommandLine) {
  pspd.start();
  const Result result =
      call_pspd({"netlink", "tx-assoc", "--json", R"({"tx-key":{"spi":9,"key":"c0ffee"}})"});
  EXPECT_EQ(result.status, ExitStatus::kUsage);
  EXPECT_EQ(result.err,
            "pspctl: error: tx-assoc: --json: a key on the command line is there for all to see; "
            "use --json @FILE or --json -\n");
  // Nor does an error quote one.
  const Result broken = call_pspd({"netlink", "tx-assoc", "--json", "-"},
                                  {.in = R"({"tx-key":{"spi":9,"key":"c0ffee)"});
  EXPECT_EQ(broken.status, ExitStatus::kUsage);
  EXPECT_THAT(broken.err, Not(HasSubstr("c0ffee")));
}

TEST_F(Pspctl, GivesTheWordsOfARefusedOperation) {
  pspd.net_admin = false;
  pspd.start();
  const auto refused = [this](const char* operation, const char* request, ExitStatus status,
                              const std::string& error) {
    fails({"netlink", operation, "--json", request}, status, error);
  };
  refused("dev-get", "{}", ExitStatus::kFailed,
          "dev-get: Invalid argument (missing attribute .id)");
  refused("dev-get", R"({"id":0})", ExitStatus::kFailed,
          "dev-get: integer out of range (bad attribute .id)");
  refused("dev-get", R"({"id":7})", ExitStatus::kFailed, "dev-get: No such device");
  refused("rx-assoc", R"({"version":0,"sock-fd":0})", ExitStatus::kFailed,
          "rx-assoc: Bad file descriptor");
  refused("dev-get", R"({"id":1,"nsid":3})", ExitStatus::kFailed,
          "dev-get: Unknown attribute type (bad attribute .nsid)");
  refused("key-rotate", R"({"id":1})", ExitStatus::kPermission,
          "key-rotate: Operation not permitted");
  fails({"netlink", "key-rotate", "--dump"}, ExitStatus::kNotSupported,
        "key-rotate: Operation not supported");
}

TEST_F(Pspctl, RefusesRequestsThatAreNone) {
  pspd.start();
  fails({"netlink"}, ExitStatus::kUsage, "OP is missing");
  fails({"netlink", "frob"}, ExitStatus::kUsage,
        "\"frob\" is no operation; see pspctl netlink help");
  fails({"netlink", "key-rotate-ntf"}, ExitStatus::kUsage,
        "\"key-rotate-ntf\" is a notification; see pspctl monitor");
  fails({"netlink", "dev-get", "{}"}, ExitStatus::kUsage, "\"{}\" is not expected here");
  fails({"netlink", "dev-get", "--json", "{\"id\":1"}, ExitStatus::kUsage,
        "dev-get: --json: no JSON from octet 8 on");
  fails({"netlink", "dev-get", "--json", "[1]"}, ExitStatus::kUsage,
        "dev-get: --json: not a JSON object");
}

TEST(NetlinkHelp, ListsEveryOperationWithItsAttributes) {
  const std::string help = call({"netlink", "help"}).out;
  for (const auto& operation : netlink::spec::operations()) {
    if (operation.is_notification()) continue;
    EXPECT_THAT(help, HasSubstr("\n       " + std::string(operation.name) + " "));
  }
  EXPECT_THAT(help, HasSubstr("tx-assoc     dev-id version tx-key sock-fd\n"));
}

}  // namespace
}  // namespace psp::ctl
