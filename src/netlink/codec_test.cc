// SPDX-License-Identifier: Apache-2.0
//
// The writer's octets, and our answers to malformed requests beside those of the running kernel:
// the family `nlctrl` is the same on both, and `netdev` dev-get has the policy of `psp` dev-get, so
// all octets of the answers must be equal.
#include "netlink/codec.hh"

#include <algorithm>
#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "netlink/transport.hh"

#include "test_support.hh"

namespace psp::netlink {
namespace {

using testing::hex;
using testing::unhex;
using testing::World;

TEST(Writer, WritesIntegersInFourOrEightOctets) {
  Writer writer;
  writer.begin(0x30, 0, 1, 0, 10, 1);
  writer.put_uint(2, 0xffffffff);
  writer.put_uint(3, 0x100000000);
  ASSERT_TRUE(writer.end());
  EXPECT_EQ(hex(writer.octets()),
            "28000000300000000100000000000000"
            "0a010000"
            "08000200ffffffff"
            "0c0003000000000001000000");
}

TEST(Writer, PadsWithZeroAndMarksNests) {
  Writer writer;
  writer.begin(0x30, 0, 1, 0, 8, 1);
  nlattr* nest = writer.nest(3);
  writer.put_string(1, "ab");
  writer.end_nest(nest);
  ASSERT_TRUE(writer.end());
  EXPECT_EQ(hex(writer.octets()).substr(40), "0c0003800700010061620000");
}

TEST(Writer, TakesBackAMessageThatDoesNotFit) {
  Writer writer;
  writer.begin(0x30, 0, 1, 0, 1, 1);
  writer.put_u32(1, 1);
  ASSERT_TRUE(writer.end());
  const std::size_t before = writer.octets().size();
  writer.begin(0x30, 0, 1, 0, 1, 1);
  nlattr* nest = writer.nest(2);
  writer.put_octets(1, std::vector<std::uint8_t>(kMaxDatagram));
  writer.end_nest(nest);
  EXPECT_FALSE(writer.end());
  EXPECT_EQ(writer.octets().size(), before);
  EXPECT_EQ(writer.take().size(), before);
  EXPECT_TRUE(writer.empty());
}

TEST(Writer, FillsADatagramToTheLastOctet) {
  Writer writer;
  writer.begin(0x30, 0, 1, 0, 1, 1);
  writer.put_octets(1, std::vector<std::uint8_t>(kMaxDatagram - 24));
  EXPECT_TRUE(writer.end());
  EXPECT_EQ(writer.octets().size(), kMaxDatagram);
  writer.begin(0x30, 0, 1, 0, 1, 1);
  EXPECT_FALSE(writer.end());
}

TEST(PutError, ASocketWithoutExtAckHearsTheErrnoOnly) {
  const auto request = testing::message(0x30, 1, [](Writer& writer) { writer.put_u32(1, 7); });
  const auto* header = reinterpret_cast<const nlmsghdr*>(request.data());
  Writer writer;
  put_error(writer, header, -EINVAL, {.text = "no", .missing_type = 2}, /*ext_ack=*/false);
  EXPECT_EQ(testing::hex(writer.take()),
            "30000000020000000900000000000000"
            "eaffffff" +
                testing::hex(request));
}

TEST(PutError, ASocketWithCapAckGetsTheHeaderAlone) {
  const auto request = testing::message(0x30, 1, [](Writer& writer) { writer.put_u32(1, 7); });
  const auto* header = reinterpret_cast<const nlmsghdr*>(request.data());
  Writer writer;
  put_error(writer, header, -EINVAL, {.text = "no", .missing_type = 2}, true, /*cap_ack=*/true);
  EXPECT_EQ(testing::hex(writer.take()),
            "34000000020000030900000000000000"  // NLM_F_CAPPED, NLM_F_ACK_TLVS
            "eaffffff" +
                testing::hex(request).substr(0, 32) +
                "070001006e6f0000"
                "0800050002000000");
}

TEST(PutError, CapsARequestThatWouldNotFit) {
  auto request = testing::message(0x30, 1, [](Writer& writer) {
    writer.put_octets(1, std::vector<std::uint8_t>(kMaxDatagram - 24));
  });
  Writer writer;
  put_error(writer, reinterpret_cast<const nlmsghdr*>(request.data()), -EINVAL, {.text = "no"});
  const auto* answer = reinterpret_cast<const nlmsghdr*>(writer.octets().data());
  ASSERT_EQ(writer.octets().size(), 36u + 8);
  EXPECT_EQ(answer->nlmsg_flags, NLM_F_CAPPED | NLM_F_ACK_TLVS);
}

// KernelBeside asks the kernel and a Server the same thing.
class KernelBeside : public ::testing::Test {
 protected:
  void SetUp() override {
    socket_ = UniqueFd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC));
    if (!socket_) GTEST_SKIP() << "no NETLINK_GENERIC: " << std::strerror(errno);
    sockaddr_nl address = {};
    address.nl_family = AF_NETLINK;
    ASSERT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    socklen_t size = sizeof address;
    ASSERT_EQ(::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = address.nl_pid;
    const int on = 1;
    ASSERT_EQ(::setsockopt(socket_.get(), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on), 0);
  }

  // kernel_answers sends and collects what comes; the kernel answers before sendto returns.
  std::vector<std::vector<std::uint8_t>> kernel_answers(std::vector<std::uint8_t> request) {
    sockaddr_nl kernel = {};
    kernel.nl_family = AF_NETLINK;
    ::sendto(socket_.get(), request.data(), request.size(), 0, reinterpret_cast<sockaddr*>(&kernel),
             sizeof kernel);
    std::vector<std::vector<std::uint8_t>> answers;
    for (;;) {
      std::vector<std::uint8_t> buffer(65536);
      const ssize_t got = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (got <= 0) return answers;
      buffer.resize(static_cast<std::size_t>(got));
      answers.push_back(std::move(buffer));
    }
  }

  // A request with our port in it, so that the answers' port is the same from both.
  std::vector<std::uint8_t> request(std::uint16_t family, std::string_view body,
                                    std::uint16_t flags = NLM_F_REQUEST,
                                    std::optional<std::uint32_t> length = {}) const {
    const std::vector<std::uint8_t> octets = unhex(body);
    nlmsghdr header = {};
    header.nlmsg_len = length.value_or(static_cast<std::uint32_t>(NLMSG_HDRLEN + octets.size()));
    header.nlmsg_type = family;
    header.nlmsg_flags = flags;
    header.nlmsg_seq = 5;
    header.nlmsg_pid = port_;
    std::vector<std::uint8_t> message(sizeof header);
    std::memcpy(message.data(), &header, sizeof header);
    message.insert(message.end(), octets.begin(), octets.end());
    return message;
  }

  // The kernel's number of a family, or 0.
  std::uint16_t resolve(std::string_view name) {
    const auto answers =
        kernel_answers(testing::message(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, [&](Writer& writer) {
          writer.put_string(CTRL_ATTR_FAMILY_NAME, name);
        }));
    std::uint16_t id = 0;
    if (!answers.empty())
      for_each_attribute(message_attributes(reinterpret_cast<const nlmsghdr*>(answers[0].data())),
                         [&](const nlattr* attribute) {
                           if (mnl_attr_get_type(attribute) == CTRL_ATTR_FAMILY_ID)
                             id = mnl_attr_get_u16(attribute);
                         });
    return id;
  }

  UniqueFd socket_;
  std::uint32_t port_ = 0;
  World world_;
};

std::vector<std::string> hex_all(const std::vector<std::vector<std::uint8_t>>& datagrams) {
  std::vector<std::string> all;
  for (const auto& datagram : datagrams) all.push_back(hex(datagram));
  return all;
}

struct Malformed {
  const char* what;
  const char* body;  // from the genlmsghdr on
  std::uint16_t flags = NLM_F_REQUEST;
  std::optional<std::uint32_t> length = {};
};

TEST_F(KernelBeside, NlctrlRefusesAlike) {
  const Malformed cases[] = {
      {"no attribute", "03010000"},
      {"unknown family number", "03010000 06000100 e7030000"},
      {"unknown name", "03010000 07000200 7a7a0000"},
      {"name without NUL", "03010000 07000200 7a7a7a00"},
      {"name too long", "03010000 19000200 616161616161616161616161616161616161616100 000000"},
      {"name one too long", "03010000 15000200 6161616161616161616161616161616100 000000"},
      {"empty name", "03010000 04000200"},
      {"number too short", "03010000 05000100 01000000"},
      {"unknown attribute is ignored", "03010000 0800c800 01000000 07000200 7a7a0000"},
      {"number right, name wrong", "03010000 06000100 10000000 07000200 7a7a0000"},
      {"trailing octets warn", "03010000 07000200 7a7a0000 0100"},
      {"not a request to us", "01010000"},
      {"no such command", "4d010000"},
      {"dump with unknown attribute", "03010000 08000900 01000000", NLM_F_REQUEST | NLM_F_DUMP},
      {"no header", ""},
      {"half a header", "0301"},
  };
  for (const Malformed& one : cases) {
    SCOPED_TRACE(one.what);
    const auto message = request(GENL_ID_CTRL, one.body, one.flags, one.length);
    const auto kernel = kernel_answers(message);
    ASSERT_FALSE(kernel.empty());
    EXPECT_EQ(hex_all(world_.ask(message)), hex_all(kernel));
  }
}

TEST_F(KernelBeside, StrictFamiliesRefuseAlike) {
  const std::uint16_t netdev = resolve("netdev");
  if (netdev == 0) GTEST_SKIP() << "this kernel has no netdev family (6.3) to compare with";
  const std::uint16_t dump = NLM_F_REQUEST | NLM_F_DUMP;
  const Malformed cases[] = {
      {"id missing", "01010000"},
      {"id 0", "01010000 08000100 00000000"},
      {"id too long", "01010000 09000100 3132333435000000"},
      {"id too short", "01010000 06000100 31320000"},
      {"id empty", "01010000 04000100"},
      {"unknown attribute", "01010000 08000900 01000000"},
      {"attribute type 0", "01010000 08000000 01000000"},
      {"nested flag", "01010000 08000180 01000000"},
      {"no such device, the last of two counts", "01010000 08000100 00000001 08000100 1e270000"},
      {"no such device, byte order flag", "01010000 08000140 1e270000"},
      {"trailing octets", "01010000 08000100 01000000 0100"},
      {"attribute header too short", "01010000 08000100 01000000 02000000"},
      {"attribute beyond the message", "01010000 28000100 01000000"},
      {"reserved field", "01010500 08000100 01000000"},
      {"flags of other requests", "01010000 08000100 01000000", NLM_F_REQUEST | NLM_F_ROOT},
      {"create flag", "01010000 08000100 01000000", NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE},
      {"no such command", "4d010000"},
      {"command 0", "00010000"},
      {"no such dump", "4d010000", dump},
      {"no header", ""},
      {"length cuts the header", "01010000", NLM_F_REQUEST, 18},
      {"length not a multiple of four", "01010000 08000100 01000000 00000000",
       NLM_F_REQUEST | NLM_F_ACK, 29},
      {"length beyond the datagram", "01010000", NLM_F_REQUEST | NLM_F_ACK, 100},
      {"length below the header", "01010000", NLM_F_REQUEST | NLM_F_ACK, 10},
      {"not a request", "01010000 08000100 01000000", 0},
      {"not a request, but wants an ack", "01010000 08000100 01000000", NLM_F_ACK},
  };
  for (const Malformed& one : cases) {
    SCOPED_TRACE(one.what);
    const auto ours = world_.ask(request(kPspFamilyId, one.body, one.flags, one.length));
    auto kernel = kernel_answers(request(netdev, one.body, one.flags, one.length));
    // Only the family number in the quoted request differs.
    for (auto& answer : kernel) {
      ASSERT_GE(answer.size(), 36u);
      answer[24] = static_cast<std::uint8_t>(kPspFamilyId & 0xff);
      answer[25] = kPspFamilyId >> 8;
    }
    EXPECT_EQ(hex_all(ours), hex_all(kernel));
  }
}

TEST_F(KernelBeside, OtherTypesAreAnsweredAlike) {
  for (const std::uint16_t type : {999, 1, 2, 3, 15})
    for (const std::uint16_t flags : {NLM_F_REQUEST, NLM_F_REQUEST | NLM_F_ACK}) {
      SCOPED_TRACE(type);
      const auto message = request(type, "03010000", flags);
      EXPECT_EQ(hex_all(world_.ask(message)), hex_all(kernel_answers(message)));
    }
}

TEST_F(KernelBeside, SeveralMessagesInOneDatagramAreAnsweredInOrder) {
  auto both = request(999, "03010000");
  const auto second = request(GENL_ID_CTRL, "03010000 07000200 7a7a0000");
  both.insert(both.end(), second.begin(), second.end());
  const auto kernel = kernel_answers(both);
  ASSERT_EQ(kernel.size(), 2u);
  EXPECT_EQ(hex_all(world_.ask(both)), hex_all(kernel));
}

// joined are the messages of several datagrams: how many go into one is up to the reader's buffer.
std::string joined(const std::vector<std::vector<std::uint8_t>>& datagrams) {
  std::string all;
  for (const auto& datagram : datagrams) all += hex(datagram);
  return all;
}

TEST_F(KernelBeside, PoliciesAreListedAlike) {
  const std::uint16_t dump = NLM_F_REQUEST | NLM_F_DUMP;
  const Malformed cases[] = {
      {"all of nlctrl", "0a010000 0b000200 6e6c6374726c0000", dump},
      {"by number", "0a010000 06000100 10000000", dump},
      {"number wrong, name right", "0a010000 06000100 e7030000 0b000200 6e6c6374726c0000", dump},
      {"one operation", "0a010000 06000100 10000000 08000a00 03000000", dump},
      {"the other operation", "0a010000 06000100 10000000 08000a00 0a000000", dump},
      {"no such operation", "0a010000 06000100 10000000 08000a00 01000000", dump},
      {"no family named", "0a010000 08000a00 03000000", dump},
      {"no such family", "0a010000 07000200 7a7a0000", dump},
      {"operation too short", "0a010000 06000100 10000000 06000a00 03000000", dump},
      {"unknown attribute", "0a010000 06000100 10000000 08000b00 03000000", dump},
      {"attribute that is not for requests", "0a010000 06000100 10000000 08000300 03000000", dump},
      {"no dump", "0a010000 06000100 10000000"},
  };
  for (const Malformed& one : cases) {
    SCOPED_TRACE(one.what);
    const auto message = request(GENL_ID_CTRL, one.body, one.flags);
    const auto kernel = kernel_answers(message);
    ASSERT_FALSE(kernel.empty());
    EXPECT_EQ(joined(world_.ask(message)), joined(kernel));
  }
}

TEST_F(KernelBeside, AckSettingsOfTheSocketAreHeeded) {
  const Malformed cases[] = {
      {"text and attribute", "0a010000 06000100 10000000 08000b00 03000000",
       NLM_F_REQUEST | NLM_F_DUMP},
      {"errno only", "03010000 07000200 7a7a0000"},
      {"a warning with the ack", "03010000 06000100 10000000 0100", NLM_F_REQUEST | NLM_F_ACK},
      {"ack", "03010000 06000100 10000000", NLM_F_REQUEST | NLM_F_ACK},
  };
  for (const int ext : {0, 1})
    for (const int cap : {0, 1}) {
      ASSERT_EQ(::setsockopt(socket_.get(), SOL_NETLINK, NETLINK_EXT_ACK, &ext, sizeof ext), 0);
      ASSERT_EQ(::setsockopt(socket_.get(), SOL_NETLINK, NETLINK_CAP_ACK, &cap, sizeof cap), 0);
      world_.caller.ext_ack = ext != 0;
      world_.caller.cap_ack = cap != 0;
      for (const Malformed& one : cases) {
        SCOPED_TRACE(std::string(one.what) + (ext ? " ext" : "") + (cap ? " cap" : ""));
        const auto message = request(GENL_ID_CTRL, one.body, one.flags);
        const auto kernel = kernel_answers(message), ours = world_.ask(message);
        ASSERT_FALSE(kernel.empty());
        ASSERT_FALSE(ours.empty());
        // Descriptions of nlctrl differ in its groups; the last answer is the one to compare.
        EXPECT_EQ(hex(ours.back()), hex(kernel.back()));
      }
    }
}

TEST_F(KernelBeside, FamilyDescriptionsHaveTheSameShape) {
  // nlctrl describes itself: all up to the list of its commands, of which we serve one.
  const auto message = request(GENL_ID_CTRL, "03010000 0b000200 6e6c6374726c0000");
  const auto ours = world_.ask(message), kernel = kernel_answers(message);
  ASSERT_EQ(ours.size(), 1u);
  ASSERT_EQ(kernel.size(), 1u);
  const std::size_t attributes = 16 + 4 + 12 + 8 + 8 + 8 + 8;
  ASSERT_GT(kernel[0].size(), attributes);
  EXPECT_EQ(hex(std::span(ours[0]).subspan(4, attributes - 4)),
            hex(std::span(kernel[0]).subspan(4, attributes - 4)));
}

}  // namespace
}  // namespace psp::netlink
