// SPDX-License-Identifier: Apache-2.0
//
// What the tests of Server ask, and how they read the answer: requests of both families, also
// spoilt ones, a refusal taken apart and compared, the parts of a dump. A refusal is compared
// whole: errno, text, the place of the attribute, and that the request was quoted. Requests are
// made with the Writer, whose octets codec_test.cc and server_test.cc know.
#pragma once

#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <optional>
#include <utility>

#include "test_support.hh"

namespace psp::netlink::testing {

constexpr std::uint16_t kDump = NLM_F_REQUEST | NLM_F_DUMP;

inline std::vector<std::uint8_t> psp_request(std::uint8_t cmd,
                                             const std::function<void(Writer&)>& fill,
                                             std::uint16_t flags = NLM_F_REQUEST) {
  return message(kPspFamilyId, cmd, fill, flags);
}
inline std::vector<std::uint8_t> psp_request(std::uint8_t cmd,
                                             std::uint16_t flags = NLM_F_REQUEST) {
  return message(kPspFamilyId, cmd, flags);
}
inline std::vector<std::uint8_t> with_id(std::uint8_t cmd, std::uint32_t id,
                                         std::uint16_t flags = NLM_F_REQUEST) {
  return psp_request(
      cmd, [id](Writer& writer) { writer.put_u32(PSPNL_DEV_ID, id); }, flags);
}

// Assoc is an rx-assoc or tx-assoc to be spoilt.
struct Assoc {
  std::optional<std::uint32_t> dev_id{};
  std::optional<std::uint32_t> version = 0;
  bool nest = true;
  std::optional<std::uint32_t> spi = 0x80000005;
  std::optional<std::size_t> key_octets = 16;
  std::optional<std::uint32_t> sock_fd = 3;

  std::vector<std::uint8_t> message(std::uint8_t cmd, std::uint16_t flags = NLM_F_REQUEST) const {
    return psp_request(
        cmd,
        [&](Writer& writer) {
          if (dev_id) writer.put_u32(PSPNL_ASSOC_DEV_ID, *dev_id);
          if (version) writer.put_u32(PSPNL_ASSOC_VERSION, *version);
          if (cmd == PSPNL_CMD_TX_ASSOC && nest) {
            nlattr* key = writer.nest(PSPNL_ASSOC_TX_KEY);
            if (spi) writer.put_u32(PSPNL_KEYS_SPI, *spi);
            if (key_octets)
              writer.put_octets(PSPNL_KEYS_KEY, std::vector<std::uint8_t>(*key_octets, 0xaa));
            writer.end_nest(key);
          }
          if (sock_fd) writer.put_u32(PSPNL_ASSOC_SOCK_FD, *sock_fd);
        },
        flags);
  }
};

inline std::vector<std::uint8_t> dev_assoc(std::uint8_t cmd, std::optional<std::uint32_t> ifindex,
                                           std::optional<std::int32_t> nsid, std::uint32_t id = 1) {
  return psp_request(cmd, [&](Writer& writer) {
    writer.put_u32(PSPNL_DEV_ID, id);
    if (ifindex) writer.put_u32(PSPNL_DEV_IFINDEX, *ifindex);
    if (nsid) writer.put_u32(PSPNL_DEV_NSID, static_cast<std::uint32_t>(*nsid));
  });
}

// Refusal is a NLMSG_ERROR taken apart.
struct Refusal {
  int error = 1;  // none came
  std::string text;
  std::optional<std::uint32_t> bad_offset, missing_type, missing_nest;
  bool quoted = false;  // the whole request
};

inline Refusal refusal(const std::vector<Datagram>& answers,
                       const std::vector<std::uint8_t>& request) {
  Refusal refusal;
  if (answers.size() != 1) return refusal;
  const auto* header = reinterpret_cast<const nlmsghdr*>(answers[0].data());
  if (header->nlmsg_type != NLMSG_ERROR || header->nlmsg_len != answers[0].size()) return refusal;
  std::memcpy(&refusal.error, answers[0].data() + 16, 4);
  std::size_t used = 20 + request.size();
  refusal.quoted = answers[0].size() >= used &&
                   std::equal(request.begin(), request.end(), answers[0].begin() + 20);
  if (!refusal.quoted) return refusal;
  EXPECT_EQ(header->nlmsg_flags, answers[0].size() > used ? NLM_F_ACK_TLVS : 0);
  for_each_attribute(std::span(answers[0]).subspan(used), [&](const nlattr* attribute) {
    switch (mnl_attr_get_type(attribute)) {
      case NLMSGERR_ATTR_MSG:
        refusal.text = get_string(attribute);
        break;
      case NLMSGERR_ATTR_OFFS:
        refusal.bad_offset = get_u32(attribute);
        break;
      case NLMSGERR_ATTR_MISS_TYPE:
        refusal.missing_type = get_u32(attribute);
        break;
      case NLMSGERR_ATTR_MISS_NEST:
        refusal.missing_nest = get_u32(attribute);
        break;
      default:
        break;
    }
  });
  return refusal;
}

// Row is a request and how it is refused.
struct Row {
  const char* what;
  std::vector<std::uint8_t> request;
  int error;
  const char* text = "";
  std::optional<std::uint32_t> bad_offset{}, missing_type{}, missing_nest{};
  int fd = 40;
};

inline void expect_refusal(World& world, const Row& row) {
  SCOPED_TRACE(row.what);
  const Refusal got = refusal(world.ask(row.request, row.fd), row.request);
  EXPECT_EQ(got.error, -row.error);
  EXPECT_TRUE(got.quoted);
  EXPECT_EQ(got.text, row.text);
  EXPECT_EQ(got.bad_offset, row.bad_offset);
  EXPECT_EQ(got.missing_type, row.missing_type);
  EXPECT_EQ(got.missing_nest, row.missing_nest);
}

// Parts takes a dump of devices apart: ids, and whether a message said that it was interrupted.
struct Parts {
  std::vector<std::uint32_t> ids;
  bool done = false, interrupted = false;
  void take(std::vector<Datagram>& datagrams) {
    for (const Datagram& datagram : std::exchange(datagrams, {}))
      for (std::size_t at = 0; at < datagram.size();) {
        const auto* header = reinterpret_cast<const nlmsghdr*>(datagram.data() + at);
        interrupted = interrupted || (header->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
        if (header->nlmsg_type == NLMSG_DONE)
          done = true;
        else
          ids.push_back(get_u32(reinterpret_cast<const nlattr*>(datagram.data() + at + 20)));
        at += header->nlmsg_len;
      }
  }
};

}  // namespace psp::netlink::testing
