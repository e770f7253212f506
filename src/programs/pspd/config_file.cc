// SPDX-License-Identifier: Apache-2.0
//
// A parser of one screen, by hand: what pspd takes of TOML is less than a library would let in, and
// a mistake is named with its line. Each value is kept as text. A key may stand in the file once,
// because a second line would silently win or lose; several values are a list.
#include "config_file.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

namespace psp {
namespace {

constexpr std::string_view kBlank = " \t\r";
constexpr std::string_view kNoWord =
    " \t\r\n\"'[]#=,";  // what ends a value without quotation marks

std::string in_quotes(std::string_view text) { return '"' + std::string(text) + '"'; }

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

// Parser reads from the front of rest_. A mistake ends it, so that `line_` is where it is.
class Parser {
 public:
  explicit Parser(std::string_view text) : rest_(text) {}

  std::expected<std::vector<FileSetting>, FileMistake> run() {
    std::vector<FileSetting> settings;
    while (skip_to_content(true)) {
      auto setting = one();
      if (!setting) return std::unexpected(FileMistake{line_, setting.error()});
      const auto same = std::ranges::find(settings, setting->key, &FileSetting::key);
      if (same != settings.end())
        return std::unexpected(FileMistake{
            setting->line, setting->key + ": it is set in line " + std::to_string(same->line) +
                               " already; a list is [\"A\", \"B\"]"});
      settings.push_back(std::move(*setting));
    }
    return settings;
  }

 private:
  template <typename T>
  using Result = std::expected<T, std::string>;

  char front() const { return rest_.empty() ? '\n' : rest_.front(); }
  std::string_view rest_of_line() const { return rest_.substr(0, rest_.find('\n')); }

  // skip_to_content goes over blanks and a comment, and over ends of lines if it may. False: at the
  // end of the text or, where it may not go further, of the line.
  bool skip_to_content(bool lines) {
    for (; !rest_.empty(); rest_.remove_prefix(1)) {
      if (rest_.front() == '#') rest_.remove_prefix(rest_of_line().size());
      if (rest_.empty()) return false;
      if (rest_.front() == '\n' && !lines) return false;
      if (rest_.front() == '\n')
        line_++;
      else if (!kBlank.contains(rest_.front()))
        return true;
    }
    return false;
  }

  Result<FileSetting> one() {
    if (front() == '[')
      return std::unexpected("there are no sections here: " + in_quotes(trimmed(rest_of_line())));
    const std::size_t equals = rest_of_line().find('=');
    if (equals == std::string_view::npos)
      return std::unexpected(in_quotes(trimmed(rest_of_line())) + " without \"=\"");
    std::string_view key = trimmed(rest_.substr(0, equals));
    if (key.size() > 2 && key.starts_with('"') && key.ends_with('"'))
      key = key.substr(1, key.size() - 2);
    if (key.empty()) return std::unexpected("an option is missing before \"=\"");
    rest_.remove_prefix(equals + 1);
    FileSetting setting{line_, std::string(key), {}};
    if (auto done = values(setting.values); !done)
      return std::unexpected(setting.key + ": " + done.error());
    return setting;
  }

  Result<void> values(std::vector<std::string>& into) {
    if (!skip_to_content(false)) return std::unexpected("a value is missing");
    if (front() == '[') {
      if (auto done = list(into); !done) return done;
    } else {
      auto value = one_value();
      if (!value) return std::unexpected(value.error());
      into.push_back(std::move(*value));
      // cpus = 1,3: the option itself takes it apart.
      while (front() == ',') {
        rest_.remove_prefix(1);
        into.back() += ',';
        if (kNoWord.contains(front())) continue;
        value = one_value();
        if (!value) return std::unexpected(value.error());
        into.back() += *value;
      }
    }
    if (!skip_to_content(false)) return {};
    return std::unexpected(in_quotes(trimmed(rest_of_line())) + " after the value");
  }

  Result<void> list(std::vector<std::string>& into) {
    const unsigned begin = line_;
    const auto open = [&] {
      line_ = begin;
      return std::unexpected("\"[\" without \"]\"");
    };
    rest_.remove_prefix(1);
    while (skip_to_content(true) && front() != ']') {
      if (front() == '[') return std::unexpected("a list in a list");
      auto value = one_value();
      if (!value) return std::unexpected(value.error());
      if (!skip_to_content(true)) return open();
      if (front() != ',' && front() != ']')
        return std::unexpected("after " + in_quotes(*value) + " comes no comma and no \"]\"");
      into.push_back(std::move(*value));
      if (front() == ',') rest_.remove_prefix(1);
    }
    if (rest_.empty()) return open();
    rest_.remove_prefix(1);
    if (into.empty()) return std::unexpected("an empty list; leave the line out");
    return {};
  }

  Result<std::string> one_value() {
    if (front() == '"' || front() == '\'') return in_marks();
    const std::string_view word = rest_.substr(0, rest_.find_first_of(kNoWord));
    if (word.empty())
      return std::unexpected("a value is missing before " + in_quotes(rest_.substr(0, 1)));
    rest_.remove_prefix(word.size());
    if (front() == '"' || front() == '\'')
      return std::unexpected("a quotation mark in the middle of " + in_quotes(word));
    return std::string(word);
  }

  // in_marks reads a string; between " and " a backslash stands before " and before itself.
  Result<std::string> in_marks() {
    const char mark = rest_.front();
    std::string value;
    for (rest_.remove_prefix(1); front() != '\n'; rest_.remove_prefix(1)) {
      if (front() == mark) {
        rest_.remove_prefix(1);
        return value;
      }
      if (front() == '\\' && mark == '"') {
        const std::string_view escape = rest_.substr(0, 2);
        if (escape != "\\\\" && escape != "\\\"")
          return std::unexpected(in_quotes(trimmed(escape)) +
                                 " is nothing that can stand in quotation marks");
        rest_.remove_prefix(1);
      }
      value += rest_.front();
    }
    return std::unexpected("a quotation mark is not closed");
  }

  std::string_view rest_;
  unsigned line_ = 1;
};

}  // namespace

std::expected<std::vector<FileSetting>, FileMistake> parse_settings(std::string_view text) {
  return Parser(text).run();
}

std::expected<std::vector<FileSetting>, FileMistake> read_settings(const std::string& file) {
  std::ifstream in(file);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in.is_open() || in.bad())
    return std::unexpected(
        FileMistake{0, "it cannot be read: " + std::string(std::strerror(errno))});
  return parse_settings(text);
}

}  // namespace psp
