// SPDX-License-Identifier: Apache-2.0
//
// Namespaces are made by a thread that ends, so that the test's own thread never leaves the one it
// is in but by InNetns. pspd is a child whose log is read from a pipe. What the kernel holds for it
// (programs, maps, memory, descriptors) is asked of the kernel and of /proc, not of pspd.
#include "host.hh"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>

#include "kernel/hooks.hh"
#include "kernel/host_lock.hh"
#include "kernel/programs.hh"

namespace psp::lab {
namespace {

UniqueFd this_netns() { return UniqueFd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)); }

bool can_unshare() {
  bool can = false;
  std::thread([&can] { can = ::unshare(CLONE_NEWNET) == 0; }).join();
  return can;
}

int bpf(int command, bpf_attr& attributes) {
  return static_cast<int>(::syscall(SYS_bpf, command, &attributes, sizeof attributes));
}

UniqueFd map_by_id(unsigned id) {
  bpf_attr attributes{};
  attributes.map_id = id;
  return UniqueFd(bpf(BPF_MAP_GET_FD_BY_ID, attributes));
}

bool has_bpf() {
  bpf_attr attr{};
  attr.map_type = BPF_MAP_TYPE_ARRAY;
  attr.key_size = attr.value_size = 4;
  attr.max_entries = 1;
  return static_cast<bool>(UniqueFd(bpf(BPF_MAP_CREATE, attr)));
}

std::optional<std::string> find_missing() {
  if (::geteuid() != 0) return "needs root";
  if (!can_unshare()) return "needs network namespaces: unshare(CLONE_NEWNET) is refused";
  if (!UniqueFd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC)))
    return fmt::format("needs a TUN driver: /dev/net/tun: {}", std::strerror(errno));
  if (!has_bpf()) return fmt::format("needs bpf(2): {}", std::strerror(errno));
  if (::access("/sys/kernel/btf/vmlinux", R_OK) != 0)
    return "needs the kernel's BTF: /sys/kernel/btf/vmlinux";
  for (const char* tool : {"ip", "tc", "ethtool"})
    if (std::system(fmt::format("command -v {} >/dev/null", tool).c_str()) != 0)
      return fmt::format("needs the program {}", tool);
  return std::nullopt;
}

}  // namespace

std::runtime_error failure(const std::string& what) {
  return std::runtime_error(fmt::format("{}: {}", what, std::strerror(errno)));
}

const std::optional<std::string>& missing() {
  static const std::optional<std::string> what = find_missing();
  return what;
}

bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(2ms);
  }
  return true;
}

Netns::Netns() {
  std::thread([this] {
    if (::unshare(CLONE_NEWNET) == 0) fd_ = this_netns();
  }).join();
  if (!fd_) throw failure("unshare(CLONE_NEWNET)");
  calm();
}

Netns::Netns(UniqueFd fd) : fd_(std::move(fd)) {
  if (!fd_) throw failure("no network namespace");
  calm();
}

void Netns::calm() const {
  for (const char* where : {"all", "default"}) {
    write_sysctl(*this, fmt::format("net/ipv4/conf/{}/rp_filter", where), "0");
    write_sysctl(*this, fmt::format("net/ipv6/conf/{}/accept_dad", where), "0");
    write_sysctl(*this, fmt::format("net/ipv6/conf/{}/router_solicitations", where), "0");
    write_sysctl(*this, fmt::format("net/ipv6/conf/{}/mldv1_unsolicited_report_interval", where),
                 "0");
  }
  sh("ip link set lo up");
}

std::string Netns::sh(const std::string& command) const {
  const InNetns inside(*this);
  std::FILE* pipe = ::popen(("exec 2>&1; " + command).c_str(), "re");
  if (pipe == nullptr) throw failure(command);
  std::string text;
  std::array<char, 4096> part;
  for (std::size_t n; (n = std::fread(part.data(), 1, part.size(), pipe)) > 0;)
    text.append(part.data(), n);
  const int status = ::pclose(pipe);
  EXPECT_EQ(status, 0) << command << "\n" << text;
  return text;
}

bool Netns::try_sh(const std::string& command) const {
  const InNetns inside(*this);
  return std::system((command + " >/dev/null 2>&1").c_str()) == 0;
}

InNetns::InNetns(const Netns& netns) : before_(this_netns()) {
  if (::setns(netns.fd(), CLONE_NEWNET) != 0) throw failure("setns");
}

InNetns::~InNetns() {
  if (::setns(before_.get(), CLONE_NEWNET) != 0) std::abort();
}

void write_sysctl(const Netns& netns, const std::string& path, const std::string& value) {
  const InNetns inside(netns);
  std::ofstream file("/proc/sys/" + path);
  file << value << std::flush;
  EXPECT_TRUE(file.good()) << path;
}

std::string pspd_path() {
  const char* other = std::getenv("PSPD");
  return other != nullptr ? other : PSP_PSPD_PATH;
}

namespace {

// pointers are those that execve(2) takes.
std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> all;
  for (std::string& word : words) all.push_back(word.data());
  all.push_back(nullptr);
  return all;
}

}  // namespace

Pspd::Pspd(const Netns& netns, const std::vector<std::string>& arguments,
           const std::vector<std::string>& environment) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw failure("pipe");
  out_.reset(ends[0]);
  const UniqueFd in(ends[1]);
  std::vector<std::string> words = {pspd_path()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<std::string> variables = environment;
  for (char** one = environ; *one != nullptr; one++) variables.emplace_back(*one);
  const std::vector<char*> argv = pointers(words), envp = pointers(variables);
  const InNetns inside(netns);
  pid_ = ::fork();
  if (pid_ < 0) throw failure("fork");
  if (pid_ > 0) return;
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  ::dup2(in.get(), STDERR_FILENO);
  ::dup2(in.get(), STDOUT_FILENO);
  ::execve(argv[0], argv.data(), envp.data());
  ::_exit(127);
}

Pspd::Pspd(Pspd&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      out_(std::move(other.out_)),
      log_(std::move(other.log_)) {}

Pspd::~Pspd() {
  if (running()) stop();
}

bool Pspd::read_log() {
  std::array<char, 4096> part;
  const ssize_t n = ::read(out_.get(), part.data(), part.size());
  if (n > 0) log_.append(part.data(), static_cast<std::size_t>(n));
  return n > 0;
}

const std::string& Pspd::log() {
  for (pollfd ready{out_.get(), POLLIN, 0}; out_ && ::poll(&ready, 1, 0) > 0;)
    if (!read_log()) out_.reset();
  return log_;
}

bool Pspd::wait_ready() { return wait_said("pspd: ready"); }

bool Pspd::wait_said(const std::string& text, std::size_t from) {
  while (log_.find(text, from) == std::string::npos)
    if (!read_log()) return false;
  return true;
}

void Pspd::send(int signal) const {
  if (running()) ::kill(pid_, signal);
}

int Pspd::wait() {
  if (!running()) return -1;
  int status = 0;
  while (read_log()) {
  }
  out_.reset();
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int Pspd::stop() {
  if (running()) ::kill(pid_, SIGTERM);
  return wait();
}

void Pspd::kill() {
  if (running()) ::kill(pid_, SIGKILL);
  wait();
}

std::vector<unsigned> programs_of(pid_t pid) {
  std::vector<unsigned> programs;
  for (const auto& entry :
       std::filesystem::directory_iterator(fmt::format("/proc/{}/fdinfo", pid))) {
    std::ifstream file(entry.path());
    for (std::string line; std::getline(file, line);)
      if (line.starts_with("prog_id:"))
        programs.push_back(static_cast<unsigned>(std::stoul(line.substr(8))));
  }
  return programs;
}

bool program_exists(unsigned id) {
  bpf_attr attributes{};
  attributes.prog_id = id;
  return static_cast<bool>(UniqueFd(bpf(BPF_PROG_GET_FD_BY_ID, attributes)));
}

bool any_exists(const std::vector<unsigned>& programs) {
  return std::ranges::any_of(programs, program_exists);
}

bool map_exists(unsigned id) { return static_cast<bool>(map_by_id(id)); }

std::map<unsigned, std::size_t> memlock_of(pid_t pid) {
  std::map<unsigned, std::size_t> maps;
  for (const auto& entry :
       std::filesystem::directory_iterator(fmt::format("/proc/{}/fdinfo", pid))) {
    std::ifstream file(entry.path());
    std::size_t memlock = 0;
    for (std::string line; std::getline(file, line);) {
      if (line.starts_with("memlock:")) memlock = std::stoul(line.substr(8));
      if (line.starts_with("map_id:"))
        maps[static_cast<unsigned>(std::stoul(line.substr(7)))] = memlock;  // which comes first
    }
  }
  return maps;
}

std::set<unsigned> maps_of(pid_t pid) {
  std::set<unsigned> maps;
  for (const auto& [id, memlock] : memlock_of(pid)) maps.insert(id);
  return maps;
}

namespace {

using Key = std::vector<std::uint8_t>;

// for_each_hash visits the hash maps that a process holds, with their keys.
void for_each_hash(pid_t pid, const std::function<void(const UniqueFd& map, const std::string& name,
                                                       const std::vector<Key>& keys)>& visit) {
  for (const unsigned id : maps_of(pid)) {
    const UniqueFd map = map_by_id(id);
    bpf_map_info info{};
    bpf_attr ask{};
    ask.info.bpf_fd = static_cast<std::uint32_t>(map.get());
    ask.info.info_len = sizeof info;
    ask.info.info = reinterpret_cast<std::uint64_t>(&info);
    if (!map || bpf(BPF_OBJ_GET_INFO_BY_FD, ask) != 0 || info.type != BPF_MAP_TYPE_HASH) continue;
    std::vector<Key> keys;
    Key key, next(info.key_size);
    bpf_attr step{};
    step.map_fd = static_cast<std::uint32_t>(map.get());
    step.next_key = reinterpret_cast<std::uint64_t>(next.data());
    while (bpf(BPF_MAP_GET_NEXT_KEY, step) == 0) {
      keys.push_back(key = next);
      step.key = reinterpret_cast<std::uint64_t>(key.data());
    }
    visit(map, info.name, keys);
  }
}

}  // namespace

std::map<std::string, std::size_t> entries_of(pid_t pid) {
  std::map<std::string, std::size_t> counts;
  for_each_hash(pid, [&](const UniqueFd&, const std::string& name, const std::vector<Key>& keys) {
    counts[name] += keys.size();
  });
  return counts;
}

std::size_t empty_map(pid_t pid, const std::string& name) {
  std::size_t count = 0;
  for_each_hash(pid, [&](const UniqueFd& map, const std::string& of, const std::vector<Key>& keys) {
    if (of != name) return;
    for (const Key& key : keys) {
      bpf_attr entry{};
      entry.map_fd = static_cast<std::uint32_t>(map.get());
      entry.key = reinterpret_cast<std::uint64_t>(key.data());
      count += bpf(BPF_MAP_DELETE_ELEM, entry) == 0;
    }
  });
  return count;
}

std::size_t descriptors_of(pid_t pid) {
  const std::filesystem::directory_iterator all(fmt::format("/proc/{}/fd", pid));
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

bool feature(const Netns& netns, const std::string& device, const std::string& name) {
  const std::string all = netns.sh("ethtool -k " + device);
  const std::size_t at = all.find(name + ": ");
  EXPECT_NE(at, std::string::npos) << name;
  return all.compare(at + name.size() + 2, 2, "on") == 0;
}

void set_feature(const Netns& netns, const std::string& device, const std::string& name, bool on) {
  netns.sh(fmt::format("ethtool -K {} {} {}", device, name, on ? "on" : "off"));
}

bool take_program_off(const Netns& netns, const std::string& netdev, bool egress) {
  const InNetns inside(netns);
  const auto side = egress ? kernel::Side::kEgress : kernel::Side::kIngress;
  const std::array<kernel::HookProgram, 2> places = {
      {{side, egress ? "psp_egress" : "psp_ingress"},
       {side, egress ? "psp_tap_egress" : "psp_tap_ingress"}}};
  return kernel::take_off(::if_nametoindex(netdev.c_str()), places, false).has_value();
}

UniqueFd open_tun(const Netns& netns) {
  const InNetns inside(netns);
  return UniqueFd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
}

int attach_queue(const UniqueFd& tun, const std::string& tap) {
  ifreq request{};
  tap.copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE);
  return ::ioctl(tun.get(), TUNSETIFF, &request) == 0 ? 0 : errno;
}

bool take_socket_program_off(pid_t daemon, const std::string& name) {
  const auto type = std::ranges::find(kernel::kCgroupPrograms, name,
                                      [](const auto& one) { return std::string(one.first); });
  if (type == kernel::kCgroupPrograms.end()) return false;
  const auto programs = kernel::open_programs(programs_of(daemon), name);
  const UniqueFd cgroup = kernel::root_cgroup();
  if (!programs || programs->empty() || !cgroup) return false;
  bpf_attr detach{};
  detach.target_fd = static_cast<std::uint32_t>(cgroup.get());
  detach.attach_bpf_fd = static_cast<std::uint32_t>(programs->front().get());
  detach.attach_type = type->second;
  return bpf(BPF_PROG_DETACH, detach) == 0;
}

}  // namespace psp::lab
