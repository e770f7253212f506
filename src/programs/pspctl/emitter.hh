// SPDX-License-Identifier: Apache-2.0
//
// Emitter: one call prints a value for people or for programs, in the manner of iproute2's
// print_*(PRINT_ANY, key, format, value). Keys are the attribute names of the kernel's psp.yaml.
// For people, text goes out as it is printed; for programs, all values are gathered and written as
// one JSON array at the end, so that a command that fails leaves no half array behind.
#pragma once

#include <cstdio>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "wire/types.hh"

namespace psp::ctl {

enum class Colour { kNone, kName, kAddress, kGood, kWarning, kBad };

class Emitter {
 public:
  struct Style {
    bool json = false;
    bool pretty = false;  // JSON over several lines
    bool colour = false;
    bool oneline = false;  // text: each element on one line, "\\" where a line ended, as ip(8)
  };

  // Writes to `file`, which stays the caller's.
  Emitter(std::FILE* file, Style style) : file_(file), style_(style) {}

  // Scope is an open JSON object; it closes when it goes. Nothing for people.
  class Scope {
   public:
    explicit Scope(Emitter& emitter) : emitter_(emitter) {}
    ~Scope() { emitter_.close(); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Emitter& emitter_;
  };

  // element opens an object of the array: the top-level one, or that opened by array().
  [[nodiscard]] Scope element() { return object({}); }
  // array opens an array named `key` inside the open object; its elements are objects.
  [[nodiscard]] Scope array(std::string_view key);
  // object opens an object named `key` inside the open one.
  [[nodiscard]] Scope object(std::string_view key);

  // print gives `value`: under `key` for programs, through `text` (one {}) for people.
  template <typename T>
  void print(std::string_view key, fmt::format_string<const T&> text, const T& value,
             Colour colour = Colour::kNone) {
    if (style_.json)
      set(key, value);
    else if constexpr (std::is_convertible_v<const T&, std::string_view>)
      write(fmt::format(fmt::runtime(text), printable(value)), colour);
    else
      write(fmt::format(text, value), colour);
  }
  // print_versions gives a set of versions: an array of names, or names with spaces, or "none".
  void print_versions(std::string_view key, std::string_view before, VersionSet versions);

  // set is for programs only, text for people only.
  template <typename T>
  void set(std::string_view key, const T& value) {
    if (style_.json) open_.back().second[std::string(key)] = value;
  }
  void text(std::string_view words, Colour colour = Colour::kNone) {
    if (!style_.json) write(words, colour);
  }

  // printable is `words` with octets that would act on a terminal written as "\033". Interface
  // names may hold any.
  static std::string printable(std::string_view words);

  bool json() const { return style_.json; }

  // end_event ends one event of a stream: a line, written at once. For programs a line holds one
  // object, and no array is around them.
  void end_event();
  // document writes a JSON value by itself, whatever the style.
  void document(const nlohmann::ordered_json& value);
  // finish writes the array. Call once, if the command succeeded.
  void finish();

 private:
  void close();
  void write(std::string_view words, Colour colour);
  void end_line();

  std::FILE* file_;
  Style style_;
  bool streamed_ = false;
  std::string line_;  // with oneline, the text of the open element
  std::vector<std::pair<std::string, nlohmann::ordered_json>> open_;  // innermost last
  nlohmann::ordered_json elements_ = nlohmann::ordered_json::array();
};

}  // namespace psp::ctl
