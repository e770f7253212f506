// SPDX-License-Identifier: Apache-2.0
//
// PlainHelp: how --help looks, in all programs with CLI11. One word for a value, the default in the
// description, lines that fit a terminal; ranges and types are said when they are violated.
//
// CLI11 prints all of that beside each option instead, as "UINT:UINT in [1 - 64]". What a program
// says of words without a dash stands in its description, so CLI11's own list of them is left out.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>

namespace psp {

class PlainHelp : public CLI::Formatter {
 public:
  PlainHelp() { column_width(kColumn); }

 private:
  static constexpr std::size_t kColumn = 28, kWidth = 80;

  // value is one word: what the option was given as type_name, a choice as a|b, a number as N.
  static std::string value(const CLI::Option* option) {
    const std::string type = option->get_type_name();
    const std::size_t colon = type.find(':');
    std::string word = type.substr(0, colon);
    if (word == "UINT" || word == "INT" || word == "FLOAT") return "N";
    if (word != "TEXT" || colon == std::string::npos || type[colon + 1] != '{') return word;
    std::string choices = type.substr(colon + 2, type.size() - colon - 3);
    std::ranges::replace(choices, ',', '|');
    return choices;
  }

  std::string make_option_name(const CLI::Option* option, bool positional) const override {
    std::string name = CLI::Formatter::make_option_name(option, positional);
    if (const std::size_t comma = name.find(','); comma != std::string::npos)
      name.insert(comma + 1, " ");
    return name;
  }
  std::string make_option_opts(const CLI::Option* option) const override {
    return option->get_type_size() != 0 ? " " + value(option) : "";
  }
  std::string make_option_desc(const CLI::Option* option) const override {
    std::string text = option->get_description();
    if (option->get_required()) text += " (required)";
    const std::string standard = option->get_default_str();
    if (!standard.empty() && text.find("(default") == std::string::npos)
      text += " (default " + standard + ")";
    return wrapped(text);
  }
  // Usage lines and what they say of words without a dash stand in the description of a program.
  std::string make_positionals(const CLI::App*) const override { return ""; }
  std::string make_usage(const CLI::App* app, std::string name) const override {
    const bool bare =
        app->get_options([](const CLI::Option* o) { return o->get_positional(); }).empty();
    return bare ? CLI::Formatter::make_usage(app, std::move(name)) : "";
  }

  // wrapped breaks a text where the right column ends.
  static std::string wrapped(const std::string& text) {
    std::string out;
    std::size_t line = 0;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find(' ', at), text.size());
      if (line != 0 && line + 1 + end - at > kWidth - kColumn) {
        out += '\n';
        line = 0;
      }
      if (line != 0) out += ' ', line++;
      out.append(text, at, end - at);
      line += end - at;
      at = end + 1;
    }
    return out;
  }
};

}  // namespace psp
