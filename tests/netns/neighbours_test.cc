// SPDX-License-Identifier: Apache-2.0
//
// What others on the host can do to a running pspd beside its connections: ask for a queue of its
// TAP, clean up after it while it lives, start another one. A local user without capabilities
// gets nothing; root of the host is told what is there, also from other namespaces.
//
// Threading: the test's thread, and children that give up their privileges.
#include <cerrno>
#include <fmt/format.h>
#include <functional>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container.hh"

namespace psp::lab {
namespace {

constexpr uid_t kNobody = 65534;

// as_nobody runs `action` in a child without privileges, and returns its result (0..255).
int as_nobody(const std::function<int()>& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgroups(0, nullptr) != 0 || ::setgid(kNobody) != 0 || ::setuid(kNobody) != 0)
      ::_exit(254);
    ::_exit(action());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != text.npos; at++) found++;
  return found;
}

class TapQueues : public testing::TestWithParam<std::tuple<Kind, unsigned>> {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace();
    lab_->start(From::kA, {"--workers", std::to_string(std::get<unsigned>(GetParam()))});
    lab_->start(From::kB);
  }
  void TearDown() override { lab_.reset(); }
  Kind kind() const { return std::get<Kind>(GetParam()); }
  std::string tap() { return lab_->daemon_info(From::kA).devices.front().tap; }

  std::optional<Lab> lab_;
};

TEST_P(TapQueues, AreNotForANobodyWhoWasHandedAnOpenTun) {
  auto connection = lab_->connect(kind());
  secure(*lab_, connection);
  const UniqueFd tun = open_tun(lab_->ns(From::kA));
  const std::string name = tap();
  EXPECT_EQ(as_nobody([&] { return attach_queue(tun, name); }), EPERM);
  const Octets data = random_octets(100'000);
  send_all(connection.a.get(), data);
  EXPECT_EQ(receive(connection.b.get(), data.size()), data);
  EXPECT_EQ(lab_->stop(From::kA), 0);
}

TEST_P(TapQueues, OfAnAdministratorEndTheDeviceAndNothingIsSaidInClear) {
  auto connection = lab_->connect(kind());
  secure(*lab_, connection);
  const std::string name = tap();
  UniqueFd tun = open_tun(lab_->ns(From::kA));
  const std::size_t mark = lab_->cable().mark();
  ASSERT_EQ(attach_queue(tun, name), 0) << "nobody could, and the other test shows nothing";
  Pspd& daemon = lab_->pspd(From::kA);
  ASSERT_TRUE(eventually([&] { return count(daemon.log(), "loses its PSP device") != 0; }))
      << daemon.log();
  EXPECT_EQ(count(daemon.log(), "somebody else has attached to " + name), 1u) << daemon.log();
  EXPECT_EQ(socket_error(connection.a.get()), ECONNABORTED);
  expect_nothing_in_clear(*lab_, connection.flow, mark, random_octets(16));
  tun.reset();
  ASSERT_TRUE(eventually([&] { return lab_->client(From::kA).devices().value().size() == 1; }))
      << daemon.log();
  auto later = lab_->connect(kind());
  secure(*lab_, later);
  send_all(later.a.get(), octets_of("again"));
  EXPECT_EQ(receive(later.b.get(), 5), octets_of("again"));
}

INSTANTIATE_TEST_SUITE_P(Workers, TapQueues,
                         testing::Combine(testing::Values(Kind::kIpv4, Kind::kIpv6),
                                          testing::Values(1u, 2u)),
                         [](const auto& one) {
                           return fmt::format("{}With{}", kind_name(std::get<Kind>(one.param)),
                                              std::get<unsigned>(one.param));
                         });

class Neighbours : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace(Lab::Options{.links = 2});
    lab_->start(From::kA);
    lab_->start(From::kB);
    connection_ = lab_->connect(GetParam());
    secure(*lab_, connection_);
    programs_ = programs_of(lab_->pspd(From::kA).pid());
  }
  void TearDown() override { lab_.reset(); }

  // elsewhere is the words of a pspd in a process namespace of its own.
  static std::string elsewhere(const std::string& arguments) {
    return fmt::format("unshare --pid --fork --mount-proc {} {}", pspd_path(), arguments);
  }
  // in_a_cgroup is those of a pspd whose cgroup tree begins at a cgroup of its own, as docker's
  // does.
  static std::string in_a_cgroup(const std::string& arguments) {
    return fmt::format(
        "tree=$(mktemp -d) && mount -t cgroup2 none $tree && mkdir $tree/psp-neighbour && "
        "sh -c 'echo $$ > '$tree'/psp-neighbour/cgroup.procs && exec unshare --cgroup {} {}'; "
        "result=$?; rmdir $tree/psp-neighbour; umount $tree; rmdir $tree; exit $result",
        pspd_path(), arguments);
  }
  void expect_untouched() {
    const std::size_t mark = lab_->cable().mark();
    for (const unsigned id : programs_) EXPECT_TRUE(program_exists(id)) << id;
    const Octets data = random_octets(20'000);
    send_all(connection_.a.get(), data);
    EXPECT_EQ(receive(connection_.b.get(), data.size()), data);
    expect_nothing_in_clear(*lab_, connection_.flow, mark, data);
    auto another = lab_->connect(GetParam());
    secure(*lab_, another);
    send_all(another.a.get(), octets_of("another"));
    EXPECT_EQ(receive(another.b.get(), 7), octets_of("another"));
  }

  std::optional<Lab> lab_;
  Connection connection_;
  std::vector<unsigned> programs_;
};

TEST_P(Neighbours, WhoCleanUpInAnotherProcessNamespaceLeaveALivingDaemonAlone) {
  Netns& host = lab_->ns(From::kA);
  EXPECT_FALSE(host.try_sh(elsewhere("--cleanup --dev eth0")));
  expect_untouched();
  EXPECT_TRUE(host.try_sh(elsewhere("--cleanup --dev eth1")));
  EXPECT_TRUE(host.try_sh(elsewhere("--cleanup")));
  expect_untouched();
  EXPECT_EQ(lab_->stop(From::kA), 0);
}

TEST_P(Neighbours, WhoAreInAnotherCgroupNamespaceLeaveALivingDaemonAlone) {
  Netns& host = lab_->ns(From::kA);
  EXPECT_FALSE(host.try_sh(in_a_cgroup("--cleanup --dev eth0")));
  expect_untouched();
  EXPECT_TRUE(host.try_sh(in_a_cgroup("--cleanup --dev eth1")));
  expect_untouched();
  EXPECT_FALSE(host.try_sh(in_a_cgroup("--dev eth0 --socket @other")));
  expect_untouched();
  EXPECT_EQ(lab_->stop(From::kA), 0);
}

TEST_P(Neighbours, WhoCleanUpInAnotherNetworkNamespaceLeaveALivingDaemonAlone) {
  Netns other;
  other.sh("ip link add eth0 type veth peer name peer0");
  other.sh(fmt::format("{} --cleanup --dev eth0", pspd_path()));
  other.sh(elsewhere("--cleanup --dev eth0"));
  other.sh(elsewhere("--cleanup"));
  expect_untouched();
}

TEST_P(Neighbours, WhoStartADaemonInAnotherProcessNamespaceAreRefused) {
  Netns& host = lab_->ns(From::kA);
  EXPECT_EQ(count(host.sh("! " + elsewhere("--dev eth0 --socket @other")),
                  "eth0 already has a pspd: stop that one first"),
            1u);
  expect_untouched();
}

// Whoever is root in a container can attach to the TAP there: that costs only its own connections.
TEST_P(Neighbours, WhoAttachToTheTapOfAContainerEndItsAssociationOnly) {
  Container box(*lab_);
  ASSERT_TRUE(box.associate());
  auto inside = box.connect(GetParam());
  box.secure(inside);
  const std::string name = box.ns().sh("ip -o link | grep -o 'psp[0-9]*' | head -1 | tr -d '\\n'");
  const std::size_t mark = lab_->cable().mark();
  const UniqueFd tun = open_tun(box.ns());
  ASSERT_EQ(attach_queue(tun, name), 0) << name;
  Pspd& daemon = lab_->pspd(From::kA);
  EXPECT_TRUE(eventually(
      [&] { return lab_->client(From::kA).devices().value().at(0).associated.empty(); }));
  EXPECT_EQ(count(daemon.log(), "somebody else has attached to " + name), 1u) << daemon.log();
  const Octets data = random_octets(3000);
  (void)::send(inside.a.get(), data.data(), data.size(), MSG_NOSIGNAL);
  EXPECT_EQ(receive(inside.b.get(), 1, 500ms), Octets());
  expect_nothing_in_clear(*lab_, inside.flow, mark, data);
  expect_untouched();
}

INSTANTIATE_TEST_SUITE_P(Families, Neighbours, testing::Values(Kind::kIpv4, Kind::kIpv6),
                         [](const auto& one) { return kind_name(one.param); });

}  // namespace
}  // namespace psp::lab
