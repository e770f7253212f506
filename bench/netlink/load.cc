// SPDX-License-Identifier: Apache-2.0
//
// Requests to a running pspd: dev-get, then rx-assoc and tx-assoc on real connections, by so many
// clients at a time. bench/netlink/run starts it.
//
//   psp-bench-netlink --listen                  accepts and holds connections
//   psp-bench-netlink --flood CONNECTIONS       as nobody, asks on each for all associations,
//   always psp-bench-netlink --host H --pairs N --clients C [--port P] [--pid PSPD]
//
// Prints one line of JSON: requests per second and latencies in microseconds, seen by the clients,
// and what pspd's control thread needed of its processor, if its process id is given.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <arpa/inet.h>
#include <atomic>
#include <barrier>
#include <chrono>
#include <fmt/format.h>
#include <fstream>
#include <grp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/unique_fd.hh"
#include "netlink/client.hh"

#include "tool.hh"

namespace {

using namespace psp;
using Clock = std::chrono::steady_clock;

[[noreturn]] void die(const std::string& text) {
  fmt::print(stderr, "psp-bench-netlink: {}\n", text);
  std::exit(1);
}

void raise_descriptors() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max = std::max<rlim_t>(limit.rlim_max, 1 << 18);
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
}

int hold_connections(std::uint16_t port) {
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  const int on = 1;
  (void)::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener.get(), 4096) != 0)
    die("cannot listen");
  std::vector<UniqueFd> held;
  for (;;) {
    UniqueFd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (fd) held.push_back(std::move(fd));
  }
}

UniqueFd connect_to(const std::string& host, std::uint16_t port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (::inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1) die("no address: " + host);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    die(std::string("cannot connect: ") + std::strerror(errno));
  return fd;
}

// Kind is what is asked, with the latencies of each client.
struct Kind {
  const char* name;
  std::vector<std::vector<double>> all{};
};

std::string summary(const Kind& kind) {
  std::vector<double> all;
  for (const auto& one : kind.all) all.insert(all.end(), one.begin(), one.end());
  std::ranges::sort(all);
  const auto at = [&](double share) {
    return all[std::min(all.size() - 1, static_cast<std::size_t>(share * all.size()))];
  };
  return fmt::format(R"("{}_p50_us": {:.1f}, "{}_p99_us": {:.1f}, "{}_max_us": {:.1f})", kind.name,
                     at(0.5), kind.name, at(0.99), kind.name, all.back());
}

// cpu_us is the time that the main thread of a process has had a processor, in microseconds.
double cpu_us(int pid) {
  std::uint64_t nanoseconds = 0;
  if (pid != 0) std::ifstream(fmt::format("/proc/{0}/task/{0}/schedstat", pid)) >> nanoseconds;
  return static_cast<double>(nanoseconds) * 1e-3;
}

struct Job {
  std::vector<UniqueFd> sockets;
  std::size_t dev_gets = 0;
};

template <typename Ask>
void time(std::vector<double>& into, Ask&& ask) {
  const auto start = Clock::now();
  const auto answer = ask();
  into.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  if (!answer) die(answer.error().message);
}

int load(const std::string& host, std::uint16_t port, std::size_t pairs, std::size_t clients,
         int pid) {
  std::vector<Job> jobs(clients);
  for (std::size_t i = 0; i < pairs; ++i)
    jobs[i % clients].sockets.push_back(connect_to(host, port));
  Kind dev_get{"dev_get"}, rx{"rx_assoc"}, tx{"tx_assoc"};
  for (Kind* kind : {&dev_get, &rx, &tx}) kind->all.resize(clients);
  double get_seconds = 0, pair_seconds = 0;
  Clock::time_point start;
  double cpu[3] = {};
  std::size_t phase = 0;
  std::barrier sync(static_cast<std::ptrdiff_t>(clients), [&]() noexcept {
    const auto now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - start).count();
    if (phase == 1) get_seconds = seconds;
    if (phase == 2) pair_seconds = seconds;
    cpu[phase++] = cpu_us(pid);
    start = now;
  });
  std::vector<std::thread> threads;
  threads.reserve(clients);
  for (std::size_t i = 0; i < clients; ++i)
    threads.emplace_back([&, i] {
      auto client = Client::connect_daemon();
      if (!client) die(client.error().message);
      const auto devices = client->devices();
      if (!devices || devices->empty()) die("no device");
      const std::uint32_t id = devices->front().id;
      KeyInfo key{.spi = {5}, .key = {}};
      key.key.resize(16);
      sync.arrive_and_wait();
      for (std::size_t n = 0; n < jobs[i].sockets.size(); ++n)
        time(dev_get.all[i], [&] { return client->device(id); });
      sync.arrive_and_wait();
      for (const UniqueFd& fd : jobs[i].sockets) {
        time(rx.all[i], [&] { return client->rx_assoc(fd.get(), Version::kAesGcm128); });
        time(tx.all[i], [&] { return client->tx_assoc(fd.get(), Version::kAesGcm128, key); });
      }
      sync.arrive_and_wait();
    });
  for (std::thread& thread : threads) thread.join();

  auto client = Client::connect_daemon();
  if (!client) die(client.error().message);
  const auto before = client->associations();
  const auto closed = Clock::now();
  const linger abort{1, 0};  // no TIME_WAIT: thousands of ports are free again
  for (Job& job : jobs)
    for (const UniqueFd& fd : job.sockets)
      (void)::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
  jobs.clear();
  std::size_t left = 1;
  while (left != 0 && Clock::now() - closed < std::chrono::seconds(20)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    const auto now = client->associations();
    if (!now) die(now.error().message);
    left = now->size();
  }
  fmt::print(R"({{"clients": {}, "pairs": {}, "dev_get_per_s": {:.0f}, "pairs_per_s": {:.0f}, )",
             clients, pairs, pairs / get_seconds, pairs / pair_seconds);
  fmt::print(R"("dev_get_cpu_us": {:.2f}, "pair_cpu_us": {:.2f}, )", (cpu[1] - cpu[0]) / pairs,
             (cpu[2] - cpu[1]) / pairs);
  fmt::print(R"({}, {}, {}, "associations": {}, "left_after_close": {}, "gone_ms": {}}})"
             "\n",
             summary(dev_get), summary(rx), summary(tx), before ? before->size() : 0, left,
             std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - closed).count());
  return 0;
}

// flood is what an unprivileged user can do to the others: it asks for the longest answer there is,
// without end.
int flood(std::size_t connections) {
  constexpr uid_t kNobody = 65534;
  if (::setgroups(0, nullptr) != 0 || ::setresgid(kNobody, kNobody, kNobody) != 0 ||
      ::setresuid(kNobody, kNobody, kNobody) != 0)
    die("cannot be nobody");
  std::vector<std::thread> threads;
  threads.reserve(connections);
  for (std::size_t i = 0; i < connections; ++i)
    threads.emplace_back([] {
      for (;;) {
        auto client = Client::connect_daemon();
        while (client && client->associations()) {
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    });
  for (std::thread& thread : threads) thread.join();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Requests to a running pspd"};
  psp::name_tool(app, "psp-bench-netlink");
  bool listen = false;
  std::string host = "10.77.0.2";
  std::uint16_t port = 7200;
  std::size_t pairs = 10'000, clients = 1, flooding = 0;
  int pid = 0;
  app.add_flag("--listen", listen, "accept and hold connections");
  app.add_option("--flood", flooding, "connections that ask for all associations without end");
  app.add_option("--host", host, "where to connect to");
  app.add_option("--port", port, "TCP port");
  app.add_option("--pairs", pairs, "connections to secure")->check(CLI::PositiveNumber);
  app.add_option("--pid", pid, "process id of pspd");
  app.add_option("--clients", clients, "how many ask at a time")->check(CLI::Range(1, 64));
  CLI11_PARSE(app, argc, argv);
  raise_descriptors();
  if (flooding != 0) return flood(flooding);
  return listen ? hold_connections(port) : load(host, port, pairs, clients, pid);
}
