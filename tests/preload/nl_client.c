/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The same as mnl_client.c with libnl: lists the devices, hears of a key rotation, asks for a
 * device too many.
 *
 * libnl chooses ports of its own, and asks for an acknowledgement of each request by itself. A
 * family that it resolves by name must have the groups by name too. Built only where libnl is
 * there; what it prints is compared by preload_test.cc.
 */
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <stdio.h>
#include <stdlib.h>

static void must(int good, const char* what) {
  if (good) return;
  printf("%s\n", what);
  exit(1);
}

static int print_id(struct nl_msg* message, void* data) {
  (void)data;
  struct nlattr* rows[16];
  must(genlmsg_parse(nlmsg_hdr(message), 0, rows, 15, NULL) == 0 && rows[1] != NULL, "parse");
  printf(" %u", nla_get_u32(rows[1]));
  return NL_OK;
}

static struct nl_sock* open_socket(nl_recvmsg_msg_cb_t call) {
  struct nl_sock* socket = nl_socket_alloc();
  must(socket != NULL && genl_connect(socket) == 0, "connect");
  nl_socket_modify_cb(socket, NL_CB_VALID, NL_CB_CUSTOM, call, NULL);
  return socket;
}

/* ask sends a request about device `id` (0: a dump) and waits for its end; a libnl error. */
static int ask(struct nl_sock* socket, int family, uint8_t cmd, uint32_t id) {
  struct nl_msg* message = nlmsg_alloc();
  must(genlmsg_put(message, NL_AUTO_PORT, NL_AUTO_SEQ, family, 0, id == 0 ? NLM_F_DUMP : 0, cmd,
                   1) != NULL,
       "put");
  if (id != 0) nla_put_u32(message, 1, id);
  return nl_send_sync(socket, message);
}

static int ignore(struct nl_msg* message, void* data) {
  (void)message;
  (void)data;
  return NL_OK;
}

int main(void) {
  struct nl_sock* socket = open_socket(print_id);
  const int family = genl_ctrl_resolve(socket, "psp");
  const int use = genl_ctrl_resolve_grp(socket, "psp", "use");
  must(family > 0 && use > 0, "resolve");
  printf("devices:");
  must(ask(socket, family, 1, 0) == 0, "dump");

  struct nl_sock* events = open_socket(print_id);
  nl_socket_disable_seq_check(events);
  must(nl_socket_add_memberships(events, use, 0) == 0, "join");
  nl_socket_modify_cb(socket, NL_CB_VALID, NL_CB_CUSTOM, ignore, NULL);
  must(ask(socket, family, 6, 2) == 0, "rotate");
  printf("\nrotated:");
  must(nl_recvmsgs_default(events) == 0, "notification");

  struct nl_msg* message = nlmsg_alloc();
  genlmsg_put(message, NL_AUTO_PORT, NL_AUTO_SEQ, family, 0, 0, 1, 1);
  nla_put_u32(message, 1, 9);
  must(nl_send_auto(socket, message) > 0, "send");
  struct nlmsghdr* header = NULL;
  struct sockaddr_nl from;
  int error = 0;
  while (error == 0) { /* behind the ack of what was asked before */
    must(nl_recv(socket, &from, (unsigned char**)&header, NULL) > 0 && from.nl_pid == 0, "receive");
    must(header->nlmsg_type == NLMSG_ERROR, "refusal");
    error = ((struct nlmsgerr*)nlmsg_data(header))->error;
    free(header);
  }
  printf("\nno device: %d\n", error);
  nlmsg_free(message);
  nl_socket_free(socket);
  nl_socket_free(events);
  return 0;
}
