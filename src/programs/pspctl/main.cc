// SPDX-License-Identifier: Apache-2.0
//
// pspctl, the operator's tool of softpsp: devices, keys, secured connections, counters. See
// pspctl(8). All of it is in command.cc and in one file per noun.
//
// main() is what tests must not have: the real streams and the real terminal. An exception here is
// one that nobody expected (no memory, for example): a sentence and a status, not an abort. SIGPIPE
// is left as it is, so that pspctl in a pipe ends as any other program does.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <unistd.h>
#include <vector>

#include "command.hh"

int main(int argc, char** argv) try {
  const char* no_colour = std::getenv("NO_COLOR");
  psp::ctl::Environment environment;
  environment.colour = isatty(STDOUT_FILENO) == 1 && (no_colour == nullptr || *no_colour == '\0');
  const std::vector<std::string> arguments(argv + (argc > 0), argv + argc);
  return static_cast<int>(psp::ctl::run(arguments, environment));
} catch (const std::exception& error) {
  std::fprintf(stderr, "pspctl: error: %s\n", error.what());
  return static_cast<int>(psp::ctl::ExitStatus::kFailed);
}
