// SPDX-License-Identifier: Apache-2.0
//
// What the system tests need of the host: anonymous network namespaces, commands, pspd as a child
// process. Namespaces live as long as a descriptor of them, so a test that dies leaves none behind.
//
// Threading: a namespace is entered by one thread; the others stay where they are.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <sys/types.h>
#include <vector>

#include "base/unique_fd.hh"

namespace psp::lab {

using namespace std::chrono_literals;

// missing says what of root, network namespaces, TUN, BPF and iproute2 is not there, or nothing.
const std::optional<std::string>& missing();

// failure is what to throw when a call of the system failed: its errno behind `what`.
std::runtime_error failure(const std::string& what);

// eventually polls `condition` until it holds or `patience` is over. Returns whether it holds.
bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds patience = 5s);

// Netns is a network namespace with its loopback up and quiet: no router solicitations, no
// duplicate address detection, no reverse path filter.
class Netns {
 public:
  Netns();
  explicit Netns(UniqueFd fd);  // one that is there already
  int fd() const { return fd_.get(); }

  // sh runs a shell command inside and returns what it prints; a failure fails the test.
  std::string sh(const std::string& command) const;
  // try_sh only tells whether it worked.
  bool try_sh(const std::string& command) const;

 private:
  void calm() const;
  UniqueFd fd_;
};

// InNetns has the calling thread inside a namespace, and back outside when it goes.
class InNetns {
 public:
  explicit InNetns(const Netns& netns);
  ~InNetns();
  InNetns(const InNetns&) = delete;
  InNetns& operator=(const InNetns&) = delete;

 private:
  UniqueFd before_;
};

// take_program_off takes pspd's program off one side of a netdev or TAP, at all hooks, as only root
// of the host can; take_socket_program_off one of the programs of a pspd off the root cgroup.
bool take_program_off(const Netns& netns, const std::string& netdev, bool egress);
bool take_socket_program_off(pid_t daemon, const std::string& name);

// open_tun opens /dev/net/tun for the TAPs of a namespace; attach_queue asks by it for one more
// queue of a TAP. Returns 0 or an errno.
UniqueFd open_tun(const Netns& netns);
int attach_queue(const UniqueFd& tun, const std::string& tap);

// write_sysctl writes a file of /proc/sys as the namespace has it.
void write_sysctl(const Netns& netns, const std::string& path, const std::string& value);

// Pspd is the daemon as a child process: the one of this build, or the one that $PSPD names. If the
// test program dies it gets SIGTERM.
class Pspd {
 public:
  // `environment`: what it has besides that of the test, each as "NAME=VALUE".
  Pspd(const Netns& netns, const std::vector<std::string>& arguments,
       const std::vector<std::string>& environment = {});
  ~Pspd();
  Pspd(Pspd&&) noexcept;
  Pspd& operator=(Pspd&&) = delete;

  // wait_ready is true when it says that it is ready, false when it ended before.
  bool wait_ready();
  // stop sends SIGTERM; wait waits for the end. Both return the exit status, -1 for a signal.
  int stop();
  int wait();
  void kill();
  // send sends a signal; wait_said waits until the log has `text` past its first `from` octets,
  // false when it ended before.
  void send(int signal) const;
  bool wait_said(const std::string& text, std::size_t from = 0);
  bool running() const { return pid_ > 0; }
  pid_t pid() const { return pid_; }
  // log is what it has written so far.
  const std::string& log();

 private:
  bool read_log();

  pid_t pid_ = -1;
  UniqueFd out_;
  std::string log_;
};

// programs_of are the BPF programs that a process holds; program_exists tells whether the kernel
// still has one.
std::vector<unsigned> programs_of(pid_t pid);
bool program_exists(unsigned id);
bool any_exists(const std::vector<unsigned>& programs);
std::size_t descriptors_of(pid_t pid);

// maps_of are the BPF maps that a process holds; entries_of counts the keys of its hash maps, by
// the name of the maps.
std::set<unsigned> maps_of(pid_t pid);
bool map_exists(unsigned id);
// empty_map takes all out of the hash maps of that name that a process holds. How much it was.
std::size_t empty_map(pid_t pid, const std::string& name);
std::map<std::string, std::size_t> entries_of(pid_t pid);
// memlock_of is the kernel memory of each of these maps, in octets, by its number.
std::map<unsigned, std::size_t> memlock_of(pid_t pid);

// pspd_path is the program that Pspd starts.
std::string pspd_path();

// feature and set_feature are ethtool(8)'s, by its names.
bool feature(const Netns& netns, const std::string& device, const std::string& name);
void set_feature(const Netns& netns, const std::string& device, const std::string& name, bool on);

}  // namespace psp::lab
