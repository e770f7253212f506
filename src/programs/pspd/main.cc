// SPDX-License-Identifier: Apache-2.0
//
// pspd: gives netdevs a PSP device in software. See pspd(8).
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon.hh"
#include "leftovers.hh"
#include "options.hh"
#include "signals.hh"

namespace {

// keep_secrets: device keys live in this process. No core dump, no ptrace by others of the same
// user, nothing written to swap.
// False, with errno: they could get out.
[[nodiscard]] bool keep_secrets() {
  const rlimit none{0, 0};
  if (::setrlimit(RLIMIT_CORE, &none) != 0 || ::prctl(PR_SET_DUMPABLE, 0) != 0) return false;
  if (::mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
    spdlog::warn(
        "memory cannot be locked (CAP_IPC_LOCK or LimitMEMLOCK): keys could reach the swap");
  return true;
}

void set_up_log(const std::string& level) {
  auto log = spdlog::stderr_color_mt("pspd");
  log->set_pattern(::isatty(STDERR_FILENO) ? "%n: %^%v%$" : "%n: %v");
  log->set_level(spdlog::level::from_str(level));
  spdlog::set_default_logger(log);
}

}  // namespace

int main(int argc, char** argv) {
  const auto options = psp::parse_options(argc, argv);
  if (!options) return options.error();
  set_up_log(options->log_level);
  if (::geteuid() != 0) {
    spdlog::error(
        "pspd needs root (CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_NET_RAW)");
    return 5;
  }
  ::signal(SIGPIPE, SIG_IGN);
  psp::block_stop_signals();
  psp::report_crashes();
  if (options->cleanup) return psp::clean_up(*options);
  if (!keep_secrets()) {
    spdlog::error("core dumps cannot be switched off: {}", std::strerror(errno));
    return 1;
  }
  auto daemon =
      psp::Daemon::start(*options, [argc, argv] { return psp::parse_options(argc, argv); });
  if (!daemon) {
    spdlog::error("{}", daemon.error());
    return 1;
  }
  return (*daemon)->run();
}
