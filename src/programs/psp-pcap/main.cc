// SPDX-License-Identifier: Apache-2.0
//
// psp-pcap: captures of PSP traffic, sealed, opened, checked, explained. See psp-pcap(1).
//
// What can fail before the capture is opened fails in this order, each with an exit code of its
// own: the cryptography has passed its self-test before a key is read, and keys are read before the
// capture is opened. What the commands do is in transcode.cc, check.cc and explain.cc.
#include <fmt/format.h>
#include <sys/prctl.h>

#include "commands.hh"
#include "problems.hh"

namespace psp::pcap_tool {
namespace {

int run(const Options& options) {
  const crypto::Backend* backend = crypto::find_backend(options.backend);
  if (backend == nullptr) {
    say(fmt::format("error: --backend: there is no \"{}\" here", options.backend));
    return kExitUsage;
  }
  if (const auto failed = crypto::self_test(*backend)) {
    say(fmt::format("error: self-test of {} failed: {}", backend->name(), *failed));
    return kExitSelfTest;
  }
  CaptureKeys keys(*backend);
  const auto sealing = load_keys(options, keys);
  if (!sealing) {
    say("error: " + sealing.error());
    return kExitKeys;
  }
  auto reader = pcap::Reader::open(options.in);
  if (!reader) {
    say("error: " + reader.error());
    return kExitFile;
  }
  Job job{options, *reader, keys, *sealing};
  switch (options.command) {
    case Command::kEncrypt:
    case Command::kDecrypt:
      return run_transcode(job);
    case Command::kCheck:
      return run_check(job);
    case Command::kExplain:
      return run_explain(job);
  }
  return kExitUsage;
}

}  // namespace
}  // namespace psp::pcap_tool

int main(int argc, char** argv) {
  using namespace psp::pcap_tool;
  // Keys pass through this memory, so no core dumps. SIGPIPE is left as it was: who reads only the
  // beginning of the output ends this program quietly, as any other in a pipe.
  prctl(PR_SET_DUMPABLE, 0);
  const auto options = parse_options(argc, argv);
  if (!options) return options.error();
  return run(*options);
}
