// SPDX-License-Identifier: Apache-2.0
//
// The text of pspd's configuration file: lines of KEY = VALUE or KEY = [VALUE, ...], a small part
// of TOML. A file that is not exactly that is refused, with the line: an option that was swallowed
// by a forgotten bracket would be silently off. What the keys and values mean is the options'
// business.
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <vector>

namespace psp {

// FileSetting is one option of the file.
struct FileSetting {
  unsigned line = 0;  // where its value begins
  std::string key;
  std::vector<std::string> values;  // at least one
};

struct FileMistake {
  unsigned line = 0;  // 0: of the whole file
  std::string what;
};

// parse_settings takes a text apart. No key stands in the result twice.
std::expected<std::vector<FileSetting>, FileMistake> parse_settings(std::string_view text);

// read_settings does so with a file.
std::expected<std::vector<FileSetting>, FileMistake> read_settings(const std::string& file);

}  // namespace psp
