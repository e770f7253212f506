/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Included before all else where libpsp-tls is compiled for the model: its system calls become
 * those of an application whose one socket is modelled (app_socket.cc). What is not here would
 * reach the real kernel with a descriptor that it does not know, and fail.
 */
#ifndef PSP_SIM_APP_CALLS_H
#define PSP_SIM_APP_CALLS_H

#include <sys/ioctl.h>
#include <sys/socket.h>

extern "C" {
int app_getsockopt(int fd, int level, int name, void* value, socklen_t* size);
int app_setsockopt(int fd, int level, int name, const void* value, socklen_t size);
int app_getsockname(int fd, sockaddr* address, socklen_t* size);
int app_getpeername(int fd, sockaddr* address, socklen_t* size);
int app_ioctl(int fd, unsigned long request, int* value);
ssize_t app_send(int fd, const void* octets, size_t size, int flags);
ssize_t app_recv(int fd, void* octets, size_t size, int flags);
}

#ifdef PSP_SIM_APP_CALLS
#define getsockopt app_getsockopt
#define setsockopt app_setsockopt
#define getsockname app_getsockname
#define getpeername app_getpeername
#define ioctl app_ioctl
#define send app_send
#define recv app_recv
/* Templates over these: their own names, or the linker would take one for the other. */
#define get_option app_get_option
#define set_option app_set_option
#endif

#endif
