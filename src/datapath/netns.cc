// SPDX-License-Identifier: Apache-2.0
#include "netns.hh"

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <libmnl/libmnl.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <memory>
#include <sched.h>
#include <set>
#include <span>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

namespace psp::datapath {
namespace {

namespace fs = std::filesystem;

std::uint64_t cookie_of(int socket) {
  std::uint64_t cookie = 0;
  socklen_t length = sizeof cookie;
  return ::getsockopt(socket, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length) == 0 ? cookie : 0;
}

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

template <typename Call>
bool any_entry(const fs::path& directory, Call call) {
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error))
    if (call(*entry)) return true;
  return false;
}

// try_descriptors looks at the namespaces that a process holds open.
bool try_descriptors(Visitor& visitor, const fs::path& process) {
  return any_entry(process / "fd", [&](const fs::directory_entry& entry) {
    std::error_code error;
    const fs::path target = fs::read_symlink(entry.path(), error);
    return !error && target.native().starts_with("net:[") && visitor.try_path(entry.path());
  });
}

}  // namespace

std::expected<Netns, std::string> Netns::current() {
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const std::uint64_t cookie = socket ? cookie_of(socket.get()) : 0;
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

InNetns::InNetns(const Netns& netns) : InNetns(netns.descriptor().get()) {}

InNetns::InNetns(int descriptor)
    : before_(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)) {
  entered_ = before_ && ::setns(descriptor, CLONE_NEWNET) == 0;
}

InNetns::~InNetns() {
  if (!entered_ || ::setns(before_.get(), CLONE_NEWNET) == 0) return;
  std::fputs("pspd: cannot come back from a network namespace\n", stderr);
  std::abort();
}

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

void for_each_netns(const std::function<bool(int descriptor)>& visit) {
  Visitor visitor(visit);
  const auto is_process = [](const fs::directory_entry& entry) {
    return is_number(entry.path().filename().native());
  };
  if (any_entry("/run/netns", [&](const auto& entry) { return visitor.try_path(entry.path()); }))
    return;
  if (any_entry("/proc", [&](const auto& entry) {
        return is_process(entry) && visitor.try_path(entry.path() / "ns/net");
      }))
    return;
  any_entry("/proc", [&](const auto& entry) {
    return is_process(entry) && try_descriptors(visitor, entry.path());
  });
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

std::optional<Netns> find_netns_by_id(std::int32_t nsid) {
  std::optional<Netns> found;
  if (nsid < 0) return found;
  for_each_netns([&](int descriptor) {
    if (nsid_of(descriptor) != nsid) return false;
    if (auto netns = Netns::of(descriptor)) found = std::move(*netns);
    return true;
  });
  return found;
}

namespace {

using NlSocket = std::unique_ptr<mnl_socket, int (*)(mnl_socket*)>;

// ask_nsid sends a request about a namespace and returns the size of the answer in `buffer`.
ssize_t ask_nsid(std::uint16_t type, std::uint16_t flags, int descriptor, std::span<char> buffer) {
  const NlSocket nl(mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC), mnl_socket_close);
  if (!nl || mnl_socket_bind(nl.get(), 0, MNL_SOCKET_AUTOPID) < 0) return -1;
  nlmsghdr* request = mnl_nlmsg_put_header(buffer.data());
  request->nlmsg_type = type;
  request->nlmsg_flags = NLM_F_REQUEST | flags;
  mnl_nlmsg_put_extra_header(request, sizeof(rtgenmsg));
  mnl_attr_put_u32(request, NETNSA_FD, static_cast<std::uint32_t>(descriptor));
  if (type == RTM_NEWNSID) mnl_attr_put_u32(request, NETNSA_NSID, ~0u);  // any that is free
  if (mnl_socket_sendto(nl.get(), request, request->nlmsg_len) < 0) return -1;
  return mnl_socket_recvfrom(nl.get(), buffer.data(), buffer.size());
}

}  // namespace

std::int32_t nsid_of(int descriptor) {
  constexpr std::int32_t kNone = -1;
  alignas(nlmsghdr) char buffer[4096] = {};
  const ssize_t n = ask_nsid(RTM_GETNSID, 0, descriptor, buffer);
  if (n < 0) return kNone;
  std::int32_t nsid = kNone;
  const auto attribute = [](const nlattr* attr, void* data) {
    if (mnl_attr_get_type(attr) == NETNSA_NSID)
      *static_cast<std::int32_t*>(data) = static_cast<std::int32_t>(mnl_attr_get_u32(attr));
    return MNL_CB_OK;
  };
  const auto* message = reinterpret_cast<const nlmsghdr*>(buffer);
  if (mnl_nlmsg_ok(message, static_cast<int>(n)) && message->nlmsg_type == RTM_NEWNSID)
    mnl_attr_parse(message, sizeof(rtgenmsg), attribute, &nsid);
  return nsid;
}

std::int32_t give_nsid(int descriptor) {
  if (const std::int32_t nsid = nsid_of(descriptor); nsid >= 0) return nsid;
  alignas(nlmsghdr) char buffer[4096] = {};
  // Whatever is answered: somebody else may have been faster.
  (void)ask_nsid(RTM_NEWNSID, NLM_F_ACK, descriptor, buffer);
  return nsid_of(descriptor);
}

}  // namespace psp::datapath
