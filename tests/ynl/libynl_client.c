// SPDX-License-Identifier: Apache-2.0
/*
 * Speaks the `psp` family by libynl, the kernel's own C library, and by the code that the kernel's
 * generator makes of our spec/psp.yaml: psp-user.h and <linux/psp.h> are its output, made by
 * tests/ynl/run, which also builds and runs this. Output: KTAP version 1.
 *
 * usage: libynl_client ADDRESS PORT
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <ynl.h>

#include "psp-user.h"

enum { kPatienceMs = 5000, kNoSuchId = 64999, kKeySize = 16 };

static struct ynl_sock* ys;
static struct sockaddr_in peer;
static char why[600];

/* Notes why a case fails; false, so that a case can return it. */
static bool no(const char* format, ...) __attribute__((format(printf, 1, 2)));
static bool no(const char* format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(why, sizeof(why), format, args);
  va_end(args);
  return false;
}

/* Number of the PSP device of eth0, 0 if there is none. */
static __u32 the_device(void) {
  struct psp_dev_get_list* list = psp_dev_get_dump(ys);
  __u32 id = 0;
  if (!list) return 0;
  ynl_dump_foreach(list, device) {
    if (device->ifindex == if_nametoindex("eth0") && device->psp_versions_cap == 0xf)
      id = device->id;
  }
  psp_dev_get_list_free(list);
  return id;
}

static int connected(void) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd >= 0 && connect(fd, (struct sockaddr*)&peer, sizeof(peer))) {
    close(fd);
    return -1;
  }
  return fd;
}

static struct psp_rx_assoc_rsp* rx_assoc(int fd) {
  struct psp_rx_assoc_req* request = psp_rx_assoc_req_alloc();
  psp_rx_assoc_req_set_version(request, PSP_VERSION_HDR0_AES_GCM_128);
  psp_rx_assoc_req_set_sock_fd(request, fd);
  struct psp_rx_assoc_rsp* reply = psp_rx_assoc(ys, request);
  psp_rx_assoc_req_free(request);
  return reply;
}

static bool tx_assoc(int fd, const void* key, size_t size, __u32 spi) {
  struct psp_tx_assoc_req* request = psp_tx_assoc_req_alloc();
  psp_tx_assoc_req_set_version(request, PSP_VERSION_HDR0_AES_GCM_128);
  psp_tx_assoc_req_set_tx_key_key(request, key, size);
  psp_tx_assoc_req_set_tx_key_spi(request, spi);
  psp_tx_assoc_req_set_sock_fd(request, fd);
  struct psp_tx_assoc_rsp* reply = psp_tx_assoc(ys, request);
  psp_tx_assoc_req_free(request);
  if (!reply) return false;
  psp_tx_assoc_rsp_free(reply);
  return true;
}

static bool rotate(__u32 id) {
  struct psp_key_rotate_req* request = psp_key_rotate_req_alloc();
  psp_key_rotate_req_set_id(request, id);
  struct psp_key_rotate_rsp* reply = psp_key_rotate(ys, request);
  psp_key_rotate_req_free(request);
  bool same = reply && reply->id == id;
  if (reply) psp_key_rotate_rsp_free(reply);
  return same;
}

static bool devices_are_dumped(void) {
  return the_device() ? true : no("none of eth0 that can all");
}

static bool an_unknown_device_is_enodev(void) {
  struct psp_dev_get_req* request = psp_dev_get_req_alloc();
  psp_dev_get_req_set_id(request, kNoSuchId);
  struct psp_dev_get_rsp* reply = psp_dev_get(ys, request);
  psp_dev_get_req_free(request);
  if (reply) {
    psp_dev_get_rsp_free(reply);
    return no("it was accepted");
  }
  return (int)ys->err.code == ENODEV ? true : no("%s", ys->err.msg);
}

static bool both_associations_of_a_connected_socket(void) {
  int fd = connected();
  struct psp_rx_assoc_rsp* rx = rx_assoc(fd);
  if (!rx) return no("rx-assoc: %s", ys->err.msg);
  bool good = rx->dev_id == the_device() && rx->_present.rx_key && rx->rx_key.spi != 0;
  if (!good) no("device %u, SPI %u", rx->dev_id, rx->rx_key.spi);
  if (good && !tx_assoc(fd, rx->rx_key.key, kKeySize, rx->rx_key.spi))
    good = no("tx-assoc: %s", ys->err.msg);
  psp_rx_assoc_rsp_free(rx);
  close(fd);
  return good;
}

/* The library itself finds the name of the attribute by the offset in the answer. */
static bool a_wrong_key_is_named_where_it_lies(void) {
  static const unsigned char key[kKeySize - 1];
  int fd = connected();
  struct psp_rx_assoc_rsp* rx = rx_assoc(fd);
  if (!rx) return no("rx-assoc: %s", ys->err.msg);
  psp_rx_assoc_rsp_free(rx);
  bool accepted = tx_assoc(fd, key, sizeof(key), 0x123);
  close(fd);
  if (accepted) return no("it was accepted");
  bool named = strstr(ys->err.msg, "incorrect key length") && strstr(ys->err.msg, ".tx-key.key");
  return named ? true : no("%s", ys->err.msg);
}

static bool a_missing_attribute_is_named(void) {
  struct psp_key_rotate_req* request = psp_key_rotate_req_alloc();
  struct psp_key_rotate_rsp* reply = psp_key_rotate(ys, request);
  psp_key_rotate_req_free(request);
  if (reply) {
    psp_key_rotate_rsp_free(reply);
    return no("it was accepted");
  }
  return strstr(ys->err.msg, "id") && (int)ys->err.code == EINVAL ? true : no("%s", ys->err.msg);
}

static bool statistics_count_a_rotation(void) {
  __u32 id = the_device();
  unsigned long long counts[2];
  for (int i = 0; i < 2; ++i) {
    struct psp_get_stats_req* request = psp_get_stats_req_alloc();
    psp_get_stats_req_set_dev_id(request, id);
    struct psp_get_stats_rsp* reply = psp_get_stats(ys, request);
    psp_get_stats_req_free(request);
    if (!reply) return no("%s", ys->err.msg);
    counts[i] = reply->key_rotations;
    psp_get_stats_rsp_free(reply);
    if (i == 0 && !rotate(id)) return no("key-rotate: %s", ys->err.msg);
  }
  return counts[1] == counts[0] + 1 ? true : no("%llu, then %llu", counts[0], counts[1]);
}

static bool listeners_of_use_hear_of_a_rotation(void) {
  struct ynl_sock* listener = ynl_sock_create(&ynl_psp_family, NULL);
  __u32 id = the_device();
  if (!listener || ynl_subscribe(listener, "use")) return no("cannot subscribe");
  if (!rotate(id)) return no("key-rotate: %s", ys->err.msg);
  struct pollfd ready = {.fd = ynl_socket_get_fd(listener), .events = POLLIN};
  bool heard = false;
  if (poll(&ready, 1, kPatienceMs) == 1 && ynl_ntf_check(listener) >= 0 && ynl_has_ntf(listener)) {
    struct ynl_ntf_base_type* note = ynl_ntf_dequeue(listener);
    heard = note->cmd == PSP_CMD_KEY_ROTATE_NTF && ((struct psp_key_rotate_ntf*)note)->obj.id == id;
    ynl_ntf_free(note);
  }
  ynl_sock_destroy(listener);
  return heard ? true : no("nothing came");
}

static const struct {
  const char* name;
  bool (*holds)(void);
} cases[] = {
    {"devices are dumped", devices_are_dumped},
    {"an unknown device is ENODEV", an_unknown_device_is_enodev},
    {"both associations of a connected socket", both_associations_of_a_connected_socket},
    {"a wrong key is named where it lies", a_wrong_key_is_named_where_it_lies},
    {"a missing attribute is named", a_missing_attribute_is_named},
    {"statistics count a rotation", statistics_count_a_rotation},
    {"listeners of use hear of a rotation", listeners_of_use_hear_of_a_rotation},
};

int main(int argc, char** argv) {
  struct ynl_error error;
  size_t count = sizeof(cases) / sizeof(cases[0]);
  bool all = true;
  peer.sin_family = AF_INET;
  if (argc != 3 || inet_pton(AF_INET, argv[1], &peer.sin_addr) != 1) return 2;
  peer.sin_port = htons(atoi(argv[2]));
  ys = ynl_sock_create(&ynl_psp_family, &error);
  if (!ys) {
    fprintf(stderr, "libynl_client: %s\n", error.msg);
    return 2;
  }
  printf("KTAP version 1\n1..%zu\n", count);
  for (size_t i = 0; i < count; ++i) {
    bool good = cases[i].holds();
    if (!good) printf("# %s\n", why);
    printf("%sok %zu %s\n", good ? "" : "not ", i + 1, cases[i].name);
    all = all && good;
  }
  ynl_sock_destroy(ys);
  return all ? 0 : 1;
}
