// SPDX-License-Identifier: Apache-2.0
//
// Cases: what needs CAP_NET_ADMIN, and what everybody may.
//
// The capability is looked at with each request, before its attributes, and that of a user
// namespace does not count.
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "psp_uapi.h"

// set_net_admin raises or lowers CAP_NET_ADMIN among the effective capabilities.
static bool set_net_admin(bool on) {
  struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &head, data) != 0) return false;
  if (on)
    data[0].effective |= 1u << CAP_NET_ADMIN;
  else
    data[0].effective &= ~(1u << CAP_NET_ADMIN);
  return syscall(SYS_capset, &head, data) == 0;
}

// check_privileged asks each operation that needs one; what comes first is told.
static void check_privileged(struct netlink* nl, int set_and_rotate) {
  struct answer a;
  set_ena(nl, ena_now(), &a);
  CHECK_EQ(a.error, set_and_rotate, "error of dev-set");
  CHECK_EQ(a.bad, 0, "bad attribute");
  CHECK(a.text[0] == '\0', "text is \"%s\"", a.text);
  ask_id(nl, KEY_ROTATE, psp.id, &a);
  CHECK_EQ(a.error, set_and_rotate, "error of key-rotate");
  ask_id(nl, DEV_ASSOC, psp.id, &a);
  CHECK_EQ(a.error, EPERM, "error of dev-assoc");
  ask_id(nl, DEV_DISASSOC, psp.id, &a);
  CHECK_EQ(a.error, EPERM, "error of dev-disassoc");
}

static void case_without_capability(void) {
  CHECK(set_net_admin(false), "capset: %s", strerror(errno));
  struct netlink nl = open_netlink();
  check_privileged(&nl, opt.linux_6_18 ? 0 : EPERM);
  CHECK(set_net_admin(true), "capset: %s", strerror(errno));
}

static void case_capability_given_up(void) {
  struct netlink nl = open_netlink();
  struct answer a;
  ask_id(&nl, DEV_GET, psp.id, &a);  // spoken to while there was the capability
  CHECK(set_net_admin(false), "capset: %s", strerror(errno));
  check_privileged(&nl, opt.linux_6_18 ? 0 : EPERM);
  CHECK(set_net_admin(true), "capset: %s", strerror(errno));
}

static void case_permission_before_attributes(void) {
  struct message m;
  struct answer a;
  CHECK(set_net_admin(false), "capset: %s", strerror(errno));
  struct netlink nl = open_netlink();
  begin(&m, psp.family, DEV_ASSOC, 0);
  put_u32(&m, DEV_ID, 0);
  ask(&nl, &m, &a);
  const bool back = set_net_admin(true);
  CHECK_EQ(a.error, EPERM, "error");
  CHECK(back, "capset: %s", strerror(errno));
}

static void case_everybody_may(void) {
  struct answer a;
  CHECK(set_net_admin(false), "capset: %s", strerror(errno));
  struct netlink nl = join(psp.mgmt), use = join(psp.use);
  const int fd = connect_peer();
  (void)use;
  ask_id(&nl, DEV_GET, psp.id, &a);
  const int get = a.error;
  ask_id(&nl, GET_STATS, psp.id, &a);
  const int stats = a.error;
  ask_rx(&nl, fd, 0, &a);
  const int rx = a.error;
  ask_tx(&nl, fd, 0, &example, &a);
  CHECK(set_net_admin(true), "capset: %s", strerror(errno));
  CHECK_EQ(get, 0, "error of dev-get");
  CHECK_EQ(stats, 0, "error of get-stats");
  CHECK_EQ(rx, 0, "error of rx-assoc");
  CHECK_EQ(a.error, 0, "error of tx-assoc");
}

// In a child: the user namespace cannot be left again. User 0 is mapped: where pspd's user has no
// number, nobody can be told from him, and the preload library does not trust him.
static void case_root_of_a_user_namespace(void) {
  const pid_t child = fork();
  if (child == 0) {
    struct answer a;
    if (unshare(CLONE_NEWUSER) != 0) _exit(200);
    const int map = open("/proc/self/uid_map", O_WRONLY);
    if (write(map, "0 0 1\n", 6) != 6) _exit(202);
    close(map);
    struct netlink nl = open_netlink_of(NETLINK_GENERIC);
    ask_id(&nl, opt.linux_6_18 ? DEV_ASSOC : KEY_ROTATE, psp.id, &a);
    _exit(a.error < 0 ? 201 : a.error);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status), "the child died");
  CHECK(WEXITSTATUS(status) != 200, "unshare(CLONE_NEWUSER) failed");
  CHECK(WEXITSTATUS(status) != 202, "uid_map cannot be written");
  CHECK_EQ(WEXITSTATUS(status), EPERM, "error");
}

static const struct test_case cases[] = {
    {"without CAP_NET_ADMIN privileged operations are refused", case_without_capability, NEED_ROOT},
    {"CAP_NET_ADMIN is judged at each request", case_capability_given_up, NEED_ROOT},
    {"permission is checked before attributes", case_permission_before_attributes, NEED_ROOT},
    {"associations, dev-get, get-stats and both groups are everybody's", case_everybody_may,
     NEED_ROOT},
    {"root of a user namespace has no permission", case_root_of_a_user_namespace,
     NEED_ROOT | NEED_USERNS},
};
const struct group permission_cases = GROUP(cases);
