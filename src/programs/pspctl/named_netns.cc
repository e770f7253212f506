// SPDX-License-Identifier: Apache-2.0
//
// Namespaces as files: /run/netns/NAME, a path, or that of a process. A namespace that ours has no
// number for is given one, for the family speaks of namespaces by number; our own needs none.
// Errors say what the user named, and what to look at.
#include "named_netns.hh"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/stat.h>

#include "base/nsid.hh"

namespace psp::ctl {

namespace {

std::unexpected<Failure> failure(const std::string& what, int error, const char* text = nullptr) {
  ClientError words;
  words.sys_errno = error;
  if (text != nullptr) words.text = text;
  return refused(what, words);
}

Outcome<UniqueFd> open_path(const std::string& path, const std::string& what, const char* absent) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return failure(what, errno, errno == ENOENT ? absent : nullptr);
  return fd;
}

}  // namespace

Outcome<UniqueFd> open_netns(const std::string& name) {
  const std::string path = name.find('/') == std::string::npos ? "/run/netns/" + name : name;
  return open_path(path, "netns " + name, "no such network namespace; see ip netns");
}

Outcome<UniqueFd> open_netns_of(std::uint32_t pid) {
  return open_path(fmt::format("/proc/{}/ns/net", pid), fmt::format("pid {}", pid),
                   "no such process");
}

Outcome<void> enter_netns(const std::string& name) {
  const auto netns = open_netns(name);
  if (!netns) return std::unexpected(netns.error());
  if (setns(netns->get(), CLONE_NEWNET) != 0)
    return failure("netns " + name, errno, errno == EINVAL ? "not a network namespace" : nullptr);
  return {};
}

Outcome<std::optional<std::int32_t>> nsid_of(const UniqueFd& netns, const std::string& what) {
  struct stat theirs {};
  struct stat ours {};
  if (fstat(netns.get(), &theirs) == 0 && stat("/proc/thread-self/ns/net", &ours) == 0 &&
      theirs.st_ino == ours.st_ino && theirs.st_dev == ours.st_dev)
    return std::nullopt;
  auto nsid = psp::nsid_of(netns.get());
  if (nsid && *nsid < 0) {
    if (const int error = assign_nsid(netns.get()); error != 0 && error != EEXIST)
      return failure(what, error);
    nsid = psp::nsid_of(netns.get());
  }
  if (!nsid) return failure(what, nsid.error());
  return *nsid;
}

}  // namespace psp::ctl
