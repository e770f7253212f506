// SPDX-License-Identifier: Apache-2.0
//
// The loop runs between two calls of the host: start and stop. What a file says is checked before
// anything changes; what cannot change while it runs the host names itself.
//
// systemd hears READY only when clients may ask, and again after each reload, also one that failed:
// pspd then goes on with what it had. The exit code is that of the loop where the host ended it,
// else that of the stop, which is 1 if programs had to stay.
#include "serve.hh"

#include <csignal>
#include <cstring>
#include <fmt/ranges.h>
#include <memory>
#include <systemd/sd-daemon.h>
#include <vector>

#include "base/event_loop.hh"
#include "host/host.hh"

#include "log.hh"
#include "signals.hh"

namespace psp {
namespace {

void reload(host::Host& host, const std::string& config, const Log& log, const Again& again) {
  if (config.empty())
    return log.info("there is no configuration file to read again (--config): nothing changes");
  struct Reloading {  // systemd waits for its end, whatever happens
    Reloading() { ::sd_notify(0, "RELOADING=1"); }
    ~Reloading() { ::sd_notify(0, "READY=1"); }
  } reloading;
  if (const auto next = again()) {
    set_log_level(next->log_level);
    host.apply(*next);
    log.info("{} read again", config);
  } else {
    log.error("{} has a mistake: nothing changes", config);
  }
}

}  // namespace

int serve(const Options& options, const Log& log, const Again& again) {
  EventLoop loop;
  auto started = host::Host::start(loop, log, options, PSP_RELEASE);
  if (!started) {
    log.error("{}", started.error());
    return 1;
  }
  host::Host& host = **started;
  std::vector<Loop::Source> signals;
  for (const int signal : stop_signals())
    signals.push_back(loop.on_signal(signal, [&, signal] {
      log.info("caught {}", signal_name(signal));
      if (signal == SIGHUP) return reload(host, options.config, log, again);
      loop.stop(0);
    }));
  loop.watchdog();
  if (!loop.complete()) {
    log.error("the event loop is out of descriptors or memory");
    (void)host.stop();
    return 1;
  }
  if (const int error = ::sd_notify(0, "READY=1"); error < 0)
    log.warn("systemd cannot be told that pspd is ready: {}", std::strerror(-error));
  if (const auto names = host.waiting_for(); names.empty())
    log.info("ready");
  else
    log.info("ready, waiting for {}", fmt::join(names, ", "));
  const int wanted = loop.run();
  ::sd_notify(0, "STOPPING=1");
  log.info("stopping");
  const int code = host.stop();
  return wanted != 0 ? wanted : code;
}

}  // namespace psp
