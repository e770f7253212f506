// SPDX-License-Identifier: Apache-2.0
//
// A world is another network namespace with one end of a veth pair, of which this one has the
// other, and an nsid for it here. Cases go there by setns and come back; end_world does in any
// case.
#pragma once

#include "psp_uapi.h"

struct world {
  bool made;
  int32_t nsid;  // another each time: namespaces go slowly
  int home, away;
  uint32_t here, there;  // ifindexes of the pair
};
extern struct world world;

void make_world(void);
// end_world also waits until the device has nothing associated: the next case would hear of it.
void end_world(void);
// associate_world makes one whose netdev there is associated with the device.
void associate_world(void);
void ask_dev_assoc(struct netlink* nl, uint8_t cmd, uint32_t ifindex, bool with_nsid,
                   struct answer* a);
void remove_pair(void);

void go(int netns);
// open_in goes there first and stays: sockets belong to where they were opened.
struct netlink open_in(int netns, uint32_t group);
// change_link sets a netdev up or down, and its name unless that is NULL.
void change_link(uint32_t ifindex, bool up, const char* name);
