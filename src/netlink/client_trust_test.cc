// SPDX-License-Identifier: Apache-2.0
//
// Client: whom it connects to and trusts, and the ways a daemon can fail it. A client sends Tx
// keys, so a stranger who listens at pspd's abstract name must get none: daemons run as other users
// and in user namespaces that know nobody, and must be refused before a word is said. Daemons that
// die, hang or talk nonsense must end in a sentence and in time. What needs root is skipped
// without.
#include <fcntl.h>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <thread>

#include "netlink/transport.hh"
#include "netlink/trusted_peer.h"

#include "client_test_support.hh"

namespace psp::netlink {
namespace {

using testing::connect_to;
using testing::Daemon;
using ::testing::HasSubstr;
using testing::listen_at;
using testing::unique_name;

TEST(Client, ADaemonThatDiesInMidCallIsAClearError) {
  Daemon daemon(Daemon::Manner::kDieAtRequest);
  Client client = connect_to(daemon);
  const auto devices = client.devices();
  ASSERT_FALSE(devices);
  EXPECT_EQ(devices.error().sys_errno, ECONNRESET);
  EXPECT_EQ(devices.error().message, "dev-get: pspd closed the connection before it answered");
  const auto again = client.devices();
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().sys_errno, ECONNRESET);
}

TEST(Client, AnswersThatAreNoNetlinkAreSkipped) {
  Daemon daemon(Daemon::Manner::kGarbage);
  Client client = connect_to(daemon);
  const auto device = client.device(1);
  ASSERT_FALSE(device);
  EXPECT_EQ(device.error().sys_errno, ECONNRESET);
}

TEST(Client, AHungDaemonIsAClearError) {
  Daemon daemon(Daemon::Manner::kHang);
  Client client = connect_to(daemon);
  const auto devices = client.devices();
  ASSERT_FALSE(devices);
  EXPECT_EQ(devices.error().sys_errno, ETIMEDOUT);
  EXPECT_EQ(devices.error().message, "dev-get: pspd does not answer (waited 5 s)");
}

TEST(Client, ADaemonOfAnotherUserIsNotTrusted) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to run a daemon as another user";
  const std::string name = unique_name();
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::setuid(65534) != 0) ::_exit(1);
    const UniqueFd listener = listen_at(name);
    (void)!::write(ready[1], listener ? "y" : "n", 1);
    ::pause();
    ::_exit(0);
  }
  char up = 0;
  ASSERT_EQ(::read(ready[0], &up, 1), 1);
  EXPECT_EQ(up, 'y');
  const auto client = Client::connect_daemon(name);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().sys_errno, EPERM);
  EXPECT_THAT(client.error().message, HasSubstr("runs as user 65534"));
}

TEST(Transport, TrustsRootAndTheCallerOnly) {
  constexpr uid_t kNone = static_cast<uid_t>(-1);  // every user is known
  EXPECT_TRUE(psp_uid_trusted(0, 1000, kNone));
  EXPECT_TRUE(psp_uid_trusted(1000, 1000, kNone));
  EXPECT_TRUE(psp_uid_trusted(65534, 65534, kNone));
  EXPECT_FALSE(psp_uid_trusted(1000, 0, kNone));
  EXPECT_FALSE(psp_uid_trusted(65534, 1000, kNone));
  EXPECT_FALSE(psp_uid_trusted(65534, 65534, 65534)) << "it may be anybody";
  EXPECT_FALSE(psp_uid_trusted(0, 1000, 0)) << "as sysctl kernel.overflowuid=0 has it";
  EXPECT_FALSE(psp_uid_trusted(kNone, 0, kNone)) << "not known";
}

// as runs `what` in a process of user `uid`, if wanted in a user namespace that knows no user, and
// is its result; 99: there are no such namespaces here.
int as(uid_t uid, bool unknown, const std::function<int()>& what) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setresuid(uid, uid, uid) != 0) ::_exit(98);
    if (unknown && ::unshare(CLONE_NEWUSER) != 0) ::_exit(99);
    ::_exit(what());
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Client, WhereUsersAreNotKnownNobodyIsTakenForTheCaller) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to run a daemon as another user";
  const std::string name = unique_name();
  UniqueFd listener;
  // The one who listens is who SO_PEERCRED names.
  ASSERT_EQ(::seteuid(4711), 0);
  listener = listen_at(name);
  ASSERT_EQ(::seteuid(0), 0);
  ASSERT_TRUE(listener);
  const auto refused = [&] {
    if (::geteuid() != 65534) return 97;
    const auto client = Client::connect_daemon(name);
    return !client && client.error().sys_errno == EPERM &&
                   client.error().message.find("may be anybody") != std::string::npos
               ? 0
               : 1;
  };
  const int result = as(4712, true, refused);
  if (result == 99) GTEST_SKIP() << "needs user namespaces for users";
  EXPECT_EQ(result, 0);
}

TEST(Client, NamesOfSocketsAreChecked) {
  EXPECT_EQ(Client::connect_daemon("").error().sys_errno, EINVAL);
  EXPECT_EQ(Client::connect_daemon("@").error().sys_errno, EINVAL);
  EXPECT_EQ(Client::connect_daemon(std::string(200, 'x')).error().sys_errno, ENAMETOOLONG);
  const auto missing = Client::connect_daemon("/nonexistent/pspd.sock");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().sys_errno, ENOENT);
  EXPECT_EQ(missing.error().message,
            "no pspd answers at /nonexistent/pspd.sock: start one with "
            "'pspd --dev IFNAME'");
}

TEST(Connect, WithoutFamilyAndDaemonSaysWhatToDo) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, for a namespace without pspd";
  if (Client::connect_kernel()) GTEST_SKIP() << "this kernel has the psp family";
  std::thread([] {
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    const auto client = Client::connect(std::nullopt);
    ASSERT_FALSE(client);
    EXPECT_EQ(client.error().sys_errno, ENOENT);
    EXPECT_EQ(client.error().message,
              "this kernel has no PSP (CONFIG_INET_PSP) and no pspd answers at @softpsp: start one "
              "with 'pspd --dev IFNAME'");
  }).join();
}

TEST(Connect, WhereASocketIsNamedNobodyElseIsAsked) {
  Daemon daemon;
  const auto client = Client::connect(daemon.name());
  ASSERT_TRUE(client) << client.error().message;
  EXPECT_TRUE(client->has(Provider::kDaemon));
  EXPECT_FALSE(client->has(Provider::kKernel));
  const auto nobody = Client::connect("@softpsp-test-nobody-is-here");
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().sys_errno, ENOENT);
}

TEST(Connect, TheDefaultSocketCanBeMovedByEnvironment) {
  ::unsetenv("PSP_SOCKET");
  EXPECT_EQ(default_socket(), "@softpsp");
  EXPECT_EQ(chosen_socket(), std::nullopt);
  ::setenv("PSP_SOCKET", "/run/other", 1);
  EXPECT_EQ(chosen_socket(), "/run/other");
  EXPECT_EQ(default_socket(), "/run/other");
  ::setenv("PSP_SOCKET", "", 1);
  EXPECT_EQ(default_socket(), "@softpsp");
  ::unsetenv("PSP_SOCKET");
}

}  // namespace
}  // namespace psp::netlink
