// SPDX-License-Identifier: Apache-2.0
//
// Cases: who hears what.
//
// Notifications of both groups, in which order, and what makes none: a refused request, a netdev
// that is renamed.
#include <net/if.h>

#include "psp_uapi.h"
#include "world.h"

static void case_dev_change_ntf(void) {
  struct netlink listener = join(psp.mgmt);
  struct answer a, n;
  const uint32_t before = ena_now();
  PASS_ON;
  for (unsigned i = 0; i < 2; i++) {  // the second time nothing changes
    set_ena(&psp.nl, before, &a);
    CHECK_EQ(a.error, 0, "error of dev-set");
    CHECK(next_notification(&listener, &n, PATIENCE_MS), "no notification of dev-set %u", i + 1);
    CHECK_EQ(n.cmd, DEV_CHANGE_NTF, "command");
    CHECK_EQ(n.error, 0, "sequence number");
    CHECK_EQ(n.port, 0, "port");
    check_device_set(&n);
    PASS_ON;
    CHECK_EQ(u32_of(in_answer(&n, DEV_ENA)), before, "psp-versions-ena");
  }
  CHECK(!wait_readable(listener.fd, SILENCE_MS), "a third notification");
}

static void case_key_rotate_ntf(void) {
  struct netlink listener = join(psp.use);
  struct answer a, n;
  PASS_ON;
  ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
  CHECK_EQ(a.error, 0, "error of key-rotate");
  CHECK(next_notification(&listener, &n, PATIENCE_MS), "no notification");
  CHECK_EQ(n.cmd, KEY_ROTATE_NTF, "command");
  CHECK_EQ(n.error, 0, "sequence number");
  CHECK_EQ(n.port, 0, "port");
  CHECK_EQ(count_attributes(n.attributes, n.size), 1, "attributes");
  CHECK_EQ(u32_of(in_answer(&n, DEV_ID)), psp.id, "id");
  CHECK(!wait_readable(listener.fd, SILENCE_MS), "a second notification");
}

static void case_groups_are_apart(void) {
  struct netlink mgmt = join(psp.mgmt), use = join(psp.use);
  struct answer a;
  PASS_ON;
  ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
  CHECK(next_notification(&use, &a, PATIENCE_MS), "no key-rotate-ntf");
  CHECK(!wait_readable(mgmt.fd, SILENCE_MS), "mgmt hears of a rotation");
  set_ena(&psp.nl, ena_now(), &a);
  CHECK(next_notification(&mgmt, &a, PATIENCE_MS), "no dev-change-ntf");
  CHECK(!wait_readable(use.fd, SILENCE_MS), "use hears of dev-set");
}

static void case_every_listener_hears(void) {
  struct netlink one = join(psp.mgmt), two = join(psp.mgmt);
  struct answer a;
  PASS_ON;
  set_ena(&psp.nl, ena_now(), &a);
  CHECK(next_notification(&one, &a, PATIENCE_MS), "the first hears nothing");
  CHECK(next_notification(&two, &a, PATIENCE_MS), "the second hears nothing");
}

static void case_leaving_a_group(void) {
  struct netlink listener = join(psp.mgmt), other = join(psp.mgmt);
  struct answer a;
  PASS_ON;
  CHECK(setsockopt(listener.fd, SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, &psp.mgmt, sizeof psp.mgmt) ==
            0,
        "NETLINK_DROP_MEMBERSHIP: %s", strerror(errno));
  set_ena(&psp.nl, ena_now(), &a);
  CHECK(next_notification(&other, &a, PATIENCE_MS), "the one that stayed hears nothing");
  CHECK(!wait_readable(listener.fd, SILENCE_MS), "the one that left hears it");
}

static void case_refused_requests_notify_nobody(void) {
  struct netlink mgmt = join(psp.mgmt), use = join(psp.use);
  struct answer a;
  PASS_ON;
  set_ena(&psp.nl, 0x10, &a);
  CHECK_EQ(a.error, EINVAL, "error of dev-set");
  ask_id(&psp.nl, KEY_ROTATE, NO_SUCH_ID, &a);
  CHECK_EQ(a.error, ENODEV, "error of key-rotate");
  CHECK(!wait_readable(mgmt.fd, SILENCE_MS), "mgmt hears something");
  CHECK(!wait_readable(use.fd, 1), "use hears something");
}

// An actor that listens on the same socket has its notification first, then the reply.
static void case_notification_before_the_reply(void) {
  struct netlink nl = join(psp.mgmt);
  struct message m;
  struct answer a;
  const uint32_t before = ena_now();
  PASS_ON;
  begin(&m, psp.family, DEV_SET, NLM_F_REQUEST);
  put_u32(&m, DEV_ID, psp.id);
  put_u32(&m, DEV_ENA, before);
  CHECK(send_message(&nl, &m), "send: %s", strerror(errno));
  CHECK(next_notification(&nl, &a, PATIENCE_MS), "nothing came");
  CHECK_EQ(a.cmd, DEV_CHANGE_NTF, "first command");
  CHECK(next_notification(&nl, &a, PATIENCE_MS), "no reply");
  CHECK_EQ(a.cmd, DEV_SET, "second command");
}

// --rereg CMD makes the PSP device of --dev2 go and come back, as netdevsim's psp_rereg does.
static void case_device_goes_and_comes(void) {
  struct netlink listener = join(psp.mgmt);
  struct answer n;
  PASS_ON;
  const uint32_t old = psp.id2;
  CHECK(old != 0, "--dev2 has no PSP device");
  CHECK(system(opt.rereg) == 0, "'%s' failed", opt.rereg);
  CHECK(next_notification(&listener, &n, PATIENCE_MS), "no notification");
  CHECK_EQ(n.cmd, DEV_DEL_NTF, "first command");
  CHECK_EQ(u32_of(in_answer(&n, DEV_ID)), old, "id");
  CHECK(in_answer(&n, DEV_IFINDEX) != NULL && in_answer(&n, DEV_CAP) != NULL &&
            in_answer(&n, DEV_ENA) != NULL,
        "dev-del-ntf is not the full set");
  CHECK(next_notification(&listener, &n, PATIENCE_MS), "no second notification");
  CHECK_EQ(n.cmd, DEV_ADD_NTF, "second command");
  const uint32_t id = u32_of(in_answer(&n, DEV_ID));
  CHECK(in_answer(&n, DEV_IFINDEX) != NULL && in_answer(&n, DEV_CAP) != NULL, "not the full set");
  CHECK(id != 0 && id != old, "the new device has id %u, the old one had %u", id, old);
  ask_id(&psp.nl, DEV_GET, old, &n);
  CHECK_EQ(n.error, ENODEV, "error of dev-get of the old id");
  ask_id(&psp.nl, DEV_GET, id, &n);
  CHECK_EQ(n.error, 0, "error of dev-get of the new id");
  ask_id(&psp.nl, DEV_GET, psp.id, &n);
  CHECK_EQ(n.error, 0, "error of dev-get of the other device");
  psp.id2 = id;
}

static void case_netdev_is_renamed(void) {
  struct netlink listener = join(psp.mgmt);
  struct answer a;
  const uint32_t ifindex = if_nametoindex(opt.dev2);
  PASS_ON;
  change_link(ifindex, false, NULL);
  change_link(ifindex, false, "ktap-renamed");
  change_link(ifindex, true, NULL);
  const bool silent = !wait_readable(listener.fd, 2 * SILENCE_MS);
  ask_id(&psp.nl, DEV_GET, psp.id2, &a);
  change_link(ifindex, false, NULL);
  change_link(ifindex, false, opt.dev2);
  change_link(ifindex, true, NULL);
  CHECK(silent, "there is a notification");
  CHECK_EQ(a.error, 0, "error of dev-get");
  CHECK_EQ(u32_of(in_answer(&a, DEV_IFINDEX)), ifindex, "ifindex");
}

static const struct test_case cases[] = {
    {"each dev-set sends dev-change-ntf, even if nothing changes", case_dev_change_ntf, NEED_ROOT},
    {"key-rotate sends key-rotate-ntf with the id alone", case_key_rotate_ntf, NEED_ROOT},
    {"mgmt hears of devices and use hears of keys", case_groups_are_apart, NEED_ROOT},
    {"every listener of a group hears", case_every_listener_hears, NEED_ROOT},
    {"who leaves a group hears no more", case_leaving_a_group, NEED_ROOT},
    {"refused requests notify nobody", case_refused_requests_notify_nobody, NEED_ROOT},
    {"an actor hears the notification before the reply", case_notification_before_the_reply,
     NEED_ROOT},
    {"a device that goes and comes sends dev-del-ntf and dev-add-ntf", case_device_goes_and_comes,
     NEED_ROOT | NEED_DEV2 | NEED_REREG},

    {"a device outlives that its netdev is renamed, down and up", case_netdev_is_renamed,
     NEED_ROOT | NEED_DEV2},
};
const struct group notification_cases = GROUP(cases);
