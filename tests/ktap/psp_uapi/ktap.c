// SPDX-License-Identifier: Apache-2.0
//
// KTAP: the running case, why it failed, what is closed behind it, and its line of the report.
//
// A case fails once: the first reason is the reason.
// Whoever reads KTAP (kselftest) sees a plan, and for each case ok, not ok or SKIP with why.
#include <stdarg.h>

#include "psp_uapi.h"

struct tap tap;

// The descriptors of the running case; closed behind it.
static int kept[512];
static unsigned kept_count;

int keep(int fd) {
  if (fd >= 0 && kept_count < sizeof kept / sizeof kept[0]) kept[kept_count++] = fd;
  return fd;
}

void close_kept(void) {
  while (kept_count > 0) close(kept[--kept_count]);
}

void fail_at(const char* file, int line, const char* format, ...) {
  if (tap.bad) return;  // the first reason is the reason
  tap.bad = true;
  const char* slash = strrchr(file, '/');
  int at = snprintf(tap.why, sizeof tap.why, "%s:%d: ", slash != NULL ? slash + 1 : file, line);
  va_list list;
  va_start(list, format);
  vsnprintf(tap.why + at, sizeof tap.why - (size_t)at, format, list);
  va_end(list);
}

void report(const char* name, const char* skip) {
  tap.number++;
  if (skip != NULL) {
    printf("ok %u %s # SKIP %s\n", tap.number, name, skip);
  } else {
    if (tap.bad) printf("# %s\n", tap.why);
    printf("%s %u %s\n", tap.bad ? "not ok" : "ok", tap.number, name);
    tap.failed += tap.bad;
  }
  tap.bad = false;
  fflush(stdout);
}
