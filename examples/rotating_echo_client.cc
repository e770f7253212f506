// SPDX-License-Identifier: Apache-2.0
//
// The client of rotating_echo_server.cc: asks as fast as it can until its standard input ends, and
// checks that each message is answered once and in order, whatever the device keys do meanwhile. A
// connection is renewed when this host's key has rotated, as its ticket tells, or the server's, as
// the server says. To keep to the matter, whatever fails ends the program.
//
//     c++ -std=c++20 rotating_echo_client.cc $(pkg-config --cflags --libs psp-tls)
//
// Each renewal is a line on standard output, and so are the figures at the end.
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <poll.h>

#include "plain_tls.hh"

namespace {

using psp::tls::Fd;
using psp::tls::Link;
using psp::tls::Rotation;
using psp::tls::Succession;

constexpr std::uint64_t kUnanswered = 256;  // messages on their way at a time

// A message is short or long, so that a connection is often found in the middle of one.
std::string message(std::uint64_t number) {
  return "message " + std::to_string(number) + std::string(number * 7919 % 8192, '.') + "\n";
}

class Client {
 public:
  Client(Rotation& watch, Succession::Dial dial) : watch_(watch), dial_(std::move(dial)) {}

  void run() {
    while (!stop_ || asked_ > answered_ || next_ || old_) {
      wait();
      watch_.process();
      need(watch_.fd() >= 0, "pspd went away");
      if (old_) old_ended(read_all(old_.get()));
      if (!old_ && now_.fd) need(!read_all(now_.fd.get()), "the server ended the connection");
      renew();
      if (now_.fd) ask();
    }
    std::printf("%llu messages, each answered once and in order, over %u connections\n",
                static_cast<unsigned long long>(answered_), connections_);
  }

 private:
  void wait() {
    const short writing = out_.empty() && asked_ - answered_ >= kUnanswered ? 0 : POLLOUT;
    pollfd polled[] = {{stop_ ? -1 : STDIN_FILENO, POLLIN, 0},
                       {watch_.fd(), POLLIN, 0},
                       {old_.get(), POLLIN, 0},
                       {now_.fd.get(), static_cast<short>(POLLIN | writing), 0},
                       {next_ ? next_->fd() : -1, next_events_, 0}};
    poll(polled, std::size(polled), PSP_UPGRADE_RETRY_MS);
    char ignored[256];
    if (polled[0].revents != 0 && read(STDIN_FILENO, ignored, sizeof ignored) <= 0) stop_ = true;
  }

  // renew begins a succession when it is time, drives it, and switches over between two messages.
  void renew() {
    const psp_freshness state = now_.ticket.state();
    need(!now_.fd || state != PSP_STALE, "too late: the connection died before it was renewed");
    if (!next_ && !old_ && !stop_ && (asked_to_renew_ || state != PSP_FRESH)) {
      why_ = asked_to_renew_ ? "the server asked" : now_.fd ? "our key rotated" : "the first";
      next_.emplace(watch_, dial_);
    }
    if (!next_) return;
    const int status = next_->step();
    next_events_ = status == PSP_UPGRADE_WANT_WRITE ? POLLOUT : POLLIN;
    need(status != PSP_UPGRADE_FAILED, next_->message().c_str());
    if (status != PSP_UPGRADE_PSP || !out_.empty()) return;
    Link link = next_->switch_over(now_.fd.get());
    next_.reset();
    old_ = std::exchange(now_, std::move(link)).fd;
    asked_to_renew_ = false;
    ++connections_;
    if (!old_) old_ended(true);
  }

  // Only then the answers on the new connection are looked at: order is kept.
  void old_ended(bool ended) {
    if (!ended) return;
    old_.reset();
    need(in_.empty(), "the old connection ended within a message");
    in_ = std::exchange(now_.early, {});
    take_lines(true);
    std::printf("connection %u: %s\n", connections_, why_);
    std::fflush(stdout);
  }

  void ask() {
    for (;;) {
      if (out_.empty() && !stop_ && asked_ - answered_ < kUnanswered) out_ = message(asked_++);
      if (out_.empty()) return;
      const ssize_t n = write(now_.fd.get(), out_.data(), out_.size());
      need(n >= 0 || errno == EAGAIN, "the connection broke");
      if (n < 0) return;
      out_.erase(0, static_cast<std::size_t>(n));
    }
  }

  // read_all takes what there is. True: the stream has ended.
  bool read_all(int fd) {
    char data[16384];
    ssize_t n = 0;
    while ((n = read(fd, data, sizeof data)) > 0) in_.append(data, static_cast<std::size_t>(n));
    need(n == 0 || errno == EAGAIN, "the connection broke");
    take_lines(fd == now_.fd.get());
    return n == 0;
  }

  void take_lines(bool of_now) {
    std::size_t begin = 0, end = 0;
    for (; (end = in_.find('\n', begin)) != std::string::npos; begin = end + 1) {
      const std::string line = in_.substr(begin, end + 1 - begin);
      if (line == "!renew\n")
        asked_to_renew_ |= of_now;  // of the old one we know
      else
        need(line == message(answered_++), "an answer is lost, came twice or out of order");
    }
    in_.erase(0, begin);
  }

  Rotation& watch_;
  Succession::Dial dial_;
  std::optional<Succession> next_;
  short next_events_ = 0;
  Link now_;
  Fd old_;
  bool asked_to_renew_ = false, stop_ = false;
  const char* why_ = "";
  std::string out_, in_;  // the rest of a message; what is no whole line yet
  std::uint64_t asked_ = 0, answered_ = 0;
  unsigned connections_ = 0;
};

}  // namespace

int main(int argc, char** argv) try {
  need(argc == 4, "usage: rotating_echo_client HOST PORT CA");
  std::signal(SIGPIPE, SIG_IGN);
  const Context context = client_context(argv[3]);
  std::string why;
  std::optional<Rotation> watch = Rotation::watch(&why);
  need(watch.has_value(), why.c_str());
  Client(*watch, [&](Link& link) {
    if (!link.ssl) {
      link.fd = connect_to(argv[1], argv[2]);
      link.ssl = new_ssl(context.get(), link.fd.get(), argv[1]);
    }
    return handshake(link.ssl.get());
  }).run();
} catch (const std::exception& error) {
  std::fprintf(stderr, "rotating_echo_client: %s\n", error.what());
  return 1;
}
