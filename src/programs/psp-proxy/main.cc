// SPDX-License-Identifier: Apache-2.0
//
// psp-proxy: PSP for programs that cannot be changed. See psp-proxy(1).
//
// OpenSSL is told to wipe what it frees before it has allocated anything, which is why that comes
// first. SIGPIPE is ignored: a peer that goes away is an error code of one connection, not the end
// of all. Core dumps are off before any key is read.
#include <csignal>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "keyx/tls.hh"

#include "options.hh"
#include "proxy.hh"

namespace {

void set_up_log(bool quiet) {
  auto log = spdlog::stderr_color_mt("psp-proxy");
  log->set_pattern(isatty(STDERR_FILENO) ? "%n: %^%v%$" : "%n: %v");
  log->set_level(quiet ? spdlog::level::warn : spdlog::level::info);
  spdlog::set_default_logger(log);
}

// Keys pass through this memory: no core dump, no ptrace by others of the same user.
void keep_secrets() {
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
  prctl(PR_SET_DUMPABLE, 0);
}

}  // namespace

int main(int argc, char** argv) {
  const bool wiping = psp::keyx::wipe_what_openssl_frees();
  auto options = psp::proxy::parse_options(argc, argv);
  if (!options) return options.error();
  std::signal(SIGPIPE, SIG_IGN);
  keep_secrets();
  set_up_log(options->quiet);
  if (!wiping) spdlog::warn("OpenSSL leaves keys of TLS in the memory of this process");
  auto proxy = psp::proxy::Proxy::start(std::move(*options));
  if (!proxy) {
    spdlog::error("{}", proxy.error());
    return psp::proxy::kExitFailure;
  }
  return (*proxy)->run();
}
