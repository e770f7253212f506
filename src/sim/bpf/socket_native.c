/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * The socket programs as they are, for this machine. Each call runs with the values of the pspd
 * that has loaded them: shim_load_socket.
 *
 * They are a source of their own, as in the product, since each object has variables of the same
 * names. They have other maps than the netdev programs: psp_guard, but neither psp_config nor
 * psp_living. One that is not here aborts.
 */
#define PSP_LOADED static
/* In this order: view.h needs the types of kernel.h, and the programs come last. */
/* clang-format off */
#include "kernel/bpf/kernel.h"
#include "sim/bpf/view.h"
#include "kernel/bpf/socket.bpf.c"
/* clang-format on */

void shim_load_socket(const struct shim_values* values) {
  psp_epoch = values->epoch;
  memcpy(psp_token, values->token, sizeof psp_token);
  psp_view_optname = values->view_optname;
  psp_mark = values->mark;
  psp_verified = values->verified;
  psp_guard_version = values->guard_version;
}

enum shim_map shim_socket_map(const void* map) {
  if (map == &psp_assoc) return SHIM_ASSOC;
  if (map == &psp_departed) return SHIM_DEPARTED;
  if (map == &psp_by_tx_spi) return SHIM_BY_TX_SPI;
  if (map == &psp_noted) return SHIM_NOTED;
  if (map == &psp_drops) return SHIM_DROPS;
  if (map == &psp_guard) return SHIM_GUARD;
  abort();
}
