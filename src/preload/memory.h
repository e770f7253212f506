/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program's memory. What its calls point to is read and written here and only by way of the
 * kernel, so that a pointer to nowhere is EFAULT, as without the library, and not the end of the
 * program. What the kernel has just filled in may be touched directly.
 */
#ifndef PSP_PRELOAD_MEMORY_H
#define PSP_PRELOAD_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

/* psp_copy_in and psp_copy_out are false, with errno EFAULT, if `theirs` is not all there. */
bool psp_copy_in(void* ours, const void* theirs, size_t size);
bool psp_copy_out(void* theirs, const void* ours, size_t size);

/* psp_vector_size adds up; false: the vector is not there, or names more than `most` octets. */
bool psp_vector_size(const struct iovec* theirs, size_t count, size_t most, size_t* size);

/* psp_gather joins `size` octets, which the vector must have; false: it is not all there. */
bool psp_gather(void* ours, size_t size, const struct iovec* theirs, size_t count);

#endif
