// SPDX-License-Identifier: Apache-2.0
//
// Cases: devices: dev-get, dev-set, key-rotate, get-stats.
//
// One by one and as a dump; counters must count what happens, and associations grow stale.
// Two namespaces and both notification groups are not here: namespaces.c, notifications.c.
#include "psp_uapi.h"

void check_device_set(const struct answer* a) {
  CHECK_EQ(u32_of(in_answer(a, DEV_ID)), psp.id, "id");
  CHECK_EQ(u32_of(in_answer(a, DEV_IFINDEX)), psp.ifindex, "ifindex");
  CHECK_EQ(u32_of(in_answer(a, DEV_CAP)), psp.cap, "psp-versions-cap");
  CHECK(in_answer(a, DEV_ENA) != NULL, "no psp-versions-ena");
  CHECK(in_answer(a, DEV_BY_ASSOCIATION) == NULL, "by-association in the main namespace");
}

static void case_dev_get(void) {
  struct answer a;
  ask_id(&psp.nl, DEV_GET, psp.id, &a);
  CHECK_EQ(a.error, 0, "error");
  CHECK_EQ(a.cmd, DEV_GET, "command");
  check_device_set(&a);
  PASS_ON;
  CHECK(psp.id >= 1 && psp.id <= 65535, "id %u", psp.id);
  CHECK(psp.cap & 1, "a device without version 0");
}

static void case_dev_get_dump(void) {
  struct answer a;
  const uint32_t known = psp.id;
  psp.id = 0;
  dump(&psp.nl, DEV_GET, &a, find_device_row, NULL);
  CHECK_EQ(a.error, 0, "error");
  CHECK_EQ(psp.id, known, "id in the dump");
  CHECK_EQ(a.cmd, DEV_GET, "command");
  CHECK(a.messages >= (opt.dev2 != NULL ? 2u : 1u), "%u devices", a.messages);
  CHECK(opt.dev2 == NULL || (psp.id2 != 0 && psp.id2 != psp.id), "ids %u and %u", psp.id, psp.id2);
}

uint32_t ena_now(void) {
  struct answer a;
  ask_id(&psp.nl, DEV_GET, psp.id, &a);
  return u32_of(in_answer(&a, DEV_ENA));
}

static void case_dev_set(void) {
  struct answer a;
  const uint32_t before = ena_now();
  const uint32_t masks[] = {0, 1, psp.cap, before};
  for (unsigned i = 0; i < 4; i++) {
    set_ena(&psp.nl, masks[i], &a);
    CHECK_EQ(a.error, 0, "error");
    CHECK_EQ(a.messages, 1, "replies");
    CHECK_EQ(a.cmd, DEV_SET, "command");
    CHECK_EQ(a.size, 0, "octets of the reply");
    CHECK_EQ(ena_now(), masks[i], "versions that are enabled");
  }
}

static void case_key_rotate(void) {
  struct answer a;
  for (unsigned i = 0; i < 3; i++) {
    ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
    CHECK_EQ(a.error, 0, "error");
    CHECK_EQ(a.messages, 1, "replies");
    CHECK_EQ(a.cmd, KEY_ROTATE, "command");
    CHECK_EQ(count_attributes(a.attributes, a.size), 1, "attributes");
    CHECK_EQ(u32_of(in_answer(&a, DEV_ID)), psp.id, "id");
  }
}

static void case_get_stats(void) {
  struct answer a;
  ask_id(&psp.nl, GET_STATS, psp.id, &a);
  CHECK_EQ(a.error, 0, "error");
  CHECK_EQ(a.cmd, GET_STATS, "command");
  CHECK_EQ(u32_of(in_answer(&a, STATS_DEV_ID)), psp.id, "dev-id");
  CHECK_EQ(count_attributes(a.attributes, a.size), STATS_TX_ERROR, "attributes");
  for (uint16_t type = STATS_KEY_ROTATIONS; type <= STATS_TX_ERROR; type++) {
    const struct nlattr* counter = in_answer(&a, type);
    CHECK(counter != NULL, "counter %u is missing", type);
    CHECK(payload_size(counter) == (uint_of(counter) > UINT32_MAX ? 8u : 4u),
          "counter %u with %llu has %zu octets", type, (unsigned long long)uint_of(counter),
          payload_size(counter));
  }
}

static void count_own_rows(const struct nlmsghdr* h, void* context) {
  const uint8_t* data = (const uint8_t*)NLMSG_DATA(h) + GENL_HDRLEN;
  const size_t size = h->nlmsg_len - NLMSG_HDRLEN - GENL_HDRLEN;
  *(unsigned*)context += u32_of(attribute(data, size, 1)) == psp.id;
}

static void case_get_stats_dump(void) {
  struct answer a, devices;
  unsigned own = 0;
  dump(&psp.nl, GET_STATS, &a, count_own_rows, &own);
  CHECK_EQ(a.error, 0, "error");
  CHECK_EQ(own, 1, "rows of the device");
  dump(&psp.nl, DEV_GET, &devices, NULL, NULL);
  CHECK_EQ(a.messages, devices.messages, "rows of get-stats and dev-get");
}

uint64_t statistic(uint16_t type) {
  struct answer a;
  ask_id(&psp.nl, GET_STATS, psp.id, &a);
  return uint_of(in_answer(&a, type));
}

static void case_rotations_are_counted(void) {
  struct answer a;
  const uint64_t before = statistic(STATS_KEY_ROTATIONS);
  ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
  CHECK_EQ(statistic(STATS_KEY_ROTATIONS), before + 1, "key-rotations");
  ask_id(&psp.nl, KEY_ROTATE, NO_SUCH_ID, &a);
  CHECK_EQ(statistic(STATS_KEY_ROTATIONS), before + 1, "key-rotations after a refused one");
}

static void case_associations_become_stale(void) {
  struct answer a;
  const int fd = connect_peer();
  must_rx(fd, 0, NULL);
  PASS_ON;
  ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
  const uint64_t before = statistic(STATS_STALE_EVENTS);
  ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
  CHECK(statistic(STATS_STALE_EVENTS) > before, "stale-events stays %llu at the second rotation",
        (unsigned long long)before);
}

static const struct test_case cases[] = {
    {"dev-get tells id, ifindex and versions", case_dev_get, 0},
    {"the dump of dev-get has every device once", case_dev_get_dump, 0},
    {"dev-set enables and disables versions", case_dev_set, NEED_ROOT},
    {"key-rotate answers with the id alone", case_key_rotate, NEED_ROOT},
    {"get-stats tells each counter in four octets while it fits", case_get_stats, 0},
    {"the dump of get-stats has every device once", case_get_stats_dump, 0},
    {"rotations are counted", case_rotations_are_counted, NEED_ROOT},
    {"associations become stale at the second rotation", case_associations_become_stale, NEED_ROOT},
};
const struct group device_cases = GROUP(cases);
