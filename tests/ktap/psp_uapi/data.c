// SPDX-License-Identifier: Apache-2.0
//
// Cases: data between two secured ends.
//
// And what is not received: in clear, under a device key that is no more, of a version that is
// disabled.
#include "psp_uapi.h"

static void flow(uint32_t version) {
  const uint64_t tx = statistic(STATS_TX_PACKETS), rx = statistic(STATS_RX_PACKETS);
  const int fd = secure(version);
  PASS_ON;
  deliver(fd, 200000);
  PASS_ON;
  fetch(fd, 200000);
  PASS_ON;
  CHECK(statistic(STATS_TX_PACKETS) > tx, "tx-packets has not grown");
  CHECK(statistic(STATS_RX_PACKETS) > rx, "rx-packets has not grown");
}
static void flow_if(uint32_t version) {
  if (psp.cap & 1u << version) flow(version);
}
static void case_data_version_0(void) { flow_if(0); }
static void case_data_version_1(void) { flow_if(1); }
static void case_data_version_2(void) { flow_if(2); }
static void case_data_version_3(void) { flow_if(3); }

static void case_one_rotation_is_survived(void) {
  struct answer a;
  const int fd = secure(0);
  PASS_ON;
  ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
  CHECK_EQ(a.error, 0, "error of key-rotate");
  fetch(fd, 50000);
  PASS_ON;
  deliver(fd, 50000);
}

static void case_two_rotations_are_not(void) {
  char text[512];
  struct answer a;
  const int fd = secure(0);
  PASS_ON;
  fetch(fd, 1000);
  PASS_ON;
  for (unsigned i = 0; i < 2; i++) ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
  if (!command(text, sizeof text, "SEND %u 1000\n", local_port(fd))) return;
  CHECK(!wait_readable(fd, 3 * SILENCE_MS), "data came under a key that is no more");
}

static void case_clear_data_is_dropped_after_tx_assoc(void) {
  char text[512];
  const int fd = connect_peer();
  must_rx(fd, 0, NULL);
  if (!tap.bad) must_tx(fd, 0, &example);
  if (tap.bad || !command(text, sizeof text, "SEND %u 100\n", local_port(fd))) return;
  CHECK(!wait_readable(fd, 3 * SILENCE_MS), "clear data was accepted");
}

static void case_disabled_version_is_not_received(void) {
  char text[512];
  struct answer a;
  const uint32_t before = ena_now();
  const int fd = secure(0);
  PASS_ON;
  set_ena(&psp.nl, before & ~1u, &a);
  const bool sent = command(text, sizeof text, "SEND %u 100\n", local_port(fd));
  const bool came = sent && wait_readable(fd, 3 * SILENCE_MS);
  set_ena(&psp.nl, before, &a);
  CHECK(sent && !came, "data came though its version is disabled");
}

static const struct test_case cases[] = {
    {"data flows both ways under version 0", case_data_version_0, NEED_PEER_ASSOC},
    {"data flows both ways under version 1", case_data_version_1, NEED_PEER_ASSOC},
    {"data flows both ways under version 2", case_data_version_2, NEED_PEER_ASSOC},
    {"data flows both ways under version 3", case_data_version_3, NEED_PEER_ASSOC},
    {"an association survives one rotation", case_one_rotation_is_survived,
     NEED_ROOT | NEED_PEER_ASSOC},
    {"an association dies at the second rotation", case_two_rotations_are_not,
     NEED_ROOT | NEED_PEER_ASSOC},
    {"clear data is dropped after tx-assoc", case_clear_data_is_dropped_after_tx_assoc,
     NEED_PEER_ASSOC},
    {"a version that is disabled is not received", case_disabled_version_is_not_received,
     NEED_ROOT | NEED_PEER_ASSOC},
};
const struct group data_cases = GROUP(cases);
