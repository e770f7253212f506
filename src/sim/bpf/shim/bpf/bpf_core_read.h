/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * libbpf's <bpf/bpf_core_read.h>, with the structs of the modelled kernel (view.h) in the place of
 * the running one's. Reads go through shim_probe_read_kernel, so that a null pointer in a chain
 * reads as zero, as there.
 */
#ifndef PSP_SIM_SHIM_BPF_CORE_READ_H
#define PSP_SIM_SHIM_BPF_CORE_READ_H

#include <bpf/bpf_helpers.h>

#define __builtin_preserve_access_index(x) (x)
#include_next <bpf/bpf_core_read.h>

#undef bpf_core_field_exists
#define bpf_core_field_exists(field) shim_has_field(#field)

/* The value is copied: what typeof finds behind a pointer to const would be const too. */
#undef BPF_CORE_READ
#define BPF_CORE_READ(src, a, ...)                                                     \
  ({                                                                                   \
    char value_[sizeof(___type((src), a, ##__VA_ARGS__))] __attribute__((aligned(8))); \
    BPF_CORE_READ_INTO((___type((src), a, ##__VA_ARGS__)*)value_, shim_view(src), a,   \
                       ##__VA_ARGS__);                                                 \
    *(___type((src), a, ##__VA_ARGS__)*)value_;                                        \
  })

#endif
