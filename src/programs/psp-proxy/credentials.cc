// SPDX-License-Identifier: Apache-2.0
//
// Files are told apart by inode, size and time of change, which also sees a file renamed over
// another and a link that has moved. They are looked at before they are read: a change during the
// reading is then one more change, and not lost. Sessions hold the context that they began with.
#include "credentials.hh"

#include <sys/stat.h>

namespace psp::proxy {

Credentials::Credentials(keyx::TlsOptions options) : options_(std::move(options)) {}

Credentials::Stamps Credentials::stamps() const {
  Stamps out;
  for (const std::string* file :
       {&options_.cert_file, &options_.key_file, &options_.ca_file, &options_.psk_file}) {
    struct stat st {};
    if (!file->empty() && stat(file->c_str(), &st) == 0)
      out.push_back({st.st_ino, st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec});
    else
      out.emplace_back();
  }
  return out;
}

std::expected<void, std::string> Credentials::reload() {
  // Before the files are read: what changes meanwhile is seen as another change.
  tried_ = seen_ = stamps();
  auto made = keyx::make_context(options_);
  if (!made) return std::unexpected(made.error().message);
  auto fresh = std::make_shared<const keyx::TlsContext>(std::move(*made));
  const std::lock_guard lock(mutex_);
  context_ = std::move(fresh);
  return {};
}

bool Credentials::look() {
  Stamps now = stamps();
  const bool settled = now == seen_;
  seen_ = std::move(now);
  return settled && seen_ != tried_;
}

Credentials::Context Credentials::context() const {
  const std::lock_guard lock(mutex_);
  return context_;
}

}  // namespace psp::proxy
