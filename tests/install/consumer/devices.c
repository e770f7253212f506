/* SPDX-License-Identifier: Apache-2.0 */
/* Lists the PSP devices; prints why it cannot. */
#include <stdio.h>

#include <psp/psp.h>

int main(void) {
  struct psp_device devices[4] = {PSP_DEVICE_INIT};
  struct psp_error why = PSP_ERROR_INIT;
  int n = psp_dev_list(devices, 4, &why);
  if (n < 0) printf("devices: %s\n", why.text);
  return n < 0;
}
