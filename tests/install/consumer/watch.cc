// SPDX-License-Identifier: Apache-2.0
//
// Watches for rotations, in C++17; prints why it cannot. It is a stranger's program, built by
// tests/install/run against what was installed, in a standard older than our own: the headers that
// are for C must not ask for more.
//
// It is built with the flags of pkg-config and by CMake. The test has no pspd: it must say so and
// end with 1.
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
