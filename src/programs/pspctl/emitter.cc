// SPDX-License-Identifier: Apache-2.0
//
// The two ways out of pspctl: text and JSON. Text is written as it comes, or with -o a line for
// each element; JSON is gathered, and written whole or not at all.
//
// What is printed may be of others' making: names of netdevs are any octets. In text what a
// terminal would obey, or what ends a line, is escaped; in JSON what is no UTF-8 is replaced.
// Errors of writing are kept by the stream and seen to at the end (run()).
#include "emitter.hh"

#include <algorithm>

namespace psp::ctl {

namespace {

std::string_view escape_of(Colour colour) {
  switch (colour) {
    case Colour::kNone:
      return "";
    case Colour::kName:
      return "\x1b[36m";
    case Colour::kAddress:
      return "\x1b[35m";
    case Colour::kGood:
      return "\x1b[32m";
    case Colour::kWarning:
      return "\x1b[33m";
    case Colour::kBad:
      return "\x1b[31m";
  }
  return "";
}

// dump writes text that came from elsewhere (interface names are octets) without failing on octets
// that are no UTF-8.
std::string dump(const nlohmann::ordered_json& value, bool pretty) {
  return value.dump(pretty ? 4 : -1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

Emitter::Scope Emitter::object(std::string_view key) {
  open_.emplace_back(std::string(key), nlohmann::ordered_json::object());
  return Scope(*this);
}

Emitter::Scope Emitter::array(std::string_view key) {
  open_.emplace_back(std::string(key), nlohmann::ordered_json::array());
  return Scope(*this);
}

void Emitter::close() {
  auto [key, value] = std::move(open_.back());
  open_.pop_back();
  if (!style_.json) {
    if (open_.empty()) end_line();
    return;
  }
  if (open_.empty())
    elements_.push_back(std::move(value));
  else if (open_.back().second.is_array())
    open_.back().second.push_back(std::move(value));
  else
    open_.back().second[key] = std::move(value);
}

void Emitter::print_versions(std::string_view key, std::string_view before, VersionSet versions) {
  auto names = nlohmann::ordered_json::array();
  std::string words;
  for (unsigned number = 0; number < 32; ++number) {
    if ((versions.bits >> number & 1u) == 0) continue;
    const auto version = to_version(number);
    const std::string word = version ? std::string(name(*version)) : fmt::to_string(number);
    names.push_back(word);
    words += " " + word;
  }
  set(key, names);
  text(fmt::format("{}{}{}", before, key, words.empty() ? " none" : words));
}

void Emitter::write(std::string_view words, Colour colour) {
  std::string coloured;
  if (style_.colour && colour != Colour::kNone) {
    coloured = fmt::format("{}{}\x1b[0m", escape_of(colour), words);
    words = coloured;
  }
  if (style_.oneline && !open_.empty())
    line_ += words;
  else
    std::fwrite(words.data(), 1, words.size(), file_);  // errors: ferror, at the end
}

void Emitter::end_line() {
  if (line_.empty()) return;
  const bool whole = line_.back() == '\n';
  if (whole) line_.pop_back();
  std::ranges::replace(line_, '\n', '\\');
  if (whole) line_ += '\n';
  std::fwrite(line_.data(), 1, line_.size(), file_);
  line_.clear();
}

std::string Emitter::printable(std::string_view words) {
  std::string clean;
  for (const char octet : words) {
    const auto code = static_cast<unsigned char>(octet);
    if (code < 0x20 || code == 0x7f)
      clean += fmt::format("\\{:03o}", code);
    else
      clean += octet;
  }
  return clean;
}

void Emitter::end_event() {
  streamed_ = true;
  if (style_.json) {
    for (const auto& element : elements_) write(dump(element, false) + "\n", Colour::kNone);
    elements_.clear();
  } else {
    write("\n", Colour::kNone);
  }
  std::fflush(file_);
}

void Emitter::document(const nlohmann::ordered_json& value) {
  write(dump(value, style_.pretty) + "\n", Colour::kNone);
}

void Emitter::finish() {
  if (style_.json && !streamed_) write(dump(elements_, style_.pretty) + "\n", Colour::kNone);
}

}  // namespace psp::ctl
