/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A libmnl program for the kernel's `psp` family: lists the devices, hears of a key rotation, asks
 * for a device that there is not.
 *
 * It is written as libmnl's examples are, and runs under libpsp-genl.so unchanged: libmnl compares
 * ports and sequence numbers by itself, and refuses a message that is not as the kernel's. What it
 * prints is compared by preload_test.cc.
 */
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/genetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char room[32768];

struct found {
  uint16_t id;
  uint32_t use;
};

static void must(int good, const char* what) {
  if (good) return;
  printf("%s: %s\n", what, strerror(errno));
  exit(1);
}

static struct nlmsghdr* request(uint16_t type, uint16_t flags, uint32_t seq, uint8_t cmd) {
  struct nlmsghdr* header = mnl_nlmsg_put_header(room);
  header->nlmsg_type = type;
  header->nlmsg_flags = NLM_F_REQUEST | flags;
  header->nlmsg_seq = seq;
  struct genlmsghdr* generic = mnl_nlmsg_put_extra_header(header, sizeof *generic);
  generic->cmd = cmd;
  generic->version = 1;
  return header;
}

static int run(struct mnl_socket* socket, const struct nlmsghdr* header, mnl_cb_t call,
               void* data) {
  const uint32_t seq = header->nlmsg_seq;
  must(mnl_socket_sendto(socket, header, header->nlmsg_len) > 0, "send");
  int more = 1;
  while (more > 0) {
    const ssize_t got = mnl_socket_recvfrom(socket, room, sizeof room);
    must(got > 0, "receive");
    more = mnl_cb_run(room, (size_t)got, seq, mnl_socket_get_portid(socket), call, data);
  }
  return more;
}

static int on_family(const struct nlmsghdr* header, void* data) {
  struct found* found = data;
  const struct nlattr *row, *group, *part;
  mnl_attr_for_each(row, header, GENL_HDRLEN) {
    if (mnl_attr_get_type(row) == CTRL_ATTR_FAMILY_ID) found->id = mnl_attr_get_u16(row);
    if (mnl_attr_get_type(row) != CTRL_ATTR_MCAST_GROUPS) continue;
    mnl_attr_for_each_nested(group, row) {
      uint32_t id = 0;
      const char* name = "";
      mnl_attr_for_each_nested(part, group) {
        if (mnl_attr_get_type(part) == CTRL_ATTR_MCAST_GRP_ID) id = mnl_attr_get_u32(part);
        if (mnl_attr_get_type(part) == CTRL_ATTR_MCAST_GRP_NAME) name = mnl_attr_get_str(part);
      }
      if (strcmp(name, "use") == 0) found->use = id;
    }
  }
  return MNL_CB_OK;
}

static int print_id(const struct nlmsghdr* header, void* data) {
  (void)data;
  const struct nlattr* row;
  mnl_attr_for_each(row, header, GENL_HDRLEN) {
    if (mnl_attr_get_type(row) == 1) printf(" %u", mnl_attr_get_u32(row));
  }
  return MNL_CB_OK;
}

static int ignore(const struct nlmsghdr* header, void* data) {
  (void)header;
  (void)data;
  return MNL_CB_OK;
}

int main(void) {
  struct mnl_socket* socket = mnl_socket_open(NETLINK_GENERIC);
  must(socket != NULL && mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) == 0, "open");
  struct found found = {0};
  struct nlmsghdr* header = request(GENL_ID_CTRL, NLM_F_ACK, 1, CTRL_CMD_GETFAMILY);
  mnl_attr_put_strz(header, CTRL_ATTR_FAMILY_NAME, "psp");
  must(run(socket, header, on_family, &found) == 0 && found.id != 0, "resolve");
  printf("devices:");
  must(run(socket, request(found.id, NLM_F_DUMP, 2, 1), print_id, NULL) == 0, "dump");

  struct mnl_socket* events = mnl_socket_open(NETLINK_GENERIC);
  must(events != NULL && mnl_socket_bind(events, 0, MNL_SOCKET_AUTOPID) == 0, "open");
  must(mnl_socket_setsockopt(events, NETLINK_ADD_MEMBERSHIP, &found.use, sizeof found.use) == 0,
       "join");
  header = request(found.id, NLM_F_ACK, 3, 6);
  mnl_attr_put_u32(header, 1, 2);
  must(run(socket, header, ignore, NULL) == 0, "rotate");
  const ssize_t got = mnl_socket_recvfrom(events, room, sizeof room);
  printf("\nrotated:");
  must(got > 0 && mnl_cb_run(room, (size_t)got, 0, 0, print_id, NULL) > 0, "notification");

  header = request(found.id, NLM_F_ACK, 4, 1);
  mnl_attr_put_u32(header, 1, 9);
  must(run(socket, header, ignore, NULL) < 0, "refusal");
  printf("\nno device: %s\n", strerror(errno));
  mnl_socket_close(socket);
  mnl_socket_close(events);
  return 0;
}
