// SPDX-License-Identifier: Apache-2.0
//
// The specification as data: found by name and by number, whole, and what the server does. What
// gen-netlink made of spec/psp.yaml is compared with constants of the kernel's header and with the
// families that the server serves: an operation that one of them lacks fails here. What
// spec/psp.yaml has to do with the kernel's own stands at its head.
#include "netlink/spec.hh"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "netlink/families.hh"
#include "netlink/names.hh"
#include <psp/netlink/uapi.h>

#include "test_support.hh"

namespace psp::netlink {
namespace {

using ::testing::ElementsAre;

TEST(Spec, OperationsAreFoundByName) {
  const spec::Operation* tx = spec::find_operation("tx-assoc");
  ASSERT_NE(tx, nullptr);
  EXPECT_EQ(tx->cmd, PSPNL_CMD_TX_ASSOC);
  EXPECT_EQ(tx->attributes->name, "assoc");
  EXPECT_THAT(tx->do_request.attributes, ElementsAre(1, 2, 4, 5));
  EXPECT_TRUE(tx->do_reply.exists);
  EXPECT_TRUE(tx->do_reply.attributes.empty());
  EXPECT_FALSE(tx->dump_request.exists);
  EXPECT_EQ(spec::find_operation("tx"), nullptr);
}

TEST(Spec, NumbersAreTheOrder) {
  std::uint8_t cmd = 0;
  for (const spec::Operation& operation : spec::operations()) EXPECT_EQ(operation.cmd, ++cmd);
  EXPECT_EQ(cmd, 12);
  for (const spec::AttributeSet* set : spec::attribute_sets()) {
    std::uint16_t number = 0;
    for (const spec::Attribute& attribute : set->attributes) {
      EXPECT_EQ(attribute.number, ++number) << set->name << attribute.name;
      EXPECT_EQ(set->find(attribute.name), &attribute);
      EXPECT_EQ(set->find(attribute.number), &attribute);
      EXPECT_EQ(attribute.nested != nullptr, attribute.type == spec::Type::kNest);
    }
    EXPECT_EQ(set->find(std::uint16_t{0}), nullptr);
    EXPECT_EQ(set->find(static_cast<std::uint16_t>(number + 1)), nullptr);
    EXPECT_EQ(set->find("nothing"), nullptr);
  }
}

TEST(Spec, AttributesKnowTheirKind) {
  const spec::AttributeSet& dev = *spec::find_operation("dev-get")->attributes;
  const spec::Attribute& list = *dev.find("assoc-list");
  EXPECT_TRUE(list.multi);
  EXPECT_EQ(list.nested->name, "assoc-dev-info");
  EXPECT_EQ(list.nested->find("nsid")->type, spec::Type::kS32);
  const spec::Attribute& ena = *dev.find("psp-versions-ena");
  EXPECT_TRUE(ena.as_flags);
  EXPECT_THAT(ena.enumeration->entries, ElementsAre("hdr0-aes-gcm-128", "hdr0-aes-gcm-256",
                                                    "hdr0-aes-gmac-128", "hdr0-aes-gmac-256"));
  EXPECT_EQ(dev.find("id")->min, 1u);
  EXPECT_EQ(dev.find("by-association")->type, spec::Type::kFlag);
}

TEST(Spec, NotificationsHaveAGroupAndTheAttributesOfTheirOperation) {
  const spec::Operation& changed = *spec::find_operation("dev-change-ntf");
  EXPECT_TRUE(changed.is_notification());
  EXPECT_EQ(changed.group, "mgmt");
  EXPECT_FALSE(changed.do_request.exists);
  EXPECT_THAT(changed.do_reply.attributes, ElementsAre(1, 2, 3, 4, 7, 5));
  EXPECT_EQ(spec::find_operation("key-rotate-ntf")->group, "use");
  EXPECT_THAT(spec::groups(), ElementsAre("mgmt", "use"));
}

TEST(Spec, TheServerServesWhatIsNoNotification) {
  for (const Family& family : families()) {
    if (family.which != FamilyName::kPsp) continue;
    for (const spec::Operation& operation : spec::operations()) {
      const auto served = std::ranges::find(family.operations, operation.cmd, &Operation::cmd);
      ASSERT_EQ(served == family.operations.end(), operation.is_notification()) << operation.name;
      if (operation.is_notification()) continue;
      EXPECT_EQ(served->net_admin, operation.admin_perm) << operation.name;
      EXPECT_EQ(served->has_dump, operation.dump_request.exists) << operation.name;
    }
  }
}

TEST(Names, AreThoseOfTheFamilyThatIsAsked) {
  constexpr std::uint32_t kFirst = NLMSG_HDRLEN + GENL_HDRLEN;
  const auto first = [](std::uint16_t family, std::uint8_t cmd) {
    const auto request =
        testing::message(family, cmd, [](Writer& writer) { writer.put_u32(1, 4); });
    const auto* message = reinterpret_cast<const nlmsghdr*>(request.data());
    EXPECT_EQ(missing_attribute(message, 1, 0), attribute_at(message, kFirst));
    return attribute_at(message, kFirst);
  };
  EXPECT_EQ(first(kPspFamilyId, PSPNL_CMD_DEV_SET), ".id");
  EXPECT_EQ(first(kPspFamilyId, PSPNL_CMD_RX_ASSOC), ".dev-id");
  EXPECT_EQ(first(GENL_MIN_ID, PSPNL_CMD_RX_ASSOC), ".dev-id") << "as the kernel may number psp";
  EXPECT_EQ(first(kSoftpspFamilyId, SOFTPSP_CMD_SUBSCRIBE), ".groups");
  EXPECT_EQ(first(kSoftpspFamilyId, SOFTPSP_CMD_KEY_GET), ".datagram");
  EXPECT_EQ(first(kSoftpspFamilyId, 200), ".1");
  EXPECT_EQ(first(kPspFamilyId, 0), ".1");
}

}  // namespace
}  // namespace psp::netlink
