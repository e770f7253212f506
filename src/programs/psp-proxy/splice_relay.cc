// SPDX-License-Identifier: Apache-2.0
//
// Each direction fills a pipe from one socket and pours it into the other until one of them would
// block. Only an empty pipe is filled: then EAGAIN can only mean that the socket has nothing. Pipes
// are large where the user may have large ones, and go back to the pool as soon as they are empty.
#include "splice_relay.hh"

#include <cerrno>
#include <fcntl.h>
#include <sys/socket.h>

namespace psp::proxy {
namespace {

// A user without CAP_SYS_RESOURCE may have few large pipes: then they stay at the default of 64
// KiB.
constexpr int kPipeSize = 1 << 20;
constexpr std::size_t kPoolMax = 64;
constexpr unsigned kFlags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK;

}  // namespace

std::optional<Pipe> PipePool::take() {
  if (!free_.empty()) {
    Pipe pipe = std::move(free_.back());
    free_.pop_back();
    return pipe;
  }
  int ends[2];
  if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) return std::nullopt;
  fcntl(ends[1], F_SETPIPE_SZ, kPipeSize);
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

void PipePool::give(Pipe pipe) {
  if (free_.size() < kPoolMax) free_.push_back(std::move(pipe));
}

bool SpliceRelay::Direction::prime(std::span<const std::uint8_t> octets) {
  if (octets.empty()) return true;
  pipe = pool.take();
  if (!pipe) return false;
  const ssize_t n = write(pipe->in.get(), octets.data(), octets.size());
  if (n != static_cast<ssize_t>(octets.size())) return false;
  in_pipe = octets.size();
  return true;
}

// Urgent data stops splice() with 0, as the end of the stream does. It goes on as ordinary data.
std::optional<SpliceRelay::Fault> SpliceRelay::Direction::end_or_urgent() {
  std::uint8_t octet = 0;
  const ssize_t n = recv(from.fd.get(), &octet, 1, MSG_DONTWAIT);
  if (n < 0 && errno == EAGAIN) {
    from.readable = false;
  } else if (n < 0) {
    return Fault{&from, errno};
  } else if (n == 0) {
    from_ended = true;
  } else if (write(pipe->in.get(), &octet, 1) == 1) {
    in_pipe = 1;
  } else {
    return Fault{&from, errno};
  }
  return std::nullopt;
}

std::optional<SpliceRelay::Fault> SpliceRelay::Direction::fill() {
  if (!pipe) pipe = pool.take();
  if (!pipe) return Fault{&from, errno};
  const ssize_t n = splice(from.fd.get(), nullptr, pipe->in.get(), nullptr, kPipeSize, kFlags);
  if (n > 0) {
    in_pipe = static_cast<std::size_t>(n);
    return std::nullopt;
  }
  if (n == 0) return end_or_urgent();
  if (errno != EAGAIN) return Fault{&from, errno};
  from.readable = false;  // the pipe was empty: it is the socket that has nothing
  return std::nullopt;
}

std::optional<SpliceRelay::Fault> SpliceRelay::Direction::pour() {
  const ssize_t n = splice(pipe->out.get(), nullptr, to.fd.get(), nullptr, in_pipe, kFlags);
  if (n > 0) {
    in_pipe -= static_cast<std::size_t>(n);
    moved += static_cast<std::uint64_t>(n);
    return std::nullopt;
  }
  if (n == 0 || errno != EAGAIN) return Fault{&to, n == 0 ? EPIPE : errno};
  to.writable = false;
  return std::nullopt;
}

std::optional<SpliceRelay::Fault> SpliceRelay::Direction::run(bool& more) {
  const std::uint64_t share_end = moved + kShare;
  while (!done) {
    std::optional<Fault> fault;
    if (in_pipe > 0) {
      if (!to.writable) return std::nullopt;
      if (moved >= share_end) {
        more = true;
        return std::nullopt;
      }
      fault = pour();
    } else if (from_ended) {
      done = true;
      if (shutdown(to.fd.get(), SHUT_WR) != 0) fault = Fault{&to, errno};
    } else if (from.readable) {
      fault = fill();
    } else {
      break;
    }
    if (fault) return fault;
  }
  if (pipe) pool.give(std::move(*pipe));
  pipe.reset();
  return std::nullopt;
}

Relay::State SpliceRelay::turn() {
  bool more = false;
  for (Direction* direction : {&outward_, &inward_}) {
    if (const auto fault = direction->run(more)) {
      broken_ = {.by_peer = fault->socket == &inward_.from, .error = fault->error};
      return State::kBroken;
    }
  }
  if (outward_.done && inward_.done) return State::kDone;
  return more ? State::kMore : State::kWaiting;
}

}  // namespace psp::proxy
