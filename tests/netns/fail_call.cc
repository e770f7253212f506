// SPDX-License-Identifier: Apache-2.0
//
// A library to preload into pspd: it counts the calls by which pspd's main thread asks the kernel
// for anything that can be refused, notes them, and lets one of them fail, or halts before it (see
// fail_call.hh). $PSP_TEST_FAULT names the file of the FaultPlan. Where start and
// stop begin and end is known by sd_notify(3).
//
// What libc does within itself (if_nametoindex, opendir, malloc) does not pass here.
#include "fail_call.hh"

#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/netlink.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

namespace psp::lab {
namespace {

FaultPlan* plan = nullptr;

// next is the function that this one stands before.
template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

// Early: later pspd has given up what it takes to open the file.
[[gnu::constructor]] void map_plan() {
  const char* path = std::getenv("PSP_TEST_FAULT");
  const int fd =
      path != nullptr
          ? static_cast<int>(::syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0))
          : -1;
  if (fd < 0) return;
  void* memory = ::mmap(nullptr, sizeof(FaultPlan), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  if (memory != MAP_FAILED) plan = static_cast<FaultPlan*>(memory);
}

// place is a number for the way by which the code came here.
std::uint64_t place() {
  std::array<void*, 24> frames{};
  const int count = ::backtrace(frames.data(), frames.size());
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a, by words
  for (int i = 0; i < count; i++)
    hash = (hash ^ reinterpret_cast<std::uintptr_t>(frames[static_cast<std::size_t>(i)])) *
           0x100000001b3;
  return hash;
}

// fails notes a call, and tells whether it is the one that fails: errno is set then.
bool fails(const char* name, std::uint64_t detail = 0) {
  if (plan == nullptr || ::gettid() != ::getpid()) return false;
  const Phase phase = plan->now;
  const auto at = static_cast<std::size_t>(phase);
  const std::uint32_t number = ++plan->count[at];
  if (number <= FaultPlan::kMostCalls) {
    NotedCall& call = plan->calls[at][number - 1];
    call.detail = detail;
    if (plan->at == 0) call.place = place();
    std::strncpy(call.name.data(), name, call.name.size() - 1);
  }
  if (phase != plan->phase || number != plan->at) return false;
  if (plan->error == FaultPlan::kHalt) {
    ::raise(SIGSTOP);
    return false;
  }
  errno = plan->error;
  return true;
}

// note_program notes the id of a program that was loaded.
void note_program(int program) {
  bpf_prog_info info{};
  bpf_attr attr{};
  attr.info.bpf_fd = static_cast<std::uint32_t>(program);
  attr.info.info_len = sizeof info;
  attr.info.info = reinterpret_cast<std::uintptr_t>(&info);
  static const auto bpf = next<decltype(&::syscall)>("syscall");
  if (bpf(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof attr) != 0) return;
  if (plan->program_count < FaultPlan::kMostPrograms)
    plan->programs[plan->program_count++] = info.id;
}

std::uint64_t message_type(const void* message, std::size_t size) {
  return size >= sizeof(nlmsghdr) ? static_cast<const nlmsghdr*>(message)->nlmsg_type : 0;
}

}  // namespace
}  // namespace psp::lab

using psp::lab::fails;
using psp::lab::message_type;
using psp::lab::next;

#define PSP_PASS(name, failure, detail, ...)               \
  static const auto real = next<decltype(&::name)>(#name); \
  return fails(#name, detail) ? failure : real(__VA_ARGS__)

extern "C" {

// libbpf has no other way to bpf(2).
long syscall(long number, ...) noexcept {
  va_list list;
  va_start(list, number);
  long word[6];
  for (long& one : word) one = va_arg(list, long);
  va_end(list);
  static const auto real = next<decltype(&::syscall)>("syscall");
  const bool bpf = number == SYS_bpf;
  if (fails(bpf ? "bpf" : "syscall", static_cast<std::uint64_t>(bpf ? word[0] : number))) return -1;
  const long result = real(number, word[0], word[1], word[2], word[3], word[4], word[5]);
  if (psp::lab::plan != nullptr && bpf && word[0] == BPF_PROG_LOAD && result >= 0)
    psp::lab::note_program(static_cast<int>(result));
  return result;
}

int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list list;
  va_start(list, request);
  void* argument = va_arg(list, void*);
  va_end(list);
  PSP_PASS(ioctl, -1, request, fd, request, argument);
}

int fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  void* argument = va_arg(list, void*);
  va_end(list);
  PSP_PASS(fcntl, -1, static_cast<std::uint64_t>(command), fd, command, argument);
}
int fcntl64(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  void* argument = va_arg(list, void*);
  va_end(list);
  PSP_PASS(fcntl64, -1, static_cast<std::uint64_t>(command), fd, command, argument);
}

int open(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const mode_t mode = va_arg(list, mode_t);
  va_end(list);
  PSP_PASS(open, -1, 0, path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const mode_t mode = va_arg(list, mode_t);
  va_end(list);
  PSP_PASS(open64, -1, 0, path, flags, mode);
}
int openat(int directory, const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const mode_t mode = va_arg(list, mode_t);
  va_end(list);
  PSP_PASS(openat, -1, 0, directory, path, flags, mode);
}
FILE* fopen(const char* path, const char* mode) { PSP_PASS(fopen, nullptr, 0, path, mode); }
FILE* fopen64(const char* path, const char* mode) { PSP_PASS(fopen64, nullptr, 0, path, mode); }
// By name /proc is written; the log passes by the C library's own.
ssize_t write(int fd, const void* from, size_t size) { PSP_PASS(write, -1, 0, fd, from, size); }
void* mmap(void* at, size_t size, int protection, int flags, int fd, off_t offset) noexcept {
  PSP_PASS(mmap, MAP_FAILED, 0, at, size, protection, flags, fd, offset);
}

int fsopen(const char* type, unsigned flags) noexcept { PSP_PASS(fsopen, -1, 0, type, flags); }
int fsconfig(int fd, unsigned command, const char* key, const void* value, int more) noexcept {
  PSP_PASS(fsconfig, -1, command, fd, command, key, value, more);
}
int fsmount(int fd, unsigned flags, unsigned attributes) noexcept {
  PSP_PASS(fsmount, -1, 0, fd, flags, attributes);
}
int setns(int fd, int type) noexcept { PSP_PASS(setns, -1, 0, fd, type); }

int socket(int family, int type, int protocol) noexcept {
  PSP_PASS(socket, -1, static_cast<std::uint64_t>(family), family, type, protocol);
}
int bind(int fd, const sockaddr* address, socklen_t length) noexcept {
  PSP_PASS(bind, -1, address->sa_family, fd, address, length);
}
int listen(int fd, int backlog) noexcept { PSP_PASS(listen, -1, 0, fd, backlog); }
int setsockopt(int fd, int level, int name, const void* value, socklen_t length) noexcept {
  PSP_PASS(setsockopt, -1, static_cast<std::uint64_t>(name), fd, level, name, value, length);
}
int getsockopt(int fd, int level, int name, void* value, socklen_t* length) noexcept {
  PSP_PASS(getsockopt, -1, static_cast<std::uint64_t>(name), fd, level, name, value, length);
}
int getsockname(int fd, sockaddr* address, socklen_t* length) noexcept {
  PSP_PASS(getsockname, -1, 0, fd, address, length);
}
ssize_t send(int fd, const void* from, size_t size, int flags) {
  PSP_PASS(send, -1, message_type(from, size), fd, from, size, flags);
}
ssize_t sendto(int fd, const void* from, size_t size, int flags, const sockaddr* address,
               socklen_t length) {
  PSP_PASS(sendto, -1, message_type(from, size), fd, from, size, flags, address, length);
}
ssize_t recv(int fd, void* to, size_t size, int flags) {
  PSP_PASS(recv, -1, 0, fd, to, size, flags);
}
ssize_t recvfrom(int fd, void* to, size_t size, int flags, sockaddr* address, socklen_t* length) {
  PSP_PASS(recvfrom, -1, 0, fd, to, size, flags, address, length);
}
ssize_t recvmsg(int fd, msghdr* message, int flags) {
  PSP_PASS(recvmsg, -1, 0, fd, message, flags);
}

int epoll_create1(int flags) noexcept { PSP_PASS(epoll_create1, -1, 0, flags); }
int epoll_ctl(int poll, int command, int fd, epoll_event* event) noexcept {
  PSP_PASS(epoll_ctl, -1, static_cast<std::uint64_t>(command), poll, command, fd, event);
}
int timerfd_create(int clock, int flags) noexcept { PSP_PASS(timerfd_create, -1, 0, clock, flags); }
int timerfd_settime(int fd, int flags, const itimerspec* next_time, itimerspec* last) noexcept {
  PSP_PASS(timerfd_settime, -1, 0, fd, flags, next_time, last);
}
int signalfd(int fd, const sigset_t* set, int flags) noexcept {
  PSP_PASS(signalfd, -1, 0, fd, set, flags);
}
int eventfd(unsigned value, int flags) noexcept { PSP_PASS(eventfd, -1, 0, value, flags); }
int sched_getaffinity(pid_t pid, size_t size, cpu_set_t* set) noexcept {
  PSP_PASS(sched_getaffinity, -1, 0, pid, size, set);
}
// It returns the error, and sets none.
int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
                   void* data) noexcept {
  static const auto real = next<decltype(&::pthread_create)>("pthread_create");
  return fails("pthread_create") ? EAGAIN : real(thread, attributes, start, data);
}

int sd_notify(int keep, const char* state) {
  using psp::lab::Phase;
  using psp::lab::plan;
  if (plan != nullptr)
    plan->now = std::strcmp(state, "STOPPING=1") == 0 ? Phase::kStop : Phase::kRun;
  static const auto real = next<decltype(&::sd_notify)>("sd_notify");
  return real(keep, state);
}

}  // extern "C"
