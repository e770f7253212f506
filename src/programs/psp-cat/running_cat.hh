// SPDX-License-Identifier: Apache-2.0
//
// Cat: a psp-cat that runs, for tests: its exit status, what it says on standard error, and what it
// may open and has used of the processor.
//
// Threading: the test's.
#pragma once

#include <chrono>
#include <csignal>
#include <ctime>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace psp::cat {

using Args = std::vector<std::string>;

// Cat is a running psp-cat. Descriptors given to it stay the caller's.
class Cat {
 public:
  Cat(Args args, int in, int out) {
    int err[2];
    EXPECT_EQ(pipe2(err, O_CLOEXEC), 0);
    args.insert(args.begin(), PSP_CAT);
    std::vector<char*> argv;
    for (auto& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(in, 0);
      dup2(out, 1);
      dup2(err[1], 2);
      execv(PSP_CAT, argv.data());
      _exit(127);
    }
    close(err[1]);
    err_ = err[0];
  }
  ~Cat() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(err_);
  }
  Cat(const Cat&) = delete;
  Cat& operator=(const Cat&) = delete;

  // port waits for "listening on ..." and is the port in it.
  std::string port() {
    while (said_.find("listening on ") == std::string::npos ||
           said_.find('\n', said_.find("listening on ")) == std::string::npos)
      if (!more()) return "0";
    const std::size_t at = said_.rfind(':', said_.find('\n', said_.find("listening on ")));
    return said_.substr(at + 1, said_.find('\n', at) - at - 1);
  }
  void wait_for(const std::string& text) {
    while (said_.find(text) == std::string::npos && more()) {
    }
  }
  void kill_it() const { kill(pid_, SIGKILL); }
  // let_open: it can open as many descriptors as it may, or none more. The limit is on the number
  // that a new one would get, so with 0 there is none for it; those that are open stay.
  void let_open(bool any) const {
    rlimit limit{};
    prlimit(pid_, RLIMIT_NOFILE, nullptr, &limit);
    limit.rlim_cur = any ? limit.rlim_max : 0;
    ASSERT_EQ(prlimit(pid_, RLIMIT_NOFILE, &limit, nullptr), 0);
  }
  std::chrono::nanoseconds processor_time() const {
    clockid_t clock;
    timespec now{};
    EXPECT_EQ(clock_getcpuclockid(pid_, &clock), 0);
    EXPECT_EQ(clock_gettime(clock, &now), 0);
    return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
  }
  void interrupt() const { kill(pid_, SIGINT); }
  // status waits for the end and is the exit status.
  int status() {
    while (more()) {
    }
    int status = -1;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  const std::string& said() const { return said_; }

 private:
  bool more() {
    char buffer[4096];
    pollfd p{err_, POLLIN, 0};
    if (poll(&p, 1, 20000) != 1) return false;
    const ssize_t n = read(err_, buffer, sizeof buffer);
    if (n > 0) said_.append(buffer, static_cast<std::size_t>(n));
    return n > 0;
  }
  pid_t pid_ = -1;
  int err_ = -1;
  std::string said_;
};

}  // namespace psp::cat
