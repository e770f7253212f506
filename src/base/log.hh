// SPDX-License-Identifier: Apache-2.0
//
// Log: where sentences for an operator go. A library is given one and does not know what is behind
// it; programs have theirs, tests keep the lines.
//
// Threading: that of the sink; ours are called on the control thread.
#pragma once

#include <cstdint>
#include <fmt/format.h>
#include <functional>
#include <new>
#include <string_view>
#include <utility>

namespace psp {

enum class LogLevel : std::uint8_t { kInfo, kWarning, kError };

class Log {
 public:
  // The sink takes a line without its end.
  using Sink = std::function<void(LogLevel, std::string_view)>;
  explicit Log(Sink sink) : sink_(std::move(sink)) {}

  template <typename... Args>
  void info(fmt::format_string<Args...> text, Args&&... args) const {
    write(LogLevel::kInfo, text, std::forward<Args>(args)...);
  }
  template <typename... Args>
  void warn(fmt::format_string<Args...> text, Args&&... args) const {
    write(LogLevel::kWarning, text, std::forward<Args>(args)...);
  }
  template <typename... Args>
  void error(fmt::format_string<Args...> text, Args&&... args) const {
    write(LogLevel::kError, text, std::forward<Args>(args)...);
  }

 private:
  // What is logged must not fail for that: without memory for the sentence there is its form.
  template <typename... Args>
  void write(LogLevel level, fmt::format_string<Args...> text, Args&&... args) const {
    try {
      sink_(level, fmt::format(text, std::forward<Args>(args)...));
    } catch (const std::bad_alloc&) {
      const fmt::string_view form = text;
      sink_(level, {form.data(), form.size()});
    }
  }

  Sink sink_;
};

}  // namespace psp
