/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies by process_vm_readv and process_vm_writev on this very process: the kernel walks the
 * pointers, so one that leads nowhere is an error and no signal. Where a filter of system calls
 * forbids these two, memory is touched directly: better a program that dies of its own bad pointer
 * than one that PSP does not work for.
 */
#include "memory.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* move is process_vm_readv or process_vm_writev on this process, whoever shares its memory. */
static bool move(long call, const struct iovec* ours, const struct iovec* theirs, size_t count) {
  const int saved = errno;
  const long moved = syscall(call, syscall(SYS_getpid), ours, 1UL, theirs, count, 0UL);
  const bool forbidden = moved < 0 && errno != EFAULT; /* by a filter of system calls */
  errno = saved;
  if (moved == (long)ours->iov_len) return true;
  if (!forbidden) {
    errno = EFAULT;
    return false;
  }
  unsigned char* at = ours->iov_base;
  for (size_t i = 0; i < count; at += theirs[i++].iov_len) {
    if (theirs[i].iov_len == 0) continue;
    if (call == SYS_process_vm_readv)
      memcpy(at, theirs[i].iov_base, theirs[i].iov_len);
    else
      memcpy(theirs[i].iov_base, at, theirs[i].iov_len);
  }
  return true;
}

bool psp_copy_in(void* ours, const void* theirs, size_t size) {
  const struct iovec to = {ours, size}, from = {(void*)(uintptr_t)theirs, size};
  return move(SYS_process_vm_readv, &to, &from, 1);
}

bool psp_copy_out(void* theirs, const void* ours, size_t size) {
  const struct iovec from = {(void*)(uintptr_t)ours, size}, to = {theirs, size};
  return move(SYS_process_vm_writev, &from, &to, 1);
}

bool psp_vector_size(const struct iovec* theirs, size_t count, size_t most, size_t* size) {
  struct iovec some[16];
  const size_t step = sizeof some / sizeof some[0];
  *size = 0;
  for (size_t at = 0; at < count; at += step) {
    const size_t here = count - at < step ? count - at : step;
    if (!psp_copy_in(some, theirs + at, here * sizeof some[0])) return false;
    for (size_t i = 0; i < here; i++) {
      if (some[i].iov_len > most - *size) return false;
      *size += some[i].iov_len;
    }
  }
  return true;
}

bool psp_gather(void* ours, size_t size, const struct iovec* theirs, size_t count) {
  const struct iovec to = {ours, size};
  return move(SYS_process_vm_readv, &to, theirs, count);
}
