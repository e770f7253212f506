/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of unix sockets as all our programs write them: "@name" is abstract, one a network
 * namespace; all else is a path. As plain C, since libpsp-genl.so finds pspd by such a name too.
 * The length is part of an abstract address (unix(7)): a null at its end would make it another one,
 * while a path has one.
 */
#pragma once

#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

/*
 * psp_unix_address writes the address of the socket that `name`, of `size` octets, means. Returns
 * its length for bind() and connect(); 0: there is no such address, for the name is empty or too
 * long.
 */
static inline socklen_t psp_unix_address(const char* name, size_t size,
                                         struct sockaddr_un* address) {
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  if (size >= sizeof address->sun_path) return 0;
  const size_t end = offsetof(struct sockaddr_un, sun_path) + size;
  if (size > 0 && name[0] != '@') {
    memcpy(address->sun_path, name, size);
    return (socklen_t)(end + 1);
  }
  if (size < 2) return 0;
  memcpy(address->sun_path + 1, name + 1, size - 1);
  return (socklen_t)end;
}
