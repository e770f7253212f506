// SPDX-License-Identifier: Apache-2.0
//
// Credentials: the TLS context of new connections, made anew when its files change. Files that do
// not fit are not taken: the context before them stays.
//
// Threading: look() and reload() by one thread, context() by any.
#pragma once

#include <ctime>
#include <expected>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "keyx/tls.hh"

namespace psp::proxy {

class Credentials {
 public:
  using Context = std::shared_ptr<const keyx::TlsContext>;

  explicit Credentials(keyx::TlsOptions options);

  // reload reads the files now. The error is a sentence.
  std::expected<void, std::string> reload();
  // look tells whether the files have changed and stayed so from one call to the next: then it is
  // time to reload. Certificate and key are two files, and whoever renews them writes one first.
  bool look();
  Context context() const;

 private:
  // Stamp is what changes with a file, whether written, renamed over or behind a moved link.
  struct Stamp {
    ino_t inode = 0;
    off_t size = -1;
    std::time_t seconds = 0;
    long nanoseconds = 0;
    bool operator==(const Stamp&) const = default;
  };
  using Stamps = std::vector<Stamp>;
  Stamps stamps() const;

  keyx::TlsOptions options_;
  Stamps tried_, seen_;
  mutable std::mutex mutex_;
  Context context_;
};

}  // namespace psp::proxy
