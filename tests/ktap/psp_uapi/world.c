// SPDX-License-Identifier: Apache-2.0
//
// A world, made by ip's means over rtnetlink: a namespace, a veth pair, addresses, an nsid.
//
// Numbers of namespaces are not used twice: a namespace goes slowly, and keeps its own until it is
// gone.
#include "world.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>

#include "psp_uapi.h"

#define FIRST_NSID 4711
struct world world = {.home = -1, .away = -1};

static void begin_route(struct message* m, uint16_t type, uint16_t flags, const void* head,
                        size_t size) {
  memset(m->octets, 0, NLMSG_HDRLEN + NLMSG_ALIGN(size));
  memcpy(m->octets + NLMSG_HDRLEN, head, size);
  m->size = NLMSG_HDRLEN + NLMSG_ALIGN(size);
  *header_of(m) = (struct nlmsghdr){.nlmsg_type = type, .nlmsg_flags = flags};
}

static void ask_route(struct message* m, const char* what) {
  struct netlink nl = open_netlink_of(NETLINK_ROUTE);
  struct answer a;
  ask(&nl, m, &a);
  close(nl.fd);
  if (a.error != 0) FAIL("%s: %s %s", what, strerror(a.error), a.text);
}

void go(int netns) {
  if (setns(netns, CLONE_NEWNET) != 0) FAIL("setns: %s", strerror(errno));
}

static void make_pair(void) {
  const struct ifinfomsg head = {.ifi_family = AF_UNSPEC};
  struct message m;
  begin_route(&m, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &head, sizeof head);
  put_text(&m, IFLA_IFNAME, "ktap-here");
  const size_t info = nest(&m, IFLA_LINKINFO);
  put_text(&m, IFLA_INFO_KIND, "veth");
  const size_t data = nest(&m, IFLA_INFO_DATA);
  const size_t peer = put(&m, VETH_INFO_PEER, &head, sizeof head);
  put_text(&m, IFLA_IFNAME, "ktap-there");
  put_u32(&m, IFLA_NET_NS_FD, (uint32_t)world.away);
  end_nest(&m, peer);
  end_nest(&m, data);
  end_nest(&m, info);
  ask_route(&m, "new veth");
}

void change_link(uint32_t ifindex, bool up, const char* name) {
  struct message m;
  const struct ifinfomsg head = {
      .ifi_index = (int)ifindex, .ifi_flags = up ? IFF_UP : 0, .ifi_change = IFF_UP};
  begin_route(&m, RTM_NEWLINK, 0, &head, sizeof head);
  if (name != NULL) put_text(&m, IFLA_IFNAME, name);
  ask_route(&m, "change link");
}

static void bring_up(uint32_t ifindex, const char* address) {
  struct message m;
  const struct ifaddrmsg head = {.ifa_family = AF_INET, .ifa_prefixlen = 30, .ifa_index = ifindex};
  struct in_addr number;
  inet_pton(AF_INET, address, &number);
  change_link(ifindex, true, NULL);
  begin_route(&m, RTM_NEWADDR, NLM_F_CREATE, &head, sizeof head);
  put(&m, IFA_LOCAL, &number, sizeof number);
  put(&m, IFA_ADDRESS, &number, sizeof number);
  ask_route(&m, "new address");
}

void remove_pair(void) {
  struct message m;
  const struct ifinfomsg head = {.ifi_index = (int)if_nametoindex("ktap-here")};
  if (head.ifi_index == 0) return;
  begin_route(&m, RTM_DELLINK, 0, &head, sizeof head);
  ask_route(&m, "remove veth");
}

void make_world(void) {
  const struct rtgenmsg head = {.rtgen_family = AF_UNSPEC};
  struct message m;
  struct answer a;
  static int32_t next = FIRST_NSID;
  world.made = true;
  world.home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  if (unshare(CLONE_NEWNET) != 0) FAIL("unshare: %s", strerror(errno));
  world.away = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  go(world.home);
  PASS_ON;
  // Earlier runs may have left numbers behind: a namespace that still has some business keeps its.
  struct netlink route = open_netlink_of(NETLINK_ROUTE);
  for (int tries = 0; tries < 1000; tries++) {
    world.nsid = next++;
    begin_route(&m, RTM_NEWNSID, 0, &head, sizeof head);
    put_u32(&m, NETNSA_NSID, (uint32_t)world.nsid);
    put_u32(&m, NETNSA_FD, (uint32_t)world.away);
    ask(&route, &m, &a);
    if (a.error != EEXIST) break;
  }
  close(route.fd);
  if (a.error != 0) FAIL("new nsid: %s %s", strerror(a.error), a.text);
  make_pair();
  PASS_ON;
  world.here = if_nametoindex("ktap-here");
  bring_up(world.here, "192.0.2.1");
  go(world.away);
  world.there = if_nametoindex("ktap-there");
  bring_up(world.there, "192.0.2.2");
  go(world.home);
}

void end_world(void) {
  struct answer a;
  if (!world.made) return;
  world.made = false;
  if (setns(world.home, CLONE_NEWNET) != 0) exit(2);
  remove_pair();
  close(world.home);
  close(world.away);
  for (int tries = 0; tries < PATIENCE_MS / 10; tries++) {
    ask_id(&psp.nl, DEV_GET, psp.id, &a);
    if (in_answer(&a, DEV_ASSOC_LIST) == NULL) return;
    usleep(10000);
  }
  FAIL("the device still has an associated netdev");
}

struct netlink open_in(int netns, uint32_t group) {
  go(netns);
  struct netlink nl = group != 0 ? join(group) : open_netlink();
  return nl;
}

void ask_dev_assoc(struct netlink* nl, uint8_t cmd, uint32_t ifindex, bool with_nsid,
                   struct answer* a) {
  struct message m;
  begin(&m, psp.family, cmd, 0);
  put_u32(&m, DEV_ID, psp.id);
  put_u32(&m, DEV_IFINDEX, ifindex);
  if (with_nsid) m.bad = (uint32_t)put_u32(&m, DEV_NSID, (uint32_t)world.nsid);
  ask(nl, &m, a);
  if (a->bad != 0 && a->bad == m.bad) a->missing = DEV_NSID;  // what the cases ask for
}

void associate_world(void) {
  struct answer a;
  make_world();
  PASS_ON;
  ask_dev_assoc(&psp.nl, DEV_ASSOC, world.there, true, &a);
  CHECK(a.error == 0, "dev-assoc: %s %s", strerror(a.error), a.text);
  CHECK_EQ(a.messages, 1, "replies");
  CHECK_EQ(a.cmd, DEV_ASSOC, "command");
  CHECK_EQ(a.size, 0, "octets of the reply");
}
