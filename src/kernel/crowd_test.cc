// SPDX-License-Identifier: Apache-2.0
//
// A crowd: the kernel takes 64 programs at a hook of a cgroup, and who is root on a host may have
// filled one before pspd comes. It says so, and leaves none of its own there; with one less it has
// its place. Needs root; skipped else.
#include <bpf/bpf.h>
#include <cerrno>
#include <iterator>
#include <linux/bpf.h>
#include <vector>

#include "host_lock.hh"
#include "programs_fixture.hh"

namespace psp::kernel {
namespace {

class CrowdTest : public NetdevProgramsTest {
 protected:
  void TearDown() override {
    while (!crowd_.empty()) leave();
  }

  // join: one more program that lets all pass; false: there is no place for it.
  bool join() {
    const bpf_insn pass[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 1},
        {.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0},
    };
    LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = BPF_CGROUP_INET_EGRESS);
    UniqueFd program(
        bpf_prog_load(BPF_PROG_TYPE_CGROUP_SKB, "crowd", "GPL", pass, std::size(pass), &options));
    EXPECT_TRUE(program) << errno;
    if (bpf_prog_attach(program.get(), root_.get(), BPF_CGROUP_INET_EGRESS, BPF_F_ALLOW_MULTI) != 0)
      return false;
    crowd_.push_back(std::move(program));
    return true;
  }
  void leave() {
    EXPECT_EQ(bpf_prog_detach2(crowd_.back().get(), root_.get(), BPF_CGROUP_INET_EGRESS), 0);
    crowd_.pop_back();
  }
  std::vector<std::uint32_t> standing() const {
    std::vector<std::uint32_t> ids(64);
    std::uint32_t count = 64, flags = 0;
    EXPECT_EQ(bpf_prog_query(root_.get(), BPF_CGROUP_INET_EGRESS, 0, &flags, ids.data(), &count),
              0);
    ids.resize(count);
    return ids;
  }

 private:
  const UniqueFd root_ = root_cgroup();
  std::vector<UniqueFd> crowd_;
};

TEST_F(CrowdTest, AtTheRootCgroupLeavesNoPlaceAndThatIsSaid) {
  while (join()) {
  }
  const auto before = standing();
  ASSERT_EQ(before.size(), 64u);
  const auto refused = shared_->attach({});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().find("has as many programs there as the kernel takes"),
            std::string::npos)
      << refused.error();
  EXPECT_TRUE(shared_->detach());
  EXPECT_EQ(standing(), before);
  leave();
  const auto attached = shared_->attach({});
  EXPECT_TRUE(attached) << attached.error();
  EXPECT_TRUE(shared_->detach());
}

}  // namespace
}  // namespace psp::kernel
