// SPDX-License-Identifier: Apache-2.0
//
// Judging a peer's capability from outside. Between the moment it connected and the moment we look,
// the process may have died (and its number been reused), or have started a privileged program
// while a child keeps the connection; each check below closes one of these ways.
#include "netlink/credentials.hh"

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <linux/capability.h>
#include <optional>
#include <string>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/socket_options.hh"

#include "transport.hh"

namespace psp::netlink {
namespace {

// value_of returns what stands behind "Name:" in a /proc file.
std::optional<std::string> value_of(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (!line.starts_with(name + ":")) continue;
    const std::size_t start = line.find_first_not_of(" \t", name.size() + 1);
    return start == std::string::npos ? std::string() : line.substr(start);
  }
  return std::nullopt;
}

// pid_of is the live process behind a pidfd as our /proc numbers it; 0 if it is gone or not there.
pid_t pid_of(int pidfd) {
  const auto text = value_of("/proc/self/fdinfo/" + std::to_string(pidfd), "Pid");
  if (!text) return 0;
  const long pid = std::strtol(text->c_str(), nullptr, 10);
  return pid > 0 ? static_cast<pid_t>(pid) : 0;
}

// judge reads /proc; nullopt where it does not tell.
std::optional<bool> judge(pid_t pid, uid_t uid) {
  const std::string proc = "/proc/" + std::to_string(pid);
  struct stat status, theirs, ours;
  if (::stat((proc + "/status").c_str(), &status) != 0) return std::nullopt;
  const auto capabilities = value_of(proc + "/status", "CapEff");
  const auto uids = value_of(proc + "/status", "Uid");  // real, effective, saved, filesystem
  if (!capabilities || !uids) return std::nullopt;
  if (::stat((proc + "/ns/user").c_str(), &theirs) != 0 || ::stat("/proc/self/ns/user", &ours) != 0)
    return std::nullopt;
  if (theirs.st_ino != ours.st_ino || theirs.st_dev != ours.st_dev) return false;
  const std::size_t second = uids->find('\t');
  if (second == std::string::npos) return std::nullopt;
  if (std::strtoul(uids->c_str() + second, nullptr, 10) != uid) return false;
  // A process that gained privileges by exec is not dumpable, and its /proc files are then root's
  // (its /proc directory is not).
  if (status.st_uid != uid) return false;
  const auto bits = std::strtoull(capabilities->c_str(), nullptr, 16);
  return (bits >> CAP_NET_ADMIN & 1) != 0;
}

}  // namespace

bool peer_has_net_admin(int fd) {
  const auto peer = get_option<ucred>(fd, SOL_SOCKET, SO_PEERCRED);
  if (!peer || peer->pid <= 0) return false;

  const auto raw = get_option<int>(fd, SOL_SOCKET, SO_PEERPIDFD);
  if (!raw && errno != ENOPROTOOPT) return false;  // the peer is gone
  if (!raw) return judge(peer->pid, peer->uid).value_or(false);
  const UniqueFd pidfd(*raw);

  const pid_t pid = pid_of(pidfd.get());
  if (pid == 0) return false;
  const std::optional<bool> verdict = judge(pid, peer->uid);
  // Still the same process: so all that /proc said was about it.
  return verdict.value_or(false) && pid_of(pidfd.get()) == pid;
}

}  // namespace psp::netlink
