/* SPDX-License-Identifier: Apache-2.0 */
/*
 * psp/tls.h compiles as C, and a C caller links with libpsp-tls. Called by c_api_test.cc. It is the
 * shortest whole use of the interface, and has no file of C++ before it that could lend it a
 * header. What it says is looked at there: on a host without pspd, why the connection stays on TLS.
 */
#include <string.h>

#include <psp/tls.h>

int psp_c_tls_test(SSL* ssl, const char* pspd, char* message, size_t size);

/* Upgrades `ssl` as a C program does, preferring PSP, and stores why it stayed on TLS. */
int psp_c_tls_test(SSL* ssl, const char* pspd, char* message, size_t size) {
  struct psp_upgrade_options options = PSP_UPGRADE_OPTIONS_INIT;
  struct psp_upgrade_state* up;
  int status;
  options.policy = PSP_UPGRADE_PREFERRED;
  options.pspd = pspd;
  up = psp_upgrade_new(ssl, &options);
  if (up == NULL) return PSP_UPGRADE_FAILED;
  status = psp_upgrade_run(up, 10000);
  strncpy(message, psp_upgrade_message(up), size - 1);
  message[size - 1] = '\0';
  psp_upgrade_free(up);
  return status;
}
