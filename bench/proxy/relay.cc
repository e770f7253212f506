// SPDX-License-Identifier: Apache-2.0
//
// psp-bench-relay LISTEN-ADDRESS PORT TO-ADDRESS PORT: what a program in the middle costs that does
// nothing: it reads from one socket and writes to the other, without TLS, PSP or any check.
//
// Threading: one thread; a write that has to wait makes all connections wait, so two relays can
// wait for each other if both directions are full. The benchmark's protocols never fill both.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <netinet/tcp.h>
#include <string>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <utility>
#include <vector>

#include "base/unique_fd.hh"

#include "tool.hh"

namespace {

using psp::UniqueFd;

sockaddr_in to_address(const std::string& address, const std::string& port) {
  sockaddr_in out{};
  out.sin_family = AF_INET;
  out.sin_port = htons(static_cast<std::uint16_t>(std::atoi(port.c_str())));
  if (inet_pton(AF_INET, address.c_str(), &out.sin_addr) != 1) std::exit(2);
  return out;
}

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

struct Pair;

// End is one socket of a pair, as epoll knows it.
struct End {
  Pair* pair;
  UniqueFd fd;
  bool ended = false;
};

struct Pair {
  std::array<End, 2> ends{End{this, {}}, End{this, {}}};
};

// forward moves what can be read now; true once both directions have ended.
bool forward(End& from) {
  static std::array<char, 65536> octets;
  End& to = from.pair->ends[&from == &from.pair->ends[0] ? 1 : 0];
  const ssize_t got = recv(from.fd.get(), octets.data(), octets.size(), 0);
  for (ssize_t done = 0; done < got;) {
    const auto left = static_cast<std::size_t>(got - done);
    const ssize_t sent = send(to.fd.get(), octets.data() + done, left, MSG_NOSIGNAL);
    if (sent <= 0) return true;
    done += sent;
  }
  if (got > 0) return false;
  from.ended = true;
  shutdown(to.fd.get(), SHUT_WR);
  return to.ended || got < 0;
}

class Relay {
 public:
  Relay(const sockaddr_in& listen_at, const sockaddr_in& target)
      : target_(target), listener_(socket(AF_INET, SOCK_STREAM, 0)), epoll_(epoll_create1(0)) {
    if (!listener_ || !epoll_) die("socket");
    const int on = 1;
    (void)setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener_.get(), reinterpret_cast<const sockaddr*>(&listen_at), sizeof listen_at) != 0)
      die("bind");
    if (listen(listener_.get(), 128) != 0) die("listen");
    watch(listener_.get(), nullptr);
  }

  void run() {
    std::array<epoll_event, 64> events;
    for (;;) {
      const int count = epoll_wait(epoll_.get(), events.data(), events.size(), -1);
      std::vector<Pair*> over;
      for (int i = 0; i < count; ++i) {
        auto* end = static_cast<End*>(events[static_cast<std::size_t>(i)].data.ptr);
        if (end == nullptr)
          accept_one();
        else if (forward(*end))
          over.push_back(end->pair);
        else if (end->ended)
          (void)epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, end->fd.get(), nullptr);
      }
      std::sort(over.begin(), over.end());
      over.erase(std::unique(over.begin(), over.end()), over.end());
      for (Pair* pair : over) delete pair;
    }
  }

 private:
  void watch(int fd, End* end) {
    epoll_event event{.events = EPOLLIN, .data = {.ptr = end}};
    (void)epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
  }

  void accept_one() {
    UniqueFd accepted(accept(listener_.get(), nullptr, nullptr));
    if (!accepted) return;
    auto* pair = new Pair;
    pair->ends[0].fd = std::move(accepted);
    pair->ends[1].fd = UniqueFd(socket(AF_INET, SOCK_STREAM, 0));
    if (!pair->ends[1].fd) die("socket");
    if (connect(pair->ends[1].fd.get(), reinterpret_cast<const sockaddr*>(&target_),
                sizeof target_) != 0)
      die("connect");
    const int on = 1;
    for (End& end : pair->ends) {
      (void)setsockopt(end.fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      watch(end.fd.get(), &end);
    }
  }

  sockaddr_in target_;
  UniqueFd listener_, epoll_;
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "A relay that does nothing else.\nUsage: psp-bench-relay LISTEN-ADDRESS PORT TO-ADDRESS "
      "PORT");
  psp::name_tool(app, "psp-bench-relay");
  std::vector<std::string> words;
  app.add_option("words", words)->expected(4)->required();
  CLI11_PARSE(app, argc, argv);
  Relay(to_address(words[0], words[1]), to_address(words[2], words[3])).run();
}
