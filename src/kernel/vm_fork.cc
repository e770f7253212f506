// SPDX-License-Identifier: Apache-2.0
//
// A uevent of the kernel, told from what others may send to the same group by its sender's
// credentials. Events that were lost count as the one that was waited for: new keys too many cost
// less than none.
//
// Threading: see vm_fork.hh.
#include "vm_fork.hh"

#include <array>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include "base/socket_options.hh"

namespace psp::kernel {
namespace {

constexpr unsigned kKernelGroup = 1;  // udevd tells its own listeners by group 2
constexpr int kBuffer = 1024 * 1024;
constexpr int kAtOnce = 64;

// only_changes has the kernel keep all but "change@" from the socket: devices that come and go, as
// many as anybody likes to make, cannot fill it.
bool only_changes(int fd) {
  std::array<sock_filter, 6> code = {{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x6368616e, 0, 3),  // "chan"
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 3),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x6e676540, 0, 1),  // "nge@"
      BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
      BPF_STMT(BPF_RET | BPF_K, 0),
  }};
  const sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  return ::setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0;
}

// of_kernel: whoever may send to others, as root of the namespace may, has a port or a process.
bool of_kernel(const sockaddr_nl& from, msghdr& message) {
  if (from.nl_pid != 0 || from.nl_groups != kKernelGroup) return false;
  for (const cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, const_cast<cmsghdr*>(part))) {
    ucred sender{};
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_CREDENTIALS) continue;
    std::memcpy(&sender, CMSG_DATA(part), sizeof sender);
    return sender.pid == 0 && sender.uid == 0;
  }
  return false;
}

}  // namespace

bool is_vm_fork(std::string_view message) {
  constexpr std::string_view kSetting("\0NEW_VMGENID=1\0", 15);
  return message.starts_with("change@") && message.find(kSetting) != std::string_view::npos;
}

std::expected<VmForkEvents, std::string> VmForkEvents::open() {
  UniqueFd fd(
      ::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT));
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = kKernelGroup;
  if (!fd || !set_option(fd.get(), SOL_SOCKET, SO_PASSCRED, 1) ||
      !set_option(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, kBuffer) || !only_changes(fd.get()) ||
      ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return std::unexpected(
        fmt::format("cannot hear of clones of this virtual machine: {}", std::strerror(errno)));
  return VmForkEvents(std::move(fd));
}

bool VmForkEvents::read() const {
  std::array<char, 4096> text;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(ucred))> control;
  bool forked = false;
  for (int i = 0; i < kAtOnce; i++) {
    sockaddr_nl from{};
    iovec part{text.data(), text.size()};
    msghdr message{};
    message.msg_name = &from;
    message.msg_namelen = sizeof from;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t n = ::recvmsg(fd_.get(), &message, 0);
    if (n < 0) return forked || errno == ENOBUFS;
    forked |= of_kernel(from, message) &&
              is_vm_fork(std::string_view(text.data(), static_cast<std::size_t>(n)));
  }
  return forked;
}

}  // namespace psp::kernel
