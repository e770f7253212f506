// SPDX-License-Identifier: Apache-2.0
//
// psp-cat: netcat that secures itself. PSP first, for it tells at once if this host has none; then
// TCP, TLS, the key exchange, the data. Each step gives what the next one needs, or a Failure: one
// sentence and the exit status.
//
// Keys pass through this process: no core dumps, and OpenSSL wipes what it frees. Both are seen to
// before anything else, the latter before OpenSSL has allocated anything.
#include <csignal>
#include <fmt/format.h>
#include <sys/prctl.h>

#include "keyx/tls.hh"
#include "wire/version_text.hh"

#include "dial.hh"
#include "options.hh"
#include "report.hh"
#include "secure.hh"
#include "stream.hh"

namespace psp::cat {
namespace {

std::expected<void, Failure> run(const Options& options, const Report& report, Summary& summary) {
  const auto context = keyx::make_context(options.tls);
  if (!context) return std::unexpected(to_failure(context.error()));
  if (const std::string named = readable(options.versions); !named.empty())
    say_always(fmt::format(
        "warning: {} would NOT encrypt: with it others can read all that is sent", named));
  for (const std::string& warning : context->warnings) say_always("warning: " + warning);
  const auto ops = make_ops(options, report);
  if (!ops) return std::unexpected(ops.error());

  auto connection =
      options.listen ? answer(options, report) : dial(options, Deadline(options.timeout));
  if (!connection) return std::unexpected(connection.error());
  summary.peer = connection->peer;
  auto channel = secure(std::move(*connection), *context, **ops, options, report,
                        Deadline(options.timeout), summary);
  if (!channel) return std::unexpected(channel.error());
  return stream(*channel, options, summary);
}

}  // namespace
}  // namespace psp::cat

int main(int argc, char** argv) {
  using namespace psp::cat;
  if (!psp::keyx::wipe_what_openssl_frees())
    say_always("warning: OpenSSL leaves keys of TLS in the memory of this process");
  // A reader or peer that goes away is an error code, not the end of the process; and keys pass
  // through this memory, so no core dumps.
  std::signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_DUMPABLE, 0);
  const auto options = parse_options(argc, argv);
  if (!options) return options.error();
  const Report report(*options);
  Summary summary;
  const auto done = run(*options, report, summary);
  report.finish(summary, done ? nullptr : &done.error());
  return done ? kExitOk : done.error().status;
}
