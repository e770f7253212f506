// SPDX-License-Identifier: Apache-2.0
// Watches for rotations, in C++17; prints why it cannot.
#include <cstdio>
#include <memory>

#include <psp/tls.h>

int main() {
  psp_error why = PSP_ERROR_INIT;
  const std::unique_ptr<psp_rotation, void (*)(psp_rotation*)> watch(
      psp_rotation_new(nullptr, &why), psp_rotation_free);
  if (!watch) std::printf("watch: %s\n", why.text);
  return watch ? 0 : 1;
}
