// SPDX-License-Identifier: Apache-2.0
//
// The frame around the commands of pspctl: what a command is given, the table of nouns and verbs,
// and run(), which is all of the program but main().
//
// A command reads its words, asks the Client, prints by the Emitter, and says by an Outcome how it
// ended. It writes nothing to standard output beside the Emitter, so that -j is JSON in any case.
// The world outside comes in as an Environment: tests run commands in their own process.
#pragma once

#include <chrono>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "emitter.hh"
#include "failure.hh"
#include "options.hh"

namespace psp::ctl {

// Environment is the world outside, so that tests can be one.
struct Environment {
  std::FILE* in = stdin;
  std::FILE* out = stdout;
  std::FILE* err = stderr;
  bool colour = false;  // what --color=auto means here
  std::function<std::chrono::system_clock::time_point()> now = std::chrono::system_clock::now;
};

// Context is what a command works with.
struct Context {
  const Options& options;
  const Environment& environment;
  Words words;  // behind noun and verb
  Emitter out;

  // connect goes to the kernel's family and to pspd; with --socket only to the pspd there.
  Outcome<Client> connect() const;

  // daemon_info is what pspd says of itself, if -s or -d asks for it and there is a pspd.
  Outcome<std::optional<DaemonInfo>> daemon_info(Client& client) const;
};

using Handler = Outcome<void> (*)(Context&);

struct Verb {
  std::string_view name;
  Handler handler;
  std::string_view alias = {};
};

// Noun is one kind of object. The first verb is what a noun alone means, if `alone` is set. Words
// may be abbreviated; the first that fits is meant, so that new nouns and verbs go to the end.
struct Noun {
  std::string_view name;
  std::string_view help;
  bool alone;
  std::vector<Verb> verbs;  // one with an empty name: the noun is its own verb
  Tail tail = Tail::kWords;
};

// One file per noun.
Noun dev_noun();
Noun key_noun();
Noun assoc_noun();
Noun stats_noun();
Noun monitor_noun();
Noun doctor_noun();
Noun netlink_noun();
Noun run_noun();
Noun capture_noun();

// run is pspctl: arguments without argv[0] in, exit status out.
ExitStatus run(const std::vector<std::string>& arguments, const Environment& environment);

}  // namespace psp::ctl
