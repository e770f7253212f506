// SPDX-License-Identifier: Apache-2.0
//
// Two pumps in one loop: each moves what it can and says what it waits for; when neither can move,
// ppoll() waits for both. Standard input and output may be shared with a shell, so their flags are
// not touched: a pipe or terminal is opened a second time to be non-blocking, sockets are read and
// written with MSG_DONTWAIT, and plain files do not block for long.
#include "stream.hh"

#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <linux/sockios.h>
#include <openssl/err.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/counted.hh"
#include "base/socket_options.hh"

namespace psp::cat {
namespace {

constexpr std::size_t kBuffer = std::size_t{256} * 1024;
constexpr std::size_t kSendfileChunk = std::size_t{4} * 1024 * 1024;
constexpr std::chrono::seconds kAcknowledgeTime{30};

volatile std::sig_atomic_t interrupted = 0;
void on_signal(int) { interrupted = 1; }

// SignalGuard lets SIGINT and SIGTERM through only while ppoll() waits, so that none is missed.
class SignalGuard {
 public:
  SignalGuard() {
    struct sigaction action {};
    action.sa_handler = on_signal;
    sigset_t set;
    sigemptyset(&set);
    for (int number : {SIGINT, SIGTERM}) {
      sigaction(number, &action, nullptr);
      sigaddset(&set, number);
    }
    sigprocmask(SIG_BLOCK, &set, &old_);
  }
  ~SignalGuard() { sigprocmask(SIG_SETMASK, &old_, nullptr); }
  SignalGuard(const SignalGuard&) = delete;
  SignalGuard& operator=(const SignalGuard&) = delete;
  const sigset_t* old() const { return &old_; }

  // pending tells of a signal that has come although nothing had to be waited for.
  bool pending() const {
    sigset_t set;
    return interrupted != 0 || (sigpending(&set) == 0 && (sigismember(&set, SIGINT) == 1 ||
                                                          sigismember(&set, SIGTERM) == 1));
  }

 private:
  sigset_t old_;
};

// Wants is what ppoll() shall wait for.
struct Wants {
  short net = 0, in = 0, out = 0;
  bool moved = false;
};

// Moved is the result of one read or write: how many octets, the end, or why not.
struct Moved {
  enum class Kind { kSome, kEnd, kWantRead, kWantWrite, kError } kind = Kind::kSome;
  std::size_t count = 0;
  int error = 0;
};

Moved moved(ssize_t n, Moved::Kind again) {
  if (n > 0) return {Moved::Kind::kSome, static_cast<std::size_t>(n), 0};
  if (n == 0) return {Moved::Kind::kEnd, 0, 0};
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return {again, 0, 0};
  return {Moved::Kind::kError, 0, errno};
}

// Standard is standard input or output.
class Standard {
 public:
  explicit Standard(int fd) : fd_(fd) {
    struct stat st {};
    if (fstat(fd, &st) != 0) return;
    const bool input = fd == STDIN_FILENO;
    if (S_ISSOCK(st.st_mode)) kind_ = Kind::kSocket;
    if (S_ISREG(st.st_mode)) kind_ = Kind::kFile;
    if (!S_ISFIFO(st.st_mode) && !S_ISCHR(st.st_mode)) return;
    kind_ = Kind::kOther;
    const std::string path = fmt::format("/proc/self/fd/{}", fd);
    own_ = UniqueFd(
        open(path.c_str(), (input ? O_RDONLY : O_WRONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (own_.get() < 0) return;
    fd_ = own_.get();
    kind_ = Kind::kNonBlocking;
  }
  int fd() const { return fd_; }
  bool file() const { return kind_ == Kind::kFile; }

  Moved read(std::uint8_t* to, std::size_t size) {
    using enum Moved::Kind;
    if (kind_ == Kind::kSocket) return moved(recv(fd_, to, size, MSG_DONTWAIT), kWantRead);
    if (kind_ == Kind::kOther && !ready(POLLIN)) return {kWantRead, 0, 0};
    return moved(::read(fd_, to, size), kWantRead);
  }
  Moved write(const std::uint8_t* from, std::size_t size) {
    using enum Moved::Kind;
    if (kind_ == Kind::kSocket)
      return moved(send(fd_, from, size, MSG_DONTWAIT | MSG_NOSIGNAL), kWantWrite);
    if (kind_ == Kind::kOther) {
      // A pipe that polls writable takes PIPE_BUF octets without blocking.
      if (!ready(POLLOUT)) return {kWantWrite, 0, 0};
      size = std::min<std::size_t>(size, PIPE_BUF);
    }
    return moved(::write(fd_, from, size), kWantWrite);
  }

 private:
  enum class Kind { kFile, kSocket, kNonBlocking, kOther };
  bool ready(short events) const {
    pollfd p{fd_, events, 0};
    return poll(&p, 1, 0) == 1;
  }
  int fd_;
  UniqueFd own_;
  Kind kind_ = Kind::kOther;
};

// Net is the channel as something to read and write.
class Net {
 public:
  explicit Net(Channel& channel) : channel_(channel) {}
  int fd() const { return channel_.fd.get(); }
  bool plain() const { return channel_.psp(); }
  const std::string& tls_problem() const { return tls_problem_; }

  Moved read(std::uint8_t* to, std::size_t size) {
    if (auto& early = channel_.early; !early.empty()) {
      const std::size_t n = std::min(size, early.size());
      std::memcpy(to, early.data(), n);
      early.erase(early.begin(), early.begin() + static_cast<std::ptrdiff_t>(n));
      return {Moved::Kind::kSome, n, 0};
    }
    if (plain()) return moved(recv(fd(), to, size, 0), Moved::Kind::kWantRead);
    std::size_t n = 0;
    const keyx::BoundedReads bound(channel_.ssl.get());
    ERR_clear_error();
    const int done = SSL_read_ex(channel_.ssl.get(), to, size, &n);
    return from_tls(done, n);
  }
  Moved write(const std::uint8_t* from, std::size_t size) {
    if (plain()) return moved(send(fd(), from, size, MSG_NOSIGNAL), Moved::Kind::kWantWrite);
    std::size_t n = 0;
    const keyx::BoundedReads bound(channel_.ssl.get());
    ERR_clear_error();
    const int done = SSL_write_ex(channel_.ssl.get(), from, size, &n);
    const int error = errno;
    const Moved result = from_tls(done, n);
    // OpenSSL calls it the end where the peer had said before that it sends no more.
    if (result.kind == Moved::Kind::kEnd)
      return {Moved::Kind::kError, 0, error != 0 ? error : EPIPE};
    return result;
  }
  // end_writing says that no more will come. kEnd: said.
  Moved end_writing() {
    if (!plain()) {
      const keyx::BoundedReads bound(channel_.ssl.get());
      const int done = SSL_shutdown(channel_.ssl.get());
      if (done < 0) return from_tls(done, 0);
    }
    if (shutdown(fd(), SHUT_WR) != 0 && errno != ENOTCONN) return {Moved::Kind::kError, 0, errno};
    return {Moved::Kind::kEnd, 0, 0};
  }

 private:
  Moved from_tls(int done, std::size_t n) {
    if (done == 1) return {Moved::Kind::kSome, n, 0};
    const int error = errno;
    switch (const int result = SSL_get_error(channel_.ssl.get(), done)) {
      case SSL_ERROR_ZERO_RETURN:
        return {Moved::Kind::kEnd, 0, 0};
      case SSL_ERROR_WANT_READ:
        return {Moved::Kind::kWantRead, 0, 0};
      case SSL_ERROR_WANT_WRITE:
        return {Moved::Kind::kWantWrite, 0, 0};
      default:
        tls_problem_ =
            keyx::tls_error(channel_.ssl.get(), result, error, "during the transfer").message;
        return {Moved::Kind::kError, 0, error != 0 ? error : EPROTO};
    }
  }
  Channel& channel_;
  std::string tls_problem_;
};

// Buffer holds what was read and not yet written.
struct Buffer {
  crypto::WipedVector octets = crypto::WipedVector(kBuffer);
  std::size_t begin = 0, end = 0;
  bool empty() const { return begin == end; }
  void filled(std::size_t n) {
    begin = 0;
    end = n;
  }
};

class Transfer {
 public:
  Transfer(Channel& channel, const Options& options, Summary& summary)
      : net_(channel),
        options_(options),
        summary_(summary),
        in_eof_(options.recv_only),
        progress_(options.progress, channel.psp()
                                        ? fmt::format("psp {}", name(channel.outcome.version))
                                        : std::string("tls")) {
    sendfile_ = net_.plain() && in_.file() && !options.recv_only;
  }

  std::expected<void, Failure> run() {
    auto done = loop();
    if (done) done = wait_acknowledged();
    if (done && close(STDOUT_FILENO) != 0 && errno != EBADF) done = output_failure(errno);
    progress_.clear();
    summary_.seconds = progress_.seconds();
    return done;
  }

 private:
  std::expected<void, Failure> loop();
  std::expected<void, Failure> pump_out(Wants& wants);
  std::expected<void, Failure> pump_in(Wants& wants);
  std::expected<void, Failure> send_file(Wants& wants);
  std::expected<void, Failure> wait_acknowledged();
  void wait(const Wants& wants);

  std::unexpected<Failure> net_failure(int error) const {
    const std::string why = net_.tls_problem().empty() ? std::strerror(error) : net_.tls_problem();
    return failure(fmt::format("the connection broke: {} ({} sent, {} received)", why,
                               counted(summary_.sent, "octet"), summary_.received));
  }
  std::unexpected<Failure> output_failure(int error) const {
    return failure(fmt::format("cannot write the output: {}",
                               error == EPIPE ? "its reader has gone" : std::strerror(error)));
  }
  // Whatever ends the transfer early, the output is short if anything was written.
  std::unexpected<Failure> failure(std::string message) const {
    if (written_ > 0 && !in_done_) message += "; output is partial: " + counted(written_, "byte");
    return std::unexpected(Failure{kExitFailure, std::move(message)});
  }
  static void want(Moved::Kind kind, short& events) {
    events = static_cast<short>(events | (kind == Moved::Kind::kWantRead ? POLLIN : POLLOUT));
  }

  Net net_;
  Standard in_{STDIN_FILENO}, out_{STDOUT_FILENO};
  const Options& options_;
  Summary& summary_;
  SignalGuard signals_;
  Buffer to_net_, to_out_;
  std::uint64_t written_ = 0;  // to standard output
  bool sendfile_ = false;
  bool in_eof_;            // standard input has ended
  bool out_done_ = false;  // and the peer was told so
  bool net_eof_ = false;   // the peer has ended
  bool in_done_ = false;   // and all of it is written
  Progress progress_;
};

std::expected<void, Failure> Transfer::loop() {
  while (!out_done_ || !in_done_) {
    Wants wants;
    if (!out_done_)
      if (const auto ok = pump_out(wants); !ok) return ok;
    if (!in_done_)
      if (const auto ok = pump_in(wants); !ok) return ok;
    progress_.tick(summary_.sent, summary_.received);
    if (!wants.moved) wait(wants);
    if (signals_.pending()) return failure("interrupted");
  }
  return {};
}

void Transfer::wait(const Wants& wants) {
  pollfd fds[3] = {{net_.fd(), wants.net, 0},
                   {wants.in != 0 ? in_.fd() : -1, wants.in, 0},
                   {wants.out != 0 ? out_.fd() : -1, wants.out, 0}};
  // A connection nobody waits for would report its end again and again.
  if (wants.net == 0) fds[0].fd = -1;
  const auto ms = std::chrono::nanoseconds(Progress::kInterval).count();
  const timespec interval{0, static_cast<long>(ms)};
  ppoll(fds, 3, progress_.wanted() ? &interval : nullptr, signals_.old());
}

std::expected<void, Failure> Transfer::send_file(Wants& wants) {
  const Moved n =
      moved(sendfile(net_.fd(), in_.fd(), nullptr, kSendfileChunk), Moved::Kind::kWantWrite);
  if (n.kind == Moved::Kind::kSome) {
    summary_.sent += n.count;
    wants.moved = true;
  } else if (n.kind == Moved::Kind::kEnd) {
    in_eof_ = wants.moved = true;
    sendfile_ = false;
  } else if (n.kind == Moved::Kind::kWantWrite) {
    want(n.kind, wants.net);
  } else if (n.error == EINVAL || n.error == ENOSYS) {
    sendfile_ = false;  // this file system cannot: copy
    wants.moved = true;
  } else if (n.error == EIO) {
    return failure(fmt::format("cannot read the input: {}", std::strerror(n.error)));
  } else {
    return net_failure(n.error);
  }
  return {};
}

std::expected<void, Failure> Transfer::pump_out(Wants& wants) {
  if (sendfile_) return send_file(wants);
  if (to_net_.empty() && !in_eof_) {
    const Moved n = in_.read(to_net_.octets.data(), to_net_.octets.size());
    if (n.kind == Moved::Kind::kSome) to_net_.filled(n.count);
    if (n.kind == Moved::Kind::kEnd) in_eof_ = true;
    if (n.kind == Moved::Kind::kWantRead) want(n.kind, wants.in);
    if (n.kind == Moved::Kind::kError)
      return failure(fmt::format("cannot read the input: {}", std::strerror(n.error)));
  }
  if (!to_net_.empty()) {
    const Moved n = net_.write(to_net_.octets.data() + to_net_.begin, to_net_.end - to_net_.begin);
    if (n.kind == Moved::Kind::kError) return net_failure(n.error);
    if (n.kind == Moved::Kind::kSome) {
      to_net_.begin += n.count;
      summary_.sent += n.count;
      wants.moved = true;
    } else {
      want(n.kind, wants.net);
    }
  } else if (in_eof_) {
    const Moved n = net_.end_writing();
    if (n.kind == Moved::Kind::kError) return net_failure(n.error);
    if (n.kind == Moved::Kind::kEnd)
      out_done_ = wants.moved = true;
    else
      want(n.kind, wants.net);
  }
  return {};
}

std::expected<void, Failure> Transfer::pump_in(Wants& wants) {
  if (to_out_.empty() && !net_eof_) {
    const Moved n = net_.read(to_out_.octets.data(), to_out_.octets.size());
    if (n.kind == Moved::Kind::kError) return net_failure(n.error);
    if (n.kind == Moved::Kind::kSome) {
      to_out_.filled(n.count);
      summary_.received += n.count;
      wants.moved = true;
    } else if (n.kind == Moved::Kind::kEnd) {
      net_eof_ = true;
    } else {
      want(n.kind, wants.net);
    }
  }
  if (options_.send_only) to_out_.begin = to_out_.end;
  if (!to_out_.empty()) {
    const Moved n = out_.write(to_out_.octets.data() + to_out_.begin, to_out_.end - to_out_.begin);
    if (n.kind == Moved::Kind::kError) return output_failure(n.error);
    if (n.kind == Moved::Kind::kSome) {
      to_out_.begin += n.count;
      written_ += n.count;
      wants.moved = true;
    } else {
      want(Moved::Kind::kWantWrite, wants.out);
    }
  }
  if (net_eof_ && to_out_.empty()) in_done_ = wants.moved = true;
  return {};
}

// A sender that exits at once would never learn that the peer's TCP did not get the rest.
std::expected<void, Failure> Transfer::wait_acknowledged() {
  const Deadline deadline(kAcknowledgeTime);
  for (int pause_ms = 1;; pause_ms = std::min(pause_ms * 2, 50)) {
    int unacknowledged = 0;
    if (const int error = get_option<int>(net_.fd(), SOL_SOCKET, SO_ERROR).value_or(0))
      return net_failure(error);
    if (ioctl(net_.fd(), SIOCOUTQ, &unacknowledged) != 0 || unacknowledged <= 0) return {};
    if (deadline.left() == 0)
      return failure("the peer did not acknowledge the last " +
                     counted(static_cast<std::uint64_t>(unacknowledged), "octet"));
    if (signals_.pending()) return failure("interrupted");
    poll(nullptr, 0, pause_ms);
  }
}

}  // namespace

std::expected<void, Failure> stream(Channel& channel, const Options& options, Summary& summary) {
  return Transfer(channel, options, summary).run();
}

}  // namespace psp::cat
