// SPDX-License-Identifier: Apache-2.0
//
// peer_has_net_admin on real processes: each test forks a peer that makes itself what it shall be,
// connects, and stays until it has been judged. Shown is one who has the capability, and each way
// to look as if one had it: root without it, root of another user namespace, a process that is
// dead, has changed its user, or has started a privileged program. What the test may not do (root,
// user namespaces, file capabilities) it skips. Kernels without SO_PEERPIDFD are not made here.
#include "netlink/credentials.hh"

#include <csignal>
#include <cstddef>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <functional>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sched.h>
#include <string>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <vector>

#include "netlink/transport.hh"

namespace psp::netlink {
namespace {

class PeerHasNetAdmin : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to make peers of all kinds";
    const std::string name = "softpsp-credentials-test-" + std::to_string(::getpid());
    address_.sun_family = AF_UNIX;
    std::memcpy(address_.sun_path + 1, name.data(), name.size());
    size_ = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    listener_ = UniqueFd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address_), size_), 0);
    ASSERT_EQ(::listen(listener_.get(), 1), 0);
  }
  void TearDown() override {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }

  // connect_peer forks: `before` runs, then the peer connects and says so, then `after` runs.
  // Returns our end, or none if `before` failed.
  UniqueFd connect_peer(const std::function<bool()>& before, const std::function<void()>& after) {
    child_ = ::fork();
    if (child_ == 0) {
      if (!before()) ::_exit(1);
      const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET, 0);  // survives exec
      if (::connect(fd, reinterpret_cast<sockaddr*>(&address_), size_) != 0) ::_exit(2);
      after();
      (void)!::write(fd, "x", 1);
      ::pause();
      ::_exit(0);
    }
    const timeval limit = {.tv_sec = 5, .tv_usec = 0};
    ::setsockopt(listener_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }
  static void wait_for_word(const UniqueFd& fd) {
    char word;
    ASSERT_GE(::read(fd.get(), &word, 1), 0);
  }

  sockaddr_un address_ = {};
  socklen_t size_ = 0;
  UniqueFd listener_;
  pid_t child_ = -1;
};

bool drop_net_admin() {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (::syscall(SYS_capget, &header, data) != 0) return false;
  data[0].effective &= ~(1u << CAP_NET_ADMIN);
  return ::syscall(SYS_capset, &header, data) == 0;
}

bool has_net_admin_here() {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  return ::syscall(SYS_capget, &header, data) == 0 && (data[0].effective >> CAP_NET_ADMIN & 1) != 0;
}

bool nothing() { return true; }

TEST_F(PeerHasNetAdmin, TrueForOneWhoHasIt) {
  if (!has_net_admin_here()) GTEST_SKIP() << "needs CAP_NET_ADMIN";
  const UniqueFd peer = connect_peer(nothing, [] {});
  wait_for_word(peer);
  EXPECT_TRUE(peer_has_net_admin(peer.get()));
}

TEST_F(PeerHasNetAdmin, FalseForRootWithoutIt) {
  const UniqueFd peer = connect_peer(drop_net_admin, [] {});
  wait_for_word(peer);
  EXPECT_FALSE(peer_has_net_admin(peer.get()));
}

TEST_F(PeerHasNetAdmin, FalseForAnotherUser) {
  const UniqueFd peer = connect_peer([] { return ::setuid(65534) == 0; }, [] {});
  wait_for_word(peer);
  EXPECT_FALSE(peer_has_net_admin(peer.get()));
}

TEST_F(PeerHasNetAdmin, FalseForRootOfAnotherUserNamespace) {
  const UniqueFd peer = connect_peer([] { return ::unshare(CLONE_NEWUSER) == 0; }, [] {});
  if (!peer) GTEST_SKIP() << "needs unshare(CLONE_NEWUSER), which is not allowed here";
  wait_for_word(peer);
  EXPECT_FALSE(peer_has_net_admin(peer.get()));
}

TEST_F(PeerHasNetAdmin, FalseForTheDead) {
  const UniqueFd peer = connect_peer(nothing, [] {});
  wait_for_word(peer);
  ::kill(child_, SIGKILL);
  ::waitpid(child_, nullptr, 0);
  child_ = -1;
  EXPECT_FALSE(peer_has_net_admin(peer.get()));
}

TEST_F(PeerHasNetAdmin, FalseForOneWhoseUserChangedAfterConnecting) {
  const UniqueFd peer =
      connect_peer([] { return ::seteuid(65534) == 0; }, [] { (void)!::seteuid(0); });
  wait_for_word(peer);
  EXPECT_FALSE(peer_has_net_admin(peer.get()));
}

TEST_F(PeerHasNetAdmin, FalseForOneThatStartedAPrivilegedProgramAfterConnecting) {
  const auto directory = std::filesystem::temp_directory_path() /
                         ("softpsp-credentials-" + std::to_string(::getpid()));
  std::filesystem::create_directory(directory);
  ::chmod(directory.c_str(), 0755);
  const std::string program = directory / "sleep";
  std::filesystem::copy_file("/bin/sleep", program);
  vfs_cap_data capabilities = {};
  capabilities.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE;
  capabilities.data[0].permitted = 1u << CAP_NET_ADMIN;
  const bool marked =
      ::setxattr(program.c_str(), "security.capability", &capabilities, XATTR_CAPS_SZ_2, 0) == 0;
  int started[2];
  ASSERT_EQ(::pipe2(started, O_CLOEXEC), 0);
  const UniqueFd peer =
      connect_peer([] { return ::setuid(65534) == 0; },
                   [&] { ::execl(program.c_str(), "sleep", "30", static_cast<char*>(nullptr)); });
  ::close(started[1]);
  char word;
  EXPECT_EQ(::read(started[0], &word, 1), 0) << "the pipe closes when the program has started";
  ::close(started[0]);

  std::string effective;
  if (FILE* status = std::fopen(("/proc/" + std::to_string(child_) + "/status").c_str(), "r")) {
    char line[256];
    while (std::fgets(line, sizeof line, status) != nullptr)
      if (std::strncmp(line, "CapEff:", 7) == 0) effective = line + 7;
    std::fclose(status);
  }
  const bool verdict = peer_has_net_admin(peer.get());
  std::filesystem::remove_all(directory);
  const bool gained = (std::strtoull(effective.c_str(), nullptr, 16) >> CAP_NET_ADMIN & 1) != 0;
  if (!marked || !gained) GTEST_SKIP() << "needs a file system with file capabilities in TMPDIR";
  EXPECT_FALSE(verdict);
}

TEST(PeerHasNetAdminOf, AnythingButAUnixSocketIsFalse) {
  const UniqueFd tcp(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_FALSE(peer_has_net_admin(tcp.get()));
  EXPECT_FALSE(peer_has_net_admin(-1));
}

}  // namespace
}  // namespace psp::netlink
