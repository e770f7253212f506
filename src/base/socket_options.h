/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Socket options that are newer than the headers of the systems that we build on: SO_NETNS_COOKIE
 * of Linux 5.14, SO_PEERPIDFD of 6.5, with their numbers in asm-generic/socket.h. A kernel that
 * lacks one refuses it when it is asked. As plain C, since libpsp-genl.so asks for them too; C++
 * takes socket_options.hh, which has this.
 */
#pragma once

#include <sys/socket.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
