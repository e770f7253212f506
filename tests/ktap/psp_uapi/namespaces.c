// SPDX-License-Identifier: Apache-2.0
//
// Cases: a device and a netdev of another namespace: dev-assoc and dev-disassoc.
//
// Who of the two namespaces sees the device, may do what, and hears of what.
// The namespace is new in each case: numbers (nsid) are the kernel's, and none is taken for fixed.
#include <arpa/inet.h>

#include "psp_uapi.h"
#include "world.h"

// listed tells whether the device's list has this netdev, and how many there are. It also looks at
// the number of its namespace, unless that is ANY_NSID: a real one of whatever value.
#define ANY_NSID INT32_MIN
static bool listed(const struct answer* a, uint32_t ifindex, int32_t nsid, unsigned* count) {
  bool found = false;
  const struct nlattr* row;
  for (*count = 0; (row = attribute_nth(a->attributes, a->size, DEV_ASSOC_LIST, *count)) != NULL;
       ++*count)
    if (u32_of(inside(row, ASSOC_DEV_IFINDEX)) == ifindex && inside(row, ASSOC_DEV_NSID) != NULL &&
        ((int32_t)u32_of(inside(row, ASSOC_DEV_NSID)) == nsid ||
         (nsid == ANY_NSID && (int32_t)u32_of(inside(row, ASSOC_DEV_NSID)) >= 0)))
      found = true;
  return found;
}

static void case_dev_assoc_is_listed(void) {
  struct answer a;
  unsigned count;
  associate_world();
  PASS_ON;
  ask_id(&psp.nl, DEV_GET, psp.id, &a);
  check_device_set(&a);
  PASS_ON;
  CHECK(listed(&a, world.there, world.nsid, &count), "the list of %u has not the netdev", count);
  CHECK_EQ(count, 1, "netdevs in the list");
}

static void case_dev_assoc_notifies(void) {
  struct netlink listener = join(psp.mgmt);
  struct answer n;
  unsigned count;
  associate_world();
  PASS_ON;
  CHECK(next_notification(&listener, &n, PATIENCE_MS), "no notification");
  CHECK_EQ(n.cmd, DEV_CHANGE_NTF, "command");
  CHECK(listed(&n, world.there, world.nsid, &count), "the list of %u has not the netdev", count);
}

static void case_unassociated_namespace(void) {
  struct answer a;
  make_world();
  PASS_ON;
  struct netlink nl = open_in(world.away, 0);
  PASS_ON;
  dump(&nl, DEV_GET, &a, NULL, NULL);
  CHECK_EQ(a.error, 0, "error of the dump");
  CHECK_EQ(a.messages, 0, "devices");
  ask_id(&nl, DEV_GET, psp.id, &a);
  CHECK_EQ(a.error, ENOENT, "error of dev-get");
  ask_id(&nl, DEV_SET, psp.id, &a);
  CHECK_EQ(a.error, ENOENT, "error of dev-set");
  ask_id(&nl, KEY_ROTATE, psp.id, &a);
  CHECK_EQ(a.error, ENOENT, "error of key-rotate");
  ask_id(&nl, GET_STATS, psp.id, &a);
  CHECK_EQ(a.error, ENOENT, "error of get-stats");
  ask_id(&nl, DEV_GET, NO_SUCH_ID, &a);
  CHECK_EQ(a.error, ENODEV, "error of dev-get of an unknown id");
}

// check_main_ifindex: up to Linux 7.3 an associated namespace is told of the main netdev.
static void check_main_ifindex(const struct answer* a) {
  if (opt.net_next)
    CHECK(in_answer(a, DEV_IFINDEX) == NULL, "the ifindex of the other namespace's netdev is told");
  else
    CHECK_EQ(u32_of(in_answer(a, DEV_IFINDEX)), psp.ifindex, "ifindex of the main netdev");
}

static void case_associated_namespace_sees_the_device(void) {
  struct answer a;
  unsigned count;
  associate_world();
  PASS_ON;
  struct netlink nl = open_in(world.away, 0);
  PASS_ON;
  ask_id(&nl, DEV_GET, psp.id, &a);
  CHECK_EQ(a.error, 0, "error of dev-get");
  CHECK(in_answer(&a, DEV_BY_ASSOCIATION) != NULL, "no by-association");
  CHECK_EQ(payload_size(in_answer(&a, DEV_BY_ASSOCIATION)), 0, "octets of by-association");
  CHECK(listed(&a, world.there, -1, &count) == !opt.net_next, "the list has %u netdevs", count);
  CHECK_EQ(count, opt.net_next ? 0 : 1, "netdevs in the list");
  check_main_ifindex(&a);
  CHECK_EQ(u32_of(in_answer(&a, DEV_CAP)), psp.cap, "psp-versions-cap");
  dump(&nl, DEV_GET, &a, NULL, NULL);
  CHECK_EQ(a.error, 0, "error of the dump");
  CHECK_EQ(a.messages, 1, "devices");
  ask_id(&nl, GET_STATS, psp.id, &a);
  CHECK_EQ(a.error, 0, "error of get-stats");
}

static void case_associated_namespace_may_not_manage(void) {
  struct answer a;
  associate_world();
  PASS_ON;
  struct netlink nl = open_in(world.away, 0);
  PASS_ON;
  set_ena(&nl, 1, &a);
  CHECK_EQ(a.error, ENOENT, "error of dev-set");
  ask_id(&nl, KEY_ROTATE, psp.id, &a);
  CHECK_EQ(a.error, ENOENT, "error of key-rotate");
  ask_dev_assoc(&nl, DEV_ASSOC, world.there, true, &a);
  CHECK_EQ(a.error, EPERM, "error of dev-assoc with nsid");
  CHECK_EQ(a.missing, DEV_NSID, "bad attribute of dev-assoc");
  ask_dev_assoc(&nl, DEV_DISASSOC, world.there, true, &a);
  CHECK_EQ(a.error, EPERM, "error of dev-disassoc with nsid");
  CHECK_EQ(a.missing, DEV_NSID, "bad attribute of dev-disassoc");
}

static void case_associated_namespace_hears_of_rotation(void) {
  struct answer a, n;
  associate_world();
  PASS_ON;
  struct netlink listener = open_in(world.away, psp.use);
  go(world.home);
  PASS_ON;
  ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
  CHECK_EQ(a.error, 0, "error of key-rotate");
  CHECK(next_notification(&listener, &n, PATIENCE_MS), "no notification");
  CHECK_EQ(n.cmd, KEY_ROTATE_NTF, "command");
  CHECK_EQ(u32_of(in_answer(&n, DEV_ID)), psp.id, "id");
}

static void case_associated_namespace_hears_of_dev_set(void) {
  struct answer a, n;
  associate_world();
  PASS_ON;
  struct netlink listener = open_in(world.away, psp.mgmt);
  go(world.home);
  PASS_ON;
  set_ena(&psp.nl, ena_now(), &a);
  CHECK_EQ(a.error, 0, "error of dev-set");
  CHECK(next_notification(&listener, &n, PATIENCE_MS), "no notification");
  CHECK_EQ(n.cmd, DEV_CHANGE_NTF, "command");
  CHECK(in_answer(&n, DEV_BY_ASSOCIATION) != NULL, "no by-association");
  check_main_ifindex(&n);
}

static void check_loss_is_told(struct netlink* home, struct netlink* away) {
  struct answer n;
  unsigned count;
  CHECK(next_notification(home, &n, PATIENCE_MS), "no notification in the main namespace");
  CHECK_EQ(n.cmd, DEV_CHANGE_NTF, "command in the main namespace");
  // Up to Linux 7.3 it is told before it happens, to all alike.
  CHECK(listed(&n, world.there, world.nsid, &count) == !opt.net_next, "the list has %u netdevs",
        count);
  CHECK(next_notification(away, &n, PATIENCE_MS), "no notification in the other namespace");
  CHECK_EQ(n.cmd, opt.net_next ? DEV_DEL_NTF : DEV_CHANGE_NTF, "command in the other namespace");
  CHECK_EQ(u32_of(in_answer(&n, DEV_ID)), psp.id, "id in the other namespace");
  struct netlink nl = open_in(world.away, 0);
  ask_id(&nl, DEV_GET, psp.id, &n);
  CHECK_EQ(n.error, ENOENT, "error of dev-get in the other namespace");
}

static void case_dev_disassoc(void) {
  struct answer a;
  associate_world();
  PASS_ON;
  struct netlink away = open_in(world.away, psp.mgmt);
  struct netlink home = open_in(world.home, psp.mgmt);
  PASS_ON;
  ask_dev_assoc(&psp.nl, DEV_DISASSOC, world.there, true, &a);
  CHECK(a.error == 0, "dev-disassoc: %s %s", strerror(a.error), a.text);
  CHECK_EQ(a.cmd, DEV_DISASSOC, "command");
  CHECK_EQ(a.size, 0, "octets of the reply");
  check_loss_is_told(&home, &away);
  PASS_ON;
  go(world.home);
  ask_dev_assoc(&psp.nl, DEV_DISASSOC, world.there, true, &a);
  CHECK_EQ(a.error, ENODEV, "error of a second dev-disassoc");
  ask_dev_assoc(&psp.nl, DEV_ASSOC, world.there, true, &a);
  CHECK_EQ(a.error, 0, "error of dev-assoc once more");
}

static void case_associated_netdev_is_removed(void) {
  associate_world();
  PASS_ON;
  struct netlink away = open_in(world.away, psp.mgmt);
  struct netlink home = open_in(world.home, psp.mgmt);
  PASS_ON;
  remove_pair();
  PASS_ON;
  check_loss_is_told(&home, &away);
}

static void case_dev_assoc_twice(void) {
  struct answer a;
  associate_world();
  PASS_ON;
  ask_dev_assoc(&psp.nl, DEV_ASSOC, world.there, true, &a);
  CHECK_EQ(a.error, EBUSY, "error");
  CHECK(strcmp(a.text, "Device already associated with a PSP device") == 0, "text is \"%s\"",
        a.text);
}

static void case_dev_assoc_without_nsid(void) {
  struct answer a;
  unsigned count;
  make_world();
  PASS_ON;
  ask_dev_assoc(&psp.nl, DEV_ASSOC, world.here, false, &a);
  CHECK(a.error == 0, "dev-assoc: %s %s", strerror(a.error), a.text);
  ask_id(&psp.nl, DEV_GET, psp.id, &a);
  CHECK(listed(&a, world.here, ANY_NSID, &count), "the list of %u has not the netdev", count);
  ask_dev_assoc(&psp.nl, DEV_DISASSOC, world.here, false, &a);
  CHECK(a.error == 0, "dev-disassoc: %s %s", strerror(a.error), a.text);
}

static void case_rx_assoc_over_an_associated_netdev(void) {
  struct sockaddr_in here = {.sin_family = AF_INET};
  socklen_t size = sizeof here;
  struct answer a;
  associate_world();
  PASS_ON;
  inet_pton(AF_INET, "192.0.2.1", &here.sin_addr);
  const int listener = keep(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CHECK(bind(listener, (struct sockaddr*)&here, size) == 0 && listen(listener, 4) == 0 &&
            getsockname(listener, (struct sockaddr*)&here, &size) == 0,
        "listen: %s", strerror(errno));
  struct netlink nl = open_in(world.away, 0);
  const int fd = keep(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CHECK(connect(fd, (struct sockaddr*)&here, size) == 0, "connect: %s", strerror(errno));
  ask_rx(&nl, fd, 0, &a);
  CHECK(a.error == 0, "rx-assoc: %s %s", strerror(a.error), a.text);
  CHECK_EQ(u32_of(in_answer(&a, ASSOC_DEV_ID)), psp.id, "dev-id");
  ask_tx(&nl, fd, 0, &example, &a);
  CHECK(a.error == 0, "tx-assoc: %s %s", strerror(a.error), a.text);
}

static const struct test_case cases[] = {
    {"dev-assoc with nsid is listed by dev-get", case_dev_assoc_is_listed, NEED_ROOT | NEED_NETNS},
    {"dev-assoc sends dev-change-ntf with the list", case_dev_assoc_notifies,
     NEED_ROOT | NEED_NETNS},
    {"a namespace without association does not see the device", case_unassociated_namespace,
     NEED_ROOT | NEED_NETNS | NEED_EVERYWHERE},
    {"an associated namespace sees the device by association",
     case_associated_namespace_sees_the_device, NEED_ROOT | NEED_NETNS},
    {"an associated namespace may not manage the device", case_associated_namespace_may_not_manage,
     NEED_ROOT | NEED_NETNS},
    {"an associated namespace hears of rotation", case_associated_namespace_hears_of_rotation,
     NEED_ROOT | NEED_NETNS},
    {"an associated namespace hears of dev-set", case_associated_namespace_hears_of_dev_set,
     NEED_ROOT | NEED_NETNS},
    {"dev-disassoc tells both namespaces", case_dev_disassoc, NEED_ROOT | NEED_NETNS},
    {"an associated netdev that is removed tells both namespaces",
     case_associated_netdev_is_removed, NEED_ROOT | NEED_NETNS},
    {"dev-assoc of an associated netdev is EBUSY", case_dev_assoc_twice, NEED_ROOT | NEED_NETNS},
    {"dev-assoc without nsid takes a netdev of the caller's namespace", case_dev_assoc_without_nsid,
     NEED_ROOT | NEED_NETNS},
    {"rx-assoc and tx-assoc work over an associated netdev",
     case_rx_assoc_over_an_associated_netdev, NEED_ROOT | NEED_NETNS},
};
const struct group namespace_cases = GROUP(cases);
