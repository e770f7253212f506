// SPDX-License-Identifier: Apache-2.0
//
// The operations of nlctrl: what families there are, with their operations and groups, and which
// policies these have, as the kernel's genetlink.c and policy.c tell it. Every client begins here,
// for the numbers of families are each server's own. The order of entries is the kernel's and so
// are its oddities (an operation that is only a dump has number 0 among policies), since programs
// may know no other. Compared with a running kernel in codec_test.cc.
#include <algorithm>
#include <cerrno>
#include <linux/genetlink.h>
#include <vector>

#include "netlink/families.hh"
#include "netlink/messages/nlctrl.hh"
#include "netlink/operations.hh"

namespace psp::netlink {
namespace {

FamilyInfo family_info(const Family& family, bool first_release) {
  FamilyInfo info{.name = family.name, .id = family.id, .version = family.version};
  for (const Operation& operation : family.operations) {
    const bool has_policy = operation.do_policy != nullptr || operation.dump_policy != nullptr;
    const bool admin = needs_net_admin(family, operation, first_release);
    info.operations.push_back({.cmd = operation.cmd,
                               .flags = (admin ? GENL_ADMIN_PERM : 0u) |
                                        (operation.has_do ? GENL_CMD_CAP_DO : 0u) |
                                        (operation.has_dump ? GENL_CMD_CAP_DUMP : 0u) |
                                        (has_policy ? GENL_CMD_CAP_HASPOL : 0u)});
  }
  for (const Group& group : family.groups)
    info.groups.push_back({.id = group.id, .name = group.name});
  return info;
}

// FamilySource lists all families.
class FamilySource final : public DumpSource {
 public:
  explicit FamilySource(bool first_release) : first_release_(first_release) {}
  int put(Writer& writer, const char**) override {
    if (at_ >= families().size()) return 0;
    netlink::put(writer, family_info(families()[at_], first_release_));
    return 1;
  }
  void next() override { ++at_; }

 private:
  bool first_release_;
  std::size_t at_ = 0;
};

// PolicySource lists the policies of a family, or those of one operation (`only`): which policies
// the operations have, then each attribute of each policy.
class PolicySource final : public DumpSource {
 public:
  PolicySource(const Family& family, const Operation* only) : family_(family) {
    for (const Operation& operation : family.operations) {
      if (only != nullptr && operation.cmd != only->cmd) continue;
      if (operation.do_policy == nullptr && operation.dump_policy == nullptr) continue;
      operations_.push_back(&operation);
      add(operation.do_policy);
      add(operation.dump_policy);
    }
    skip_unset();
  }
  bool any() const { return !operations_.empty(); }

  int put(Writer& writer, const char**) override {
    if (operation_ == operations_.size() && set_ == sets_.size()) return 0;
    if (operation_ < operations_.size())
      netlink::put(writer, operation_policies(*operations_[operation_]));
    else
      netlink::put(writer, policy_attribute());
    return 1;
  }
  void next() override {
    if (operation_ < operations_.size()) {
      ++operation_;
      return;
    }
    ++attribute_;
    skip_unset();
  }

 private:
  // A policy comes before those nested in it.
  void add(const PolicySet* set) {
    if (set == nullptr || std::ranges::find(sets_, set) != sets_.end()) return;
    sets_.push_back(set);
    for (const Policy& policy : set->policies) add(policy.nested);
  }
  std::optional<std::uint32_t> number(const PolicySet* set) const {
    if (set == nullptr) return std::nullopt;
    return static_cast<std::uint32_t>(std::ranges::find(sets_, set) - sets_.begin());
  }
  void skip_unset() {
    for (; set_ < sets_.size(); ++set_, attribute_ = 0)
      for (; attribute_ < sets_[set_]->policies.size(); ++attribute_)
        if (sets_[set_]->policies[attribute_].kind != Policy::Kind::kUnset) return;
  }

  OperationPolicies operation_policies(const Operation& operation) const {
    return {.family = family_.id,
            // The kernel takes it from the do: an operation that is only a dump has number 0 here.
            .operation = operation.has_do ? operation.cmd : std::uint8_t{0},
            .for_do = number(operation.do_policy),
            .for_dump = number(operation.dump_policy)};
  }
  PolicyAttribute policy_attribute() const {
    const Policy& policy = sets_[set_]->policies[attribute_];
    return {.family = family_.id,
            .number = static_cast<std::uint16_t>(set_),
            .attribute = static_cast<std::uint16_t>(attribute_),
            .policy = &policy,
            .nested = number(policy.nested)};
  }

  const Family& family_;
  std::vector<const Operation*> operations_;  // those that have policies
  std::vector<const PolicySet*> sets_;
  std::size_t operation_ = 0;            // first these, then
  std::size_t set_ = 0, attribute_ = 0;  // these
};

// dump_policies is ctrl_dumppolicy_start.
int dump_policies(Request& request, std::unique_ptr<DumpSource>& source) {
  const auto asked = request.as<FamilyRequest>();
  if (!asked.id && !asked.name) return -EINVAL;
  const Family* family = asked.id ? find_family(*asked.id) : find_family(*asked.name);
  if (family == nullptr) return -ENOENT;
  const Operation* only = nullptr;
  if (asked.operation) {
    const auto it = std::ranges::find(family->operations, *asked.operation, &Operation::cmd);
    if (it == family->operations.end()) {
      request.ack = {.bad = request.find(CTRL_ATTR_OP)};
      return -ENOENT;
    }
    only = &*it;
  }
  auto policies = std::make_unique<PolicySource>(*family, only);
  if (!policies->any()) return -ENODATA;
  source = std::move(policies);
  return 0;
}

}  // namespace

int do_nlctrl(Services& services, Request& request) {
  const auto asked = request.as<FamilyRequest>();
  if (!asked.id && !asked.name) return -EINVAL;
  const Family* found = asked.id ? find_family(*asked.id) : nullptr;
  if (asked.name) found = find_family(*asked.name);  // has the last word
  if (found == nullptr) return -ENOENT;
  MessageHead head = request.head();
  head.cmd = CTRL_CMD_NEWFAMILY;
  Writer writer;
  head.begin(writer);
  put(writer, family_info(*found, services.first_release()));
  return request.send(writer);
}

int dump_nlctrl(Services& services, Request& request, MessageHead& head,
                std::unique_ptr<DumpSource>& source) {
  head.flags = NLM_F_MULTI;
  if (request.cmd() == CTRL_CMD_GETPOLICY) return dump_policies(request, source);
  head.cmd = CTRL_CMD_NEWFAMILY;
  source = std::make_unique<FamilySource>(services.first_release());
  return 0;
}

}  // namespace psp::netlink
