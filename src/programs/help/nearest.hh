// SPDX-License-Identifier: Apache-2.0
//
// nearest finds the word that was probably meant by one that is not known: mistyped, with one dash
// too few, or cut short. Nothing that takes more than a letter in three to be it is near: a
// wrong guess would lead further away than none.
#pragma once

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace psp {

// distance is how many letters to change, leave out, put in or exchange with the next.
inline std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); i++) {
    before = std::exchange(above, row);
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); j++) {
      row[j] = std::min({above[j - 1] + (a[i - 1] != b[j - 1]), above[j] + 1, row[j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row.back();
}

inline std::optional<std::string> nearest(std::string_view word,
                                          const std::vector<std::string>& known) {
  std::optional<std::string> found;
  std::size_t least = std::max<std::size_t>(1, word.size() / 3) + 1;
  for (const std::string& one : known) {
    const bool begun = word.size() > 1 && one.starts_with(word);
    const std::size_t far =
        begun ? std::min<std::size_t>(1, distance(word, one)) : distance(word, one);
    if (far >= least || far >= one.size()) continue;
    least = far;
    found = one;
  }
  return found;
}

// did_you_mean is what is said behind a word that is not known: empty, or " (did you mean X?)".
inline std::string did_you_mean(const std::optional<std::string>& meant) {
  return meant ? " (did you mean " + *meant + "?)" : "";
}

}  // namespace psp
