// SPDX-License-Identifier: Apache-2.0
//
// Families and policies in the form of nlctrl. Compared with a running kernel 6.18 (codec_test.cc).
#include "nlctrl.hh"

#include <algorithm>
#include <vector>

namespace psp::netlink {
namespace {

class FamilyRows final : public Rows {
 public:
  explicit FamilyRows(bool first_release) : first_release_(first_release) {}
  int put(Writer& writer, const char**) override {
    if (at_ >= families().size()) return 0;
    put_family(writer, families()[at_], first_release_);
    return 1;
  }
  void next() override { ++at_; }

 private:
  bool first_release_;
  std::size_t at_ = 0;
};

class PolicyRows final : public Rows {
 public:
  PolicyRows(const Family& family, const Operation* only) : family_(family) {
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
    writer.put_u16(CTRL_ATTR_FAMILY_ID, family_.id);
    if (operation_ < operations_.size())
      put_operation(writer, *operations_[operation_]);
    else
      put_attribute(writer);
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
    for (const Policy& policy : set->rows) add(policy.nested);
  }
  std::uint32_t index(const PolicySet* set) const {
    return static_cast<std::uint32_t>(std::ranges::find(sets_, set) - sets_.begin());
  }
  void skip_unset() {
    for (; set_ < sets_.size(); ++set_, attribute_ = 0)
      for (; attribute_ < sets_[set_]->rows.size(); ++attribute_)
        if (sets_[set_]->rows[attribute_].kind != Policy::Kind::kUnset) return;
  }

  void put_operation(Writer& writer, const Operation& operation) const {
    nlattr* all = writer.nest(CTRL_ATTR_OP_POLICY);
    // The kernel takes the number from the do: an operation that is only a dump has number 0 here.
    nlattr* one = writer.nest(operation.has_do ? operation.cmd : 0);
    if (operation.do_policy != nullptr)
      writer.put_u32(CTRL_ATTR_POLICY_DO, index(operation.do_policy));
    if (operation.dump_policy != nullptr)
      writer.put_u32(CTRL_ATTR_POLICY_DUMP, index(operation.dump_policy));
    writer.end_nest(one);
    writer.end_nest(all);
  }
  void put_attribute(Writer& writer) const {
    const Policy& policy = sets_[set_]->rows[attribute_];
    nlattr* all = writer.nest(CTRL_ATTR_POLICY);
    nlattr* set = writer.nest(static_cast<std::uint16_t>(set_));
    std::optional<std::uint32_t> nested;
    if (policy.nested != nullptr) nested = index(policy.nested);
    put_policy(writer, static_cast<std::uint16_t>(attribute_), policy, nested);
    writer.end_nest(set);
    writer.end_nest(all);
  }

  const Family& family_;
  std::vector<const Operation*> operations_;  // those that have policies
  std::vector<const PolicySet*> sets_;
  std::size_t operation_ = 0;            // first these, then
  std::size_t set_ = 0, attribute_ = 0;  // these
};

}  // namespace

void put_family(Writer& writer, const Family& family, bool first_release) {
  writer.put_string(CTRL_ATTR_FAMILY_NAME, family.name);
  writer.put_u16(CTRL_ATTR_FAMILY_ID, family.id);
  writer.put_u32(CTRL_ATTR_VERSION, family.version);
  writer.put_u32(CTRL_ATTR_HDRSIZE, 0);
  writer.put_u32(CTRL_ATTR_MAXATTR, 0);
  std::uint16_t index = 0;
  nlattr* operations = writer.nest(CTRL_ATTR_OPS, true);
  for (const Operation& operation : family.operations) {
    const bool has_policy = operation.do_policy != nullptr || operation.dump_policy != nullptr;
    const bool admin = needs_net_admin(family, operation, first_release);
    nlattr* nest = writer.nest(++index, true);
    writer.put_u32(CTRL_ATTR_OP_ID, operation.cmd);
    writer.put_u32(CTRL_ATTR_OP_FLAGS, (admin ? GENL_ADMIN_PERM : 0u) |
                                           (operation.has_do ? GENL_CMD_CAP_DO : 0u) |
                                           (operation.has_dump ? GENL_CMD_CAP_DUMP : 0u) |
                                           (has_policy ? GENL_CMD_CAP_HASPOL : 0u));
    writer.end_nest(nest);
  }
  writer.end_nest(operations);
  if (family.groups.empty()) return;
  nlattr* groups = writer.nest(CTRL_ATTR_MCAST_GROUPS, true);
  index = 0;
  for (const Group& group : family.groups) {
    nlattr* nest = writer.nest(++index, true);
    writer.put_u32(CTRL_ATTR_MCAST_GRP_ID, group.id);
    writer.put_string(CTRL_ATTR_MCAST_GRP_NAME, group.name);
    writer.end_nest(nest);
  }
  writer.end_nest(groups);
}

std::unique_ptr<Rows> family_rows(bool first_release) {
  return std::make_unique<FamilyRows>(first_release);
}

std::unique_ptr<Rows> policy_rows(const Family& family, const Operation* only) {
  auto rows = std::make_unique<PolicyRows>(family, only);
  if (!rows->any()) return nullptr;
  return rows;
}

}  // namespace psp::netlink
