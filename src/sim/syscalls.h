/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Included before all else where product code is compiled for the model: its system calls become
 * calls of the model (process.cc). A call that is not here goes to the real kernel with a
 * descriptor that it does not know, and fails.
 */
#ifndef PSP_SIM_SYSCALLS_H
#define PSP_SIM_SYSCALLS_H

#include <bpf/bpf.h>
#include <sys/socket.h>

extern "C" {
int sim_getsockopt(int fd, int level, int name, void* value, socklen_t* size);
int sim_setsockopt(int fd, int level, int name, const void* value, socklen_t size);
int sim_map_lookup_elem(int fd, const void* key, void* value);
int sim_map_update_elem(int fd, const void* key, const void* value, __u64 flags);
int sim_map_delete_elem(int fd, const void* key);
}

#ifdef PSP_SIM_SYSCALLS
#define getsockopt sim_getsockopt
#define setsockopt sim_setsockopt
#define bpf_map_lookup_elem sim_map_lookup_elem
#define bpf_map_update_elem sim_map_update_elem
#define bpf_map_delete_elem sim_map_delete_elem
/* A template over getsockopt: its own name, or the linker would take one for the other. */
#define get_option sim_get_option
#endif

#endif
