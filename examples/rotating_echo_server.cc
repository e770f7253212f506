// SPDX-License-Identifier: Apache-2.0
//
// An echo service of lines that outlives the device keys of both hosts. When this host's key
// rotates, the server says the line "!renew" on each connection that stands on the old one; its
// client then connects anew and ends the old connection. See rotating_echo_client.cc.
//
//     c++ -std=c++20 rotating_echo_server.cc $(pkg-config --cflags --libs psp-tls)
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <list>
#include <poll.h>
#include <vector>

#include "plain_tls.hh"

namespace {

using psp::tls::Rotation;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kLimit{10};  // from accept to PSP
constexpr std::size_t kMuch =
    1 << 20;  // octets of one connection: read no more before some are gone

class Connection {
 public:
  Connection(int fd, SSL_CTX* context, Rotation& watch)
      : fd_(fd), ssl_(new_ssl(context, fd)), ticket_(watch.begin()) {}  // before the upgrade

  int fd() const { return fd_.get(); }
  short events() const { return events_; }

  // go_on does what can be done without waiting. False: the connection is over.
  bool go_on() { return (secured_ || secure()) && (secured_ ? echo() : in_time()); }

  // warn asks the client to renew, once, when it is time.
  bool warn() {
    if (!secured_ || warned_ || ticket_.state() == PSP_FRESH) return true;
    warned_ = true;
    out_ += "!renew\n";  // `out_` holds whole lines
    return echo();
  }

 private:
  bool secure() {
    int status = up_ ? PSP_UPGRADE_TLS : handshake(ssl_.get());
    if (status == PSP_UPGRADE_TLS) {
      if (!up_) up_.emplace(ssl_.get());
      status = up_->step();
    }
    events_ = status == PSP_UPGRADE_WANT_WRITE ? POLLOUT : POLLIN;
    if (status == PSP_UPGRADE_FAILED)
      std::fprintf(stderr, "rotating_echo_server: %s\n", up_ ? up_->message().c_str() : "no TLS");
    if (status != PSP_UPGRADE_PSP)
      return status != PSP_UPGRADE_FAILED && status != PSP_UPGRADE_WANT_DRAIN;
    ticket_.bind(up_->info()->dev_id);
    in_.resize(up_->pending());
    up_->read(std::as_writable_bytes(std::span(in_)));
    up_.reset();  // before the SSL
    ssl_.reset();
    return secured_ = true;
  }

  bool in_time() const {
    if (Clock::now() - begun_ <= kLimit) return true;
    std::fprintf(stderr, "rotating_echo_server: gave up without %s\n",
                 up_ ? up_->message().c_str() : "the peer's TLS handshake");
    return false;
  }

  bool echo() {
    char data[16384];
    ssize_t n = 1;
    while (!ended_ && held() < kMuch && (n = read(fd(), data, sizeof data)) > 0)
      in_.append(data, static_cast<std::size_t>(n));
    if (n < 0 && errno != EAGAIN) return false;
    ended_ |= n == 0;
    const std::size_t lines = in_.rfind('\n') + 1;  // npos + 1 is 0
    out_ += in_.substr(0, lines);
    in_.erase(0, lines);
    while (!out_.empty() && (n = write(fd(), out_.data(), out_.size())) > 0)
      out_.erase(0, static_cast<std::size_t>(n));
    if (!out_.empty() && errno != EAGAIN) return false;
    events_ =
        static_cast<short>((out_.empty() ? 0 : POLLOUT) | (ended_ || held() >= kMuch ? 0 : POLLIN));
    return events_ != 0;  // nothing to wait for: it has ended, or its line is too long
  }
  std::size_t held() const { return in_.size() + out_.size(); }

  psp::tls::Fd fd_;
  Clock::time_point begun_ = Clock::now();
  psp::tls::SslPtr ssl_;
  psp::tls::Ticket ticket_;
  std::optional<psp::tls::Upgrade> up_;
  bool secured_ = false, warned_ = false, ended_ = false;
  short events_ = POLLIN;
  std::string in_, out_;
};

void serve(const psp::tls::Fd& listener, SSL_CTX* context, Rotation& watch) {
  std::list<Connection> connections;
  for (;;) {
    std::vector<pollfd> polled{{listener.get(), POLLIN, 0}, {watch.fd(), POLLIN, 0}};
    for (const Connection& connection : connections)
      polled.push_back({connection.fd(), connection.events(), 0});
    poll(polled.data(), polled.size(), PSP_UPGRADE_RETRY_MS);  // a step may want to be tried again
    watch.process();
    need(watch.fd() >= 0, "pspd went away");
    connections.remove_if([](Connection& each) { return !each.go_on() || !each.warn(); });
    const int fd = accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0)
      connections.emplace_back(fd, context, watch);
    else if (errno == EMFILE || errno == ENFILE)
      poll(nullptr, 0, 10);  // or it would be asked again at once, and again
  }
}

}  // namespace

int main(int argc, char** argv) try {
  need(argc == 4, "usage: rotating_echo_server PORT CERTIFICATE KEY");
  std::signal(SIGPIPE, SIG_IGN);
  const Context context = server_context(argv[2], argv[3]);
  std::string why;
  std::optional<Rotation> watch = Rotation::watch(&why);
  need(watch.has_value(), why.c_str());
  serve(listen_at(argv[1]), context.get(), *watch);
} catch (const std::exception& error) {
  std::fprintf(stderr, "rotating_echo_server: %s\n", error.what());
  return 1;
}
