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
#include <cinttypes>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <linux/bpf.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <span>
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

#include "kernel/bpf/structs.h"

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

// Object is the code of a program or library, from where it was mapped.
struct Object {
  std::uintptr_t begin = 0, end = 0, base = 0;
};

std::array<Object, 64> objects;
std::size_t object_count = 0;

[[gnu::constructor]] void find_objects() {
  const auto note = [](dl_phdr_info* info, std::size_t, void*) {
    for (std::size_t i = 0; i < info->dlpi_phnum; i++) {
      const ElfW(Phdr)& part = info->dlpi_phdr[i];
      if (part.p_type != PT_LOAD || !(part.p_flags & PF_X) || object_count == objects.size())
        continue;
      const std::uintptr_t begin = info->dlpi_addr + part.p_vaddr;
      objects[object_count++] = {begin, begin + part.p_memsz, info->dlpi_addr};
    }
    return 0;
  };
  ::dl_iterate_phdr(note, nullptr);
}

// line is a number for where a frame goes on, the same in each process; 0 in this library, whose
// own frames depend on who of it asks.
std::uint64_t line(const void* frame) {
  const auto at = reinterpret_cast<std::uintptr_t>(frame);
  const auto own = reinterpret_cast<std::uintptr_t>(&map_plan);
  for (std::size_t i = 0; i < object_count; i++) {
    const Object& object = objects[i];
    if (at < object.begin || at >= object.end) continue;
    if (own >= object.begin && own < object.end) return 0;
    return (at - object.base) | static_cast<std::uint64_t>(i) << 48;
  }
  return 0;
}

// Way is by which lines the code came here.
struct Way {
  std::array<void*, 64> frames{};
  int count = ::backtrace(frames.data(), static_cast<int>(frames.size()));

  std::span<void* const> lines() const {
    return std::span(frames).first(static_cast<std::size_t>(count));
  }
  std::uint64_t place() const {
    std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a, by words
    for (const void* frame : lines())
      if (const std::uint64_t one = line(frame); one != 0) hash = (hash ^ one) * 0x100000001b3;
    return hash;
  }
};

// is_new: is this the first time that this line is seen in this phase?
bool is_new(Phase phase, std::uint64_t line) {
  static std::array<std::uint64_t, 1 << 14> seen{};
  const std::uint64_t key = line ^ (static_cast<std::uint64_t>(phase) + 1) << 60;
  for (std::size_t at = key * 0x9e3779b97f4a7c15 >> 50;; at = (at + 1) % seen.size()) {
    if (seen[at] == key) return false;
    if (seen[at] != 0) continue;
    seen[at] = key;
    return true;
  }
}

// note notes a call. Returns whether it is the first one at its place.
bool note(const char* name, std::uint64_t detail) {
  const Phase phase = plan->now;
  const auto at = static_cast<std::size_t>(phase);
  const std::uint32_t number = plan->count[at]++;
  if (phase == Phase::kRun || number >= FaultPlan::kMostCalls) return false;
  const Way way;
  NotedCall& call = plan->calls[at][number];
  std::strncpy(call.name.data(), name, call.name.size() - 1);
  call.detail = detail;
  call.place = way.place();
  call.occurrence = 1;
  for (std::uint32_t i = 0; i < number; i++)
    if (plan->calls[at][i].place == call.place) call.occurrence++;
  call.new_line = false;
  for (const void* frame : way.lines()) call.new_line |= is_new(phase, line(frame));
  return call.occurrence == 1;
}

// meets: is this the call at which there is a fault?
bool meets(const char* name, std::uint64_t detail) {
  if (plan == nullptr || ::gettid() != ::getpid()) return false;
  if (plan->fault == FaultKind::kNone) return note(name, detail), false;
  if (plan->now != plan->phase) return false;
  if (plan->fault == FaultKind::kHaltBeforeEach) return note(name, detail);
  if ((plan->met && plan->fault != FaultKind::kFailOn) || plan->call.detail != detail ||
      std::strncmp(plan->call.name.data(), name, plan->call.name.size() - 1) != 0 ||
      Way().place() != plan->call.place || ++plan->at_place < plan->call.occurrence)
    return false;
  plan->met = true;
  return true;
}

// Pass is for as long as a call takes.
class Pass {
 public:
  explicit Pass(const char* name, std::uint64_t detail = 0) : meets_(meets(name, detail)) {
    if (meets_ &&
        (plan->fault == FaultKind::kHaltBefore || plan->fault == FaultKind::kHaltBeforeEach))
      ::raise(SIGSTOP);
  }
  ~Pass() {
    if (!meets_ || plan->fault != FaultKind::kHaltAfter) return;
    const int error = errno;
    ::raise(SIGSTOP);
    errno = error;
  }
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;

  // fails: does this call? errno is set then.
  bool fails() const {
    if (!meets_ || (plan->fault != FaultKind::kFail && plan->fault != FaultKind::kFailOn))
      return false;
    show();
    errno = plan->error;
    return true;
  }

 private:
  // show says where, for who looks into a case (PSP_FAULT_SHOW=1).
  static void show() {
    if (std::getenv("PSP_FAULT_SHOW") == nullptr) return;
    const Way way;
    ::backtrace_symbols_fd(way.frames.data(), way.count, STDERR_FILENO);
  }

  const bool meets_;
};

// Client is whose request is being answered.
int client = -1;

void hear(int fd, ssize_t result) {
  int domain = 0;
  socklen_t length = sizeof domain;
  if (plan == nullptr || result <= 0 || !plan->listens || ::gettid() != ::getpid()) return;
  static const auto ask = next<decltype(&::getsockopt)>("getsockopt");
  if (ask(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || domain != AF_UNIX) return;
  plan->listens = false;
  plan->now = Phase::kAsked;
  client = fd;
}

void answer(int fd) {
  if (plan == nullptr || fd != client || ::gettid() != ::getpid()) return;
  plan->now = Phase::kRun;
  client = -1;
}

// note_program notes the id of a program of ours that was loaded, not of libbpf's, which only asks
// what the kernel can do.
void note_program(int program) {
  bpf_prog_info info{};
  bpf_attr attr{};
  attr.info.bpf_fd = static_cast<std::uint32_t>(program);
  attr.info.info_len = sizeof info;
  attr.info.info = reinterpret_cast<std::uintptr_t>(&info);
  static const auto bpf = next<decltype(&::syscall)>("syscall");
  if (bpf(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof attr) != 0) return;
  if (std::strncmp(info.name, "psp_", 4) != 0) return;
  if (plan->program_count < FaultPlan::kMostPrograms)
    plan->programs[plan->program_count++] = info.id;
}

std::uint64_t message_type(const void* message, std::size_t size) {
  return size >= sizeof(nlmsghdr) ? static_cast<const nlmsghdr*>(message)->nlmsg_type : 0;
}

// Moment is a time, and how long the main thread has had a processor or waited for one.
struct Moment {
  std::uint64_t time = 0, runnable = 0;
};

Moment moment() {
  Moment now;
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  now.time = static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000u +
             static_cast<std::uint64_t>(time.tv_nsec);
  char text[64] = "";
  const auto fd = static_cast<int>(
      ::syscall(SYS_openat, AT_FDCWD, "/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC, 0));
  if (fd < 0) return now;
  std::uint64_t had = 0, waited = 0;
  if (::read(fd, text, sizeof text - 1) > 0 &&
      std::sscanf(text, "%" SCNu64 " %" SCNu64, &had, &waited) == 2)
    now.runnable = had + waited;
  ::close(fd);
  return now;
}

Moment stopping;

[[gnu::destructor]] void note_end() {
  if (plan == nullptr || plan->now != Phase::kStop) return;
  const Moment end = moment();
  plan->blocked = end.time - stopping.time - (end.runnable - stopping.runnable);
}

void note_sleep(const timespec& time) {
  if (plan == nullptr || plan->now != Phase::kStop || ::gettid() != ::getpid()) return;
  plan->asked_to_sleep += static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000u +
                          static_cast<std::uint64_t>(time.tv_nsec);
}

void note_dump(const void* message, std::size_t size) {
  const auto* header = static_cast<const nlmsghdr*>(message);
  if (plan != nullptr && message_type(message, size) == SOCK_DIAG_BY_FAMILY &&
      (header->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP)
    plan->socket_dumps++;
}

}  // namespace
}  // namespace psp::lab

using psp::lab::message_type;
using psp::lab::next;
using psp::lab::Pass;

#define PSP_PASS(name, failure, detail, ...)               \
  static const auto real = next<decltype(&::name)>(#name); \
  const Pass pass(#name, detail);                          \
  return pass.fails() ? failure : real(__VA_ARGS__)

extern "C" {

// libbpf has no other way to bpf(2).
long syscall(long number, ...) noexcept {
  va_list list;
  va_start(list, number);
  long word[6];
  for (long& one : word) one = va_arg(list, long);
  va_end(list);
  static const auto real = next<decltype(&::syscall)>("syscall");
  // A wait for a thread of its own: the kernel refuses none, and how many there are is a race.
  if (number == SYS_futex)
    return real(number, word[0], word[1], word[2], word[3], word[4], word[5]);
  const bool bpf = number == SYS_bpf;
  const Pass pass(bpf ? "bpf" : "syscall", static_cast<std::uint64_t>(bpf ? word[0] : number));
  if (pass.fails()) return -1;
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
  const auto detail = static_cast<std::uint64_t>(level == PSP_SOL ? PSP_SOL | name : name);
  PSP_PASS(setsockopt, -1, detail, fd, level, name, value, length);
}
int getsockopt(int fd, int level, int name, void* value, socklen_t* length) noexcept {
  // What pspd's programs are asked has another number in each pspd.
  const auto detail = static_cast<std::uint64_t>(level == PSP_SOL ? PSP_SOL : name);
  PSP_PASS(getsockopt, -1, detail, fd, level, name, value, length);
}
int getsockname(int fd, sockaddr* address, socklen_t* length) noexcept {
  PSP_PASS(getsockname, -1, 0, fd, address, length);
}
ssize_t send(int fd, const void* from, size_t size, int flags) {
  psp::lab::answer(fd);
  PSP_PASS(send, -1, message_type(from, size), fd, from, size, flags);
}
ssize_t sendto(int fd, const void* from, size_t size, int flags, const sockaddr* address,
               socklen_t length) {
  psp::lab::note_dump(from, size);
  PSP_PASS(sendto, -1, message_type(from, size), fd, from, size, flags, address, length);
}
ssize_t recv(int fd, void* to, size_t size, int flags) {
  PSP_PASS(recv, -1, 0, fd, to, size, flags);
}
ssize_t recvfrom(int fd, void* to, size_t size, int flags, sockaddr* address, socklen_t* length) {
  PSP_PASS(recvfrom, -1, 0, fd, to, size, flags, address, length);
}
ssize_t recvmsg(int fd, msghdr* message, int flags) {
  static const auto real = next<decltype(&::recvmsg)>("recvmsg");
  const Pass pass("recvmsg");
  if (pass.fails()) return -1;
  const ssize_t result = real(fd, message, flags);
  psp::lab::hear(fd, result);
  return result;
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
  const Pass pass("pthread_create");
  return pass.fails() ? EAGAIN : real(thread, attributes, start, data);
}

// What libc sleeps by, as programs call it.
int nanosleep(const timespec* time, timespec* left) {
  psp::lab::note_sleep(*time);
  static const auto real = next<decltype(&::nanosleep)>("nanosleep");
  return real(time, left);
}
int clock_nanosleep(clockid_t clock, int flags, const timespec* time, timespec* left) {
  if ((flags & TIMER_ABSTIME) == 0) psp::lab::note_sleep(*time);
  static const auto real = next<decltype(&::clock_nanosleep)>("clock_nanosleep");
  return real(clock, flags, time, left);
}
int usleep(useconds_t time) {
  psp::lab::note_sleep({.tv_sec = time / 1'000'000, .tv_nsec = long{time % 1'000'000} * 1000});
  static const auto real = next<decltype(&::usleep)>("usleep");
  return real(time);
}
int poll(pollfd* fds, nfds_t count, int timeout) {
  static const auto real = next<decltype(&::poll)>("poll");
  const int ready = real(fds, count, timeout);
  if (ready == 0 && timeout > 0)
    psp::lab::note_sleep({.tv_sec = timeout / 1000, .tv_nsec = long{timeout % 1000} * 1'000'000});
  return ready;
}

int sd_notify(int keep, const char* state) {
  using psp::lab::Phase;
  using psp::lab::plan;
  if (plan != nullptr) {
    const bool halts =
        plan->fault == psp::lab::FaultKind::kHaltBeforeEach && plan->now == plan->phase;
    plan->now = std::strcmp(state, "STOPPING=1") == 0    ? Phase::kStop
                : std::strcmp(state, "RELOADING=1") == 0 ? Phase::kAsked
                                                         : Phase::kRun;
    if (halts) ::raise(SIGSTOP);
  }
  if (plan != nullptr && plan->now == Phase::kStop) psp::lab::stopping = psp::lab::moment();
  static const auto real = next<decltype(&::sd_notify)>("sd_notify");
  return real(keep, state);
}

}  // extern "C"
