// SPDX-License-Identifier: Apache-2.0
//
// The command line in the manner of ip(8): options anywhere, short ones in one word ("-jp"), long
// ones with one dash or two, and the words between them, which are noun, verb and objects.
//
// Options that one noun alone has are here too; others refuse or do not have them. Words is how
// commands read the rest: a command takes what it knows and then expects the end, so that a word
// too many is never passed over.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "capture_options.hh"
#include "failure.hh"

namespace psp::ctl {

enum class ColourWhen { kAuto, kAlways, kNever };

struct Options {
  bool json = false;
  bool pretty = false;
  bool statistics = false;
  bool details = false;
  bool timestamps = false;
  bool oneline = false;
  bool help = false;
  bool version = false;
  ColourWhen colour = ColourWhen::kAuto;
  std::optional<std::string> netns;
  std::optional<std::string> socket;
  std::optional<std::string> peer;     // doctor only
  std::optional<std::string> request;  // netlink only: its --json
  bool dump = false;                   // netlink only
  bool show_keys = false;              // netlink only
  CaptureOptions capture;              // capture only
  std::vector<std::string> words;      // the noun as typed, and what is behind it
};

// Tail is how the arguments behind a noun are read.
enum class Tail {
  kWords,    // options anywhere between the words
  kNetlink,  // the same, but --json takes the attributes
  kCapture,  // the same, with options of its own
  kProgram,  // another program and its arguments: nothing is an option of ours
};
using TailOf = Tail (*)(std::string_view noun);

// parse_options reads argv without argv[0]; `tail_of` knows the nouns. Errors: kUsage.
Outcome<Options> parse_options(const std::vector<std::string>& arguments, TailOf tail_of);

// Words hands out the words of a command one by one.
class Words {
 public:
  explicit Words(std::vector<std::string> words) : words_(std::move(words)) {}

  bool done() const { return next_ == words_.size(); }
  // peek is the next word, empty at the end.
  std::string_view peek() const { return done() ? std::string_view{} : words_[next_]; }
  // accept takes the next word if it is `word`.
  bool accept(std::string_view word);
  // take takes the next word; `what` names it in the error of there being none.
  Outcome<std::string> take(std::string_view what);
  // expect_end refuses words that nobody took.
  Outcome<void> expect_end() const;

 private:
  std::vector<std::string> words_;
  std::size_t next_ = 0;
};

}  // namespace psp::ctl
