/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists the PSP devices; prints why it cannot. It is a stranger's program in C, built by
 * tests/install/run against what was installed: with psp.h alone, and the flags of pkg-config, of
 * psp(7) or of CMake.
 *
 * That it compiles, links and starts is what is shown. The test has no pspd, so it must say that
 * nobody answers and end with 1.
 */
#include <stdio.h>

#include <psp/psp.h>

int main(void) {
  struct psp_device devices[4] = {PSP_DEVICE_INIT};
  struct psp_error why = PSP_ERROR_INIT;
  int n = psp_dev_list(devices, 4, &why);
  if (n < 0) printf("devices: %s\n", why.text);
  return n < 0;
}
