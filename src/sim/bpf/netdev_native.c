/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * The netdev programs as they are, for this machine. Each call runs with the values of the pspd
 * that has loaded them: shim_load_netdev.
 *
 * For the kernel these values are constants of one loaded object, and here variables of one program
 * text that the pspds of both hosts share (PSP_LOADED). A map is told by the address of its
 * definition; one that is not here aborts, so a program that begins to use another map is noticed.
 */
#define PSP_LOADED static
/* In this order: view.h needs the types of kernel.h, and the programs come last. */
/* clang-format off */
#include "kernel/bpf/kernel.h"
#include "sim/bpf/view.h"
#include "kernel/bpf/netdev.bpf.c"
/* clang-format on */

void shim_load_netdev(const struct shim_values* values) {
  psp_epoch = values->epoch;
  memcpy(psp_token, values->token, sizeof psp_token);
  psp_view_optname = values->view_optname;
  psp_mark = values->mark;
  psp_verified = values->verified;
  psp_netdev_ifindex = values->netdev_ifindex;
  psp_tap_ifindex = values->tap_ifindex;
  psp_dev_id = values->dev_id;
  psp_netns = values->netns;
}

enum shim_map shim_netdev_map(const void* map) {
  if (map == &psp_assoc) return SHIM_ASSOC;
  if (map == &psp_departed) return SHIM_DEPARTED;
  if (map == &psp_by_tx_spi) return SHIM_BY_TX_SPI;
  if (map == &psp_noted) return SHIM_NOTED;
  if (map == &psp_drops) return SHIM_DROPS;
  if (map == &psp_config) return SHIM_CONFIG;
  if (map == &psp_living) return SHIM_LIVING;
  abort();
}
