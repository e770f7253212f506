// SPDX-License-Identifier: Apache-2.0
//
// pspd: gives netdevs a PSP device in software. See pspd(8). The program is its options, its log,
// its signals and what protects its secrets; the rest is src/host.
//
// The order matters: signals are blocked before the first thread, so that none of them has them;
// and secrets are protected before the first key is made. Core dumps that cannot be switched off
// are an error; memory that cannot be locked is a warning, since only the swap is at stake.
#include <cerrno>
#include <csignal>
#include <cstring>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "host/takeover.hh"
#include "kernel/programs.hh"

#include "log.hh"
#include "options.hh"
#include "serve.hh"
#include "signals.hh"

namespace {

// protect_secrets: device keys live in this process. No core dump, no ptrace by others of the same
// user, nothing written to swap. False, with errno: they could get out.
[[nodiscard]] bool protect_secrets(const psp::Log& log) {
  const rlimit none{0, 0};
  if (::setrlimit(RLIMIT_CORE, &none) != 0 || ::prctl(PR_SET_DUMPABLE, 0) != 0) return false;
  if (::mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
    log.warn("memory cannot be locked (CAP_IPC_LOCK or LimitMEMLOCK): keys could reach the swap");
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  const auto options = psp::parse_options(argc, argv);
  if (!options) return options.error();
  const psp::Log log = psp::make_log(options->log_level);
  if (::geteuid() != 0) {
    log.error("pspd needs root (CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_NET_RAW)");
    return 5;
  }
  ::signal(SIGPIPE, SIG_IGN);
  psp::block_stop_signals();
  psp::report_crashes();
  psp::kernel::quiet_libbpf();
  if (options->cleanup) return psp::host::clean_up(options->devices, log);
  if (!protect_secrets(log)) {
    log.error("core dumps cannot be switched off: {}", std::strerror(errno));
    return 1;
  }
  return psp::serve(*options, log, [argc, argv] { return psp::parse_options(argc, argv); });
}
