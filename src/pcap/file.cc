// SPDX-License-Identifier: Apache-2.0
//
// Reading and writing. A batch is big enough that two system calls for it are nothing, and small
// enough to be still in the processor's cache when it is sealed and written. A secret goes through
// no link and into no file of another user, and one that was there is emptied once its mode is
// 0600. zlib reads plain files too, without a copy; damage in compressed data is told behind what
// could be read.
#include "pcap/file.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

namespace psp::pcap {
namespace {

constexpr std::size_t kBatch = 512u << 10;
constexpr std::size_t kText = 65536;

std::unexpected<std::string> failed(const std::string& path, const char* what) {
  return std::unexpected(fmt::format("{}: cannot {}: {}", path, what, std::strerror(errno)));
}

bool is_standard(const std::string& path) { return path == "-"; }

ssize_t read_again(int fd, void* to, std::size_t size) {
  ssize_t got;
  do got = ::read(fd, to, size);
  while (got < 0 && errno == EINTR);
  return got;
}

// keep_secret makes a file that was there before ours alone, and empty.
std::expected<void, std::string> keep_secret(int fd, const std::string& path) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return failed(path, "look at");
  if (!S_ISREG(status.st_mode)) return {};
  if (status.st_uid != ::geteuid())
    return std::unexpected(
        fmt::format("{}: belongs to user {}, who could read it", path, status.st_uid));
  if (::fchmod(fd, 0600) != 0) return failed(path, "keep others from reading");
  if (::ftruncate(fd, 0) != 0) return failed(path, "write");
  return {};
}

}  // namespace

void Reader::CloseStream::operator()(gzFile_s* stream) const {
  ::gzclose_r(stream);  // what it could still say was asked for by fill
}

Reader::Reader(UniqueFd fd, Stream stream, std::string path, std::uint64_t size)
    : fd_(std::move(fd)), stream_(std::move(stream)), path_(std::move(path)), size_(size) {}

std::expected<Reader, std::string> Reader::open(const std::string& path) {
  const std::string shown = is_standard(path) ? "standard input" : path;
  UniqueFd fd(is_standard(path) ? ::dup(STDIN_FILENO) : ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return failed(shown, "open");
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return failed(shown, "look at");
  if (S_ISDIR(status.st_mode))
    return std::unexpected(fmt::format("{}: this is a directory", shown));
  const bool regular = S_ISREG(status.st_mode);
  if (regular) ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  UniqueFd own(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!own) return failed(shown, "open");
  Stream stream(::gzdopen(own.get(), "rb"));
  if (!stream) return std::unexpected(fmt::format("{}: out of memory", shown));
  static_cast<void>(own.release());  // zlib's now
  const bool plain = regular && ::gzdirect(stream.get()) == 1;
  return Reader(std::move(fd), std::move(stream), shown,
                plain ? static_cast<std::uint64_t>(status.st_size) : 0);
}

// fill reads until the buffer has a batch, or the file ends. A file that is not compressed zlib
// hands through, in large pieces without a copy.
std::expected<void, std::string> Reader::fill(Buffer& octets) {
  const std::size_t wanted = octets.size() + kBatch;
  while (octets.size() < wanted) {
    const std::size_t room = wanted - octets.size();
    const int got = ::gzread(stream_.get(), octets.room(room), static_cast<unsigned>(room));
    if (got <= 0) {
      int error = Z_OK;
      ::gzerror(stream_.get(), &error);
      if (error == Z_ERRNO) return failed(path_, "read");
      // What was read before is good: the damage is told behind it.
      if (error == Z_BUF_ERROR)
        damaged_ = "the file ends inside its compressed data";
      else if (got < 0)
        damaged_ = "its compressed data is damaged";
      at_end_ = true;
      break;
    }
    octets.add(static_cast<std::size_t>(got));
  }
  return {};
}

std::expected<bool, std::string> Reader::next(Batch& batch) {
  batch.octets.clear();
  batch.records.clear();
  if (!splitter_.damaged().empty() || (at_end_ && left_.size() == 0 && splitter_.started()))
    return false;
  batch.octets.append(left_.span());
  left_.clear();
  // A record may be larger than a batch.
  std::size_t used = 0;
  do {
    if (const auto filled = fill(batch.octets); !filled) return std::unexpected(filled.error());
    used = splitter_.split(batch.octets.span(), at_end_, batch.records);
  } while (used == 0 && !at_end_ && splitter_.damaged().empty());
  left_.append(batch.octets.span().subspan(used));
  return !batch.records.empty();
}

Writer::Writer(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

std::expected<Writer, std::string> Writer::open(const std::string& path, int input, bool secret) {
  if (is_standard(path)) return Writer(UniqueFd(::dup(STDOUT_FILENO)), "standard output");
  struct stat in {
  }, out{};
  if (input >= 0 && ::fstat(input, &in) == 0 && ::stat(path.c_str(), &out) == 0 &&
      in.st_dev == out.st_dev && in.st_ino == out.st_ino && S_ISREG(in.st_mode))
    return std::unexpected(fmt::format("{}: this is the file to be read", path));
  // A link in a directory of others could lead a secret anywhere.
  UniqueFd fd(secret ? ::open(path.c_str(), O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600)
                     : ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd) return failed(path, "write");
  if (secret)
    if (const auto kept = keep_secret(fd.get(), path); !kept) return std::unexpected(kept.error());
  return Writer(std::move(fd), path);
}

std::expected<void, std::string> Writer::write(std::span<const std::uint8_t> octets) {
  while (!octets.empty()) {
    const ssize_t done = ::write(fd_.get(), octets.data(), octets.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return failed(path_, "write");
    octets = octets.subspan(static_cast<std::size_t>(done));
  }
  return {};
}

std::expected<void, std::string> Writer::close() {
  if (fd_ && ::close(fd_.release()) != 0) return failed(path_, "write");
  return {};
}

std::expected<std::string, std::string> read_text(const std::string& path, std::size_t limit) {
  const std::string shown = is_standard(path) ? "standard input" : path;
  const UniqueFd fd(is_standard(path) ? ::dup(STDIN_FILENO)
                                      : ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return failed(shown, "open");
  std::string text;
  struct stat status {};
  // In one piece if its size is known: growing would leave copies of keys behind.
  if (::fstat(fd.get(), &status) == 0 && S_ISREG(status.st_mode))
    text.reserve(std::min(static_cast<std::size_t>(status.st_size), limit) + 2 * kText);
  for (;;) {
    const std::size_t size = text.size();
    text.resize(size + kText);
    const ssize_t got = read_again(fd.get(), text.data() + size, kText);
    if (got < 0) return failed(shown, "read");
    text.resize(size + static_cast<std::size_t>(got));
    if (got == 0) return text;
    if (text.size() > limit)
      return std::unexpected(fmt::format("{}: longer than {} octets", shown, limit));
  }
}

}  // namespace psp::pcap
