// SPDX-License-Identifier: Apache-2.0
//
// Who may do what: everybody secures sockets, only CAP_NET_ADMIN configures devices. That is the
// kernel's rule for its own family, and a program must not need more rights with pspd.
//
// A child gives up its rights and asks the real pspd; its exit status is the errno. A key is given
// to whoever shows the socket itself, once: a number or a later copy of the socket gets none. Who
// may have keys of captures is in capture_test.cc.
#include <cerrno>
#include <fmt/format.h>
#include <fstream>
#include <functional>
#include <grp.h>
#include <gtest/gtest.h>
#include <map>
#include <sys/wait.h>
#include <unistd.h>

#include "puppet.hh"

namespace psp::lab {
namespace {

constexpr uid_t kNobody = 65534;

// as_nobody runs `action` with a control connection of a child without privileges in the namespace,
// and returns its result (0..255).
int as_nobody(const Netns& netns, const std::function<int(Client&)>& action) {
  const InNetns inside(netns);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgroups(0, nullptr) != 0 || ::setgid(kNobody) != 0 || ::setuid(kNobody) != 0)
      ::_exit(254);
    auto client = Client::connect_daemon("@softpsp");
    ::_exit(client ? action(*client) : 253);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

int error_of(const auto& result) { return result ? 0 : result.error().sys_errno; }

class Permissions : public PuppetTest {};

TEST_P(Permissions, AnybodySecuresASocket) {
  Puppet puppet(*lab_, GetParam(), PSP_STATE_NONE);
  EXPECT_EQ(as_nobody(lab_->ns(From::kA),
                      [&](Client& client) {
                        const auto rx = client.rx_assoc(puppet.fd(), kVersion);
                        if (!rx) return rx.error().sys_errno;
                        return error_of(client.tx_assoc(puppet.fd(), kVersion, puppet.tx()));
                      }),
            0);
  EXPECT_EQ(puppet.state(), static_cast<unsigned>(PSP_STATE_TX));
}

TEST_P(Permissions, AnRxKeyIsAnsweredOnceAndToWhoShowsTheSocketOnly) {
  Puppet puppet(*lab_, GetParam(), PSP_STATE_NONE);
  const int fd = puppet.fd();
  const auto ask = [&](Client& client) { return error_of(client.rx_assoc(fd, kVersion)); };
  EXPECT_EQ(as_nobody(lab_->ns(From::kA),
                      [&](Client& client) {
                        ::close(fd);  // the number is all that is left
                        return ask(client);
                      }),
            EBADF);
  EXPECT_EQ(puppet.state(), static_cast<unsigned>(PSP_STATE_NONE));
  ASSERT_TRUE(lab_->client(From::kA).rx_assoc(fd, kVersion));
  EXPECT_EQ(as_nobody(lab_->ns(From::kA), ask), EBUSY) << "who has the socket too, but later";
}

TEST_P(Permissions, AnybodyLooksAtDevicesAndStatistics) {
  EXPECT_EQ(
      as_nobody(lab_->ns(From::kA), [&](Client& client) { return error_of(client.devices()); }), 0);
  EXPECT_EQ(as_nobody(lab_->ns(From::kA), [&](Client& client) { return error_of(client.stats()); }),
            0);
}

TEST_P(Permissions, ADaemonLeavesNoCoreFileAndIsNeverSwappedOut) {
  const pid_t pid = lab_->pspd(From::kA).pid();
  const std::string limits =
      lab_->ns(From::kA).sh(fmt::format("grep 'Max core file size' /proc/{}/limits", pid));
  EXPECT_EQ(limits.find_first_not_of(" 0bytes\n", sizeof "Max core file size"), std::string::npos)
      << limits;
  std::ifstream status(fmt::format("/proc/{}/status", pid));
  std::map<std::string, std::size_t> sizes;
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("Vm")) sizes[line.substr(0, 5)] = std::stoul(line.substr(7));
  EXPECT_GT(sizes["VmLck"], 0u);
  EXPECT_EQ(sizes["VmSwa"], 0u);
}

TEST_P(Permissions, OnlyAnAdministratorConfiguresDevices) {
  const std::uint32_t id = lab_->client(From::kA).devices().value().at(0).id;
  EXPECT_EQ(as_nobody(lab_->ns(From::kA),
                      [&](Client& client) { return error_of(client.key_rotate(id)); }),
            EPERM);
  EXPECT_EQ(as_nobody(lab_->ns(From::kA),
                      [&](Client& client) { return error_of(client.set_versions(id, {})); }),
            EPERM);
  EXPECT_EQ(lab_->client(From::kA).device(id).value().versions_ena, VersionSet::all());
  EXPECT_EQ(lab_->stats(From::kA).key_rotations, 0u);
  EXPECT_TRUE(lab_->client(From::kA).set_versions(id, VersionSet::all()));
}

INSTANTIATE_TEST_SUITE_P(Families, Permissions, testing::Values(Kind::kIpv4, Kind::kIpv6),
                         kind_param);

}  // namespace
}  // namespace psp::lab
