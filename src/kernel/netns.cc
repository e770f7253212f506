// SPDX-License-Identifier: Apache-2.0
//
// A namespace is found by visiting where the kernel shows namespaces: bound files, those of
// processes, and what processes hold open. It is known by its cookie, which no other ever has.
//
// Threading: see netns.hh.
#include "netns.hh"

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <linux/sockios.h>
#include <memory>
#include <sched.h>
#include <set>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/nsid.hh"
#include "base/socket_options.hh"

namespace psp::kernel {
namespace {

namespace fs = std::filesystem;

bool is_number(const std::string& text) {
  int value;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

// Visitor opens candidates and passes on those that are network namespaces and new.
class Visitor {
 public:
  explicit Visitor(const std::function<bool(int)>& visit) : visit_(visit) {}

  // try_path returns true when the visit is over.
  bool try_path(const fs::path& path) {
    struct stat status;
    if (::stat(path.c_str(), &status) != 0 || seen_.contains(status.st_ino)) return false;
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!fd || ::ioctl(fd.get(), kGetType) != CLONE_NEWNET) return false;
    seen_.insert(status.st_ino);
    return visit_(fd.get());
  }

 private:
  static constexpr unsigned long kGetType = _IO(0xb7, 3);  // NS_GET_NSTYPE of linux/nsfs.h
  const std::function<bool(int)>& visit_;
  std::set<ino_t> seen_;
};

// Budget is how many processes and descriptors may still be looked at.
class Budget {
 public:
  explicit Budget(std::optional<std::size_t> looks) : left_(looks) {}
  // take: there is one more. False: it is used up.
  bool take() {
    if (!left_) return true;
    if (*left_ == 0) exhausted_ = true;
    return !exhausted_ && (*left_)--;
  }
  bool exhausted() const { return exhausted_; }

 private:
  std::optional<std::size_t> left_;
  bool exhausted_ = false;
};

// any_entry goes on until `call` returns true, or the budget is used up.
template <typename Call>
bool any_entry(const fs::path& directory, Budget& budget, Call call) {
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    if (!budget.take()) return true;
    if (call(*entry)) return true;
  }
  return false;
}

// try_descriptors looks at the namespaces that a process holds open.
bool try_descriptors(Visitor& visitor, Budget& budget, const fs::path& process) {
  return any_entry(process / "fd", budget, [&](const fs::directory_entry& entry) {
    std::error_code error;
    const fs::path target = fs::read_symlink(entry.path(), error);
    return !error && target.native().starts_with("net:[") && visitor.try_path(entry.path());
  });
}

}  // namespace

std::expected<Netns, std::string> Netns::current() {
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const std::uint64_t cookie = socket ? netns_cookie(socket.get()) : 0;
  if (cookie == 0)
    return std::unexpected(
        fmt::format("the kernel does not name network namespaces: {}", std::strerror(errno)));
  return Netns(std::move(socket), cookie);
}

std::expected<Netns, std::string> Netns::of(int descriptor) {
  const InNetns inside(descriptor);
  if (!inside.entered())
    return std::unexpected(fmt::format("cannot enter a network namespace (needs CAP_SYS_ADMIN): {}",
                                       std::strerror(errno)));
  return current();
}

UniqueFd Netns::descriptor() const { return UniqueFd(::ioctl(socket_.get(), SIOCGSKNS)); }

std::expected<NetnsTable, std::string> NetnsTable::open() {
  auto home = Netns::current();
  if (!home) return std::unexpected(home.error());
  return NetnsTable(std::move(*home));
}

NetnsTable::NetnsTable(Netns home) : home_(home.cookie()) { add(std::move(home)); }

const Netns* NetnsTable::find(std::uint64_t cookie) const {
  const auto found = all_.find(cookie);
  return found == all_.end() ? nullptr : &found->second;
}

const Netns& NetnsTable::add(Netns netns) {
  const std::uint64_t cookie = netns.cookie();
  return all_.try_emplace(cookie, std::move(netns)).first->second;
}

void NetnsTable::remove(std::uint64_t cookie) { all_.erase(cookie); }

void NetnsTable::for_each(const std::function<void(const Netns&)>& visit) const {
  for (const auto& [cookie, netns] : all_) visit(netns);
}

bool for_each_netns(const std::function<bool(int descriptor)>& visit,
                    std::optional<std::size_t> looks) {
  Visitor visitor(visit);
  Budget budget(looks);
  const auto is_process = [](const fs::directory_entry& entry) {
    return is_number(entry.path().filename().native());
  };
  const auto of_process = [&](const fs::directory_entry& entry) {
    return is_process(entry) && visitor.try_path(entry.path() / "ns/net");
  };
  const auto held_open = [&](const fs::directory_entry& entry) {
    return is_process(entry) && try_descriptors(visitor, budget, entry.path());
  };
  (void)(any_entry("/run/netns", budget,
                   [&](const auto& entry) { return visitor.try_path(entry.path()); }) ||
         any_entry("/proc", budget, of_process) || any_entry("/proc", budget, held_open));
  return !budget.exhausted();
}

std::optional<Netns> find_netns(std::uint64_t cookie) {
  std::optional<Netns> found;
  for_each_netns([&](int descriptor) {
    auto netns = Netns::of(descriptor);
    if (netns && netns->cookie() == cookie) found = std::move(*netns);
    return found.has_value();
  });
  return found;
}

std::expected<Netns, NotFound> find_netns_by_id(std::int32_t nsid, std::size_t looks) {
  std::optional<Netns> found;
  if (nsid < 0) return std::unexpected(NotFound::kNone);
  const bool whole = for_each_netns(
      [&](int descriptor) {
        if (nsid_of(descriptor) != nsid) return false;
        if (auto netns = Netns::of(descriptor)) found = std::move(*netns);
        return true;
      },
      looks);
  if (found) return std::move(*found);
  return std::unexpected(whole ? NotFound::kNone : NotFound::kTooMany);
}

std::int32_t nsid_of(int descriptor) { return psp::nsid_of(descriptor).value_or(-1); }

std::int32_t give_nsid(int descriptor) {
  if (const std::int32_t nsid = nsid_of(descriptor); nsid >= 0) return nsid;
  (void)assign_nsid(descriptor);  // whatever is answered: somebody else may have been faster
  return nsid_of(descriptor);
}

}  // namespace psp::kernel
