// SPDX-License-Identifier: Apache-2.0
//
// One recvmsg(2). Its buffer for ancillary data has room for all the descriptors that a message can
// bring: what does not fit the kernel would close for us, and we would wait for it.
//
// Descriptors are taken before anything is judged, also those of a message that is no request. An
// empty message and the end of a connection both read as 0 octets; the credentials that the kernel
// puts beside every message (SO_PASSCRED) tell them apart.
#include "receive.hh"

#include <array>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <sys/socket.h>

namespace psp::control {
namespace {

constexpr std::size_t kDescriptorsMax = 253;  // SCM_MAX_FD
constexpr std::size_t kDescriptorsOfUse = 2;  // more than that is no request

}  // namespace

Received receive(int fd, std::span<std::uint8_t> room) {
  iovec part{room.data(), room.size()};
  alignas(
      cmsghdr) char control[CMSG_SPACE(kDescriptorsMax * sizeof(int)) + CMSG_SPACE(sizeof(ucred))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t n = ::recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  Received received;
  if (n < 0) {
    if (errno != EAGAIN && errno != EINTR) received.kind = Received::Kind::kBroken;
    return received;
  }
  bool credentials = false;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET) continue;
    if (header->cmsg_type == SCM_CREDENTIALS) credentials = true;
    if (header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    std::array<UniqueFd, kDescriptorsMax> all;  // first: the vector takes memory
    for (std::size_t i = 0; i < count; i++) {
      int one;
      std::memcpy(&one, CMSG_DATA(header) + i * sizeof one, sizeof one);
      all[i].reset(one);
    }
    received.fds.assign(std::make_move_iterator(all.begin()),
                        std::make_move_iterator(all.begin() + count));
  }
  // A request that is cut off cannot be answered as netlink would: its sender is no netlink client.
  const bool whole = n > 0 && (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0 &&
                     received.fds.size() <= kDescriptorsOfUse;
  received.kind = whole                    ? Received::Kind::kDatagram
                  : n == 0 && !credentials ? Received::Kind::kEnd
                                           : Received::Kind::kBroken;
  received.octets = room.first(static_cast<std::size_t>(n));
  return received;
}

}  // namespace psp::control
