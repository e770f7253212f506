/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Netlink headers and attributes, read as the kernel's own parser reads them: what it would ignore
 * is ignored here, and of attributes that occur twice the last one counts. Everything is copied out
 * by memcpy, since a program's buffer may lie at any address, and no length is believed before it
 * is compared with what is left.
 */
#include "message.h"

#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <string.h>

#include <psp/netlink/uapi.h>

struct attributes {
  const unsigned char* at;
  size_t left;
};

/* next_attribute steps to the next attribute as nla_parse does; NULL at the end. */
static const unsigned char* next_attribute(struct attributes* rest, struct nlattr* header) {
  const unsigned char* at = rest->at;
  if (rest->left < NLA_HDRLEN) return NULL;
  memcpy(header, at, sizeof *header);
  if (header->nla_len < NLA_HDRLEN || header->nla_len > rest->left) return NULL;
  const size_t step = NLA_ALIGN(header->nla_len);
  const size_t taken = step < rest->left ? step : rest->left;
  rest->at += taken;
  rest->left -= taken;
  header->nla_type &= NLA_TYPE_MASK;
  return at + NLA_HDRLEN;
}

static struct attributes attributes_of(const void* message, size_t size) {
  return (struct attributes){(const unsigned char*)message + NLMSG_HDRLEN + GENL_HDRLEN,
                             size - NLMSG_HDRLEN - GENL_HDRLEN};
}

static bool is_psp(const unsigned char* name, size_t size) {
  static const char psp[] = PSPNL_FAMILY_NAME;
  return size >= sizeof psp - 1 && memcmp(name, psp, sizeof psp - 1) == 0 &&
         (size == sizeof psp - 1 || name[sizeof psp - 1] == '\0');
}

/* names_psp: a request to nlctrl asks for `psp`. As in the kernel the name has the last word. */
static bool names_psp(const void* message, size_t size) {
  struct attributes rest = attributes_of(message, size);
  struct nlattr header;
  bool by_id = false, by_name = false, named = false;
  for (const unsigned char* value; (value = next_attribute(&rest, &header)) != NULL;) {
    const size_t length = header.nla_len - NLA_HDRLEN;
    uint16_t id;
    if (header.nla_type == CTRL_ATTR_FAMILY_NAME) {
      named = true;
      by_name = is_psp(value, length);
    } else if (header.nla_type == CTRL_ATTR_FAMILY_ID && length >= sizeof id) {
      memcpy(&id, value, sizeof id);
      by_id = id == SOFTPSP_ID_PSP;
    }
  }
  return named ? by_name : by_id;
}

static enum psp_route route_of(const void* message, const struct nlmsghdr* header,
                               uint16_t kernel_id) {
  if (header->nlmsg_type == SOFTPSP_ID_PSP) return PSP_ROUTE_DAEMON;
  if (kernel_id != 0) return header->nlmsg_type == kernel_id ? PSP_ROUTE_SHARED : PSP_ROUTE_KERNEL;
  if (header->nlmsg_type != GENL_ID_CTRL || header->nlmsg_len < NLMSG_HDRLEN + GENL_HDRLEN)
    return PSP_ROUTE_KERNEL;
  const unsigned char cmd = ((const unsigned char*)message)[NLMSG_HDRLEN];
  const bool dump = (header->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
  if (cmd == CTRL_CMD_GETFAMILY && dump) return PSP_ROUTE_BOTH;
  if (cmd != CTRL_CMD_GETFAMILY && cmd != CTRL_CMD_GETPOLICY) return PSP_ROUTE_KERNEL;
  return names_psp(message, header->nlmsg_len) ? PSP_ROUTE_LOOKUP : PSP_ROUTE_KERNEL;
}

size_t psp_next_message(const void* octets, size_t size, uint16_t kernel_id,
                        enum psp_route* route) {
  struct nlmsghdr header;
  if (size < sizeof header) return 0;
  memcpy(&header, octets, sizeof header);
  if (header.nlmsg_len < NLMSG_HDRLEN || header.nlmsg_len > size) return 0;
  *route = route_of(octets, &header, kernel_id);
  const size_t step = NLMSG_ALIGN((size_t)header.nlmsg_len);
  return step < size ? step : size;
}

bool psp_has_ours(const void* octets, size_t size, uint16_t kernel_id) {
  const unsigned char* at = octets;
  for (size_t step; size != 0; at += step, size -= step) {
    enum psp_route route;
    step = psp_next_message(at, size, kernel_id, &route);
    if (step == 0) return false;
    if (route != PSP_ROUTE_KERNEL) return true;
  }
  return false;
}

struct psp_subject psp_subject_of(const void* octets, size_t size) {
  struct psp_subject subject = {.sock_fd = -1};
  struct nlmsghdr header;
  if (size < NLMSG_HDRLEN + GENL_HDRLEN) return subject;
  memcpy(&header, octets, sizeof header);
  if (header.nlmsg_type == GENL_ID_CTRL || header.nlmsg_len > size ||
      header.nlmsg_len < NLMSG_HDRLEN + GENL_HDRLEN)
    return subject;
  const unsigned char cmd = ((const unsigned char*)octets)[NLMSG_HDRLEN];
  const bool assoc = cmd == PSPNL_CMD_RX_ASSOC || cmd == PSPNL_CMD_TX_ASSOC;
  subject.list = (header.nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
  struct attributes rest = attributes_of(octets, header.nlmsg_len);
  struct nlattr attribute;
  int32_t fd = -1;
  for (const unsigned char* value; (value = next_attribute(&rest, &attribute)) != NULL;) {
    if (attribute.nla_len != NLA_HDRLEN + sizeof fd) continue;
    if (attribute.nla_type == PSPNL_DEV_ID) /* as .dev-id is in all operations */
      memcpy(&subject.dev_id, value, sizeof subject.dev_id);
    if (assoc && attribute.nla_type == PSPNL_ASSOC_SOCK_FD) memcpy(&fd, value, sizeof fd);
  }
  if (fd >= 0) subject.sock_fd = fd;
  return subject;
}

/* read_groups takes the ids of the two groups out of the list of them. */
static void read_groups(struct attributes list, struct psp_family* family) {
  struct nlattr row, part;
  for (const unsigned char* group; (group = next_attribute(&list, &row)) != NULL;) {
    struct attributes parts = {group, row.nla_len - NLA_HDRLEN};
    uint32_t id = 0;
    bool mgmt = false, use = false;
    for (const unsigned char* value; (value = next_attribute(&parts, &part)) != NULL;) {
      const size_t length = part.nla_len - NLA_HDRLEN;
      if (part.nla_type == CTRL_ATTR_MCAST_GRP_ID && length == sizeof id)
        memcpy(&id, value, sizeof id);
      if (part.nla_type != CTRL_ATTR_MCAST_GRP_NAME) continue;
      mgmt = length == sizeof PSPNL_MCGRP_MGMT && memcmp(value, PSPNL_MCGRP_MGMT, length) == 0;
      use = length == sizeof PSPNL_MCGRP_USE && memcmp(value, PSPNL_MCGRP_USE, length) == 0;
    }
    if (mgmt) family->mgmt = id;
    if (use) family->use = id;
  }
}

struct psp_family psp_read_family(const void* octets, size_t size) {
  struct psp_family family = {0};
  struct nlmsghdr header;
  if (size < NLMSG_HDRLEN + GENL_HDRLEN) return family;
  memcpy(&header, octets, sizeof header);
  if (header.nlmsg_type != GENL_ID_CTRL || header.nlmsg_len > size ||
      header.nlmsg_len < NLMSG_HDRLEN + GENL_HDRLEN)
    return family;
  struct attributes rest = attributes_of(octets, header.nlmsg_len);
  struct nlattr attribute;
  for (const unsigned char* value; (value = next_attribute(&rest, &attribute)) != NULL;) {
    const size_t length = attribute.nla_len - NLA_HDRLEN;
    if (attribute.nla_type == CTRL_ATTR_FAMILY_ID && length == sizeof family.id)
      memcpy(&family.id, value, sizeof family.id);
    if (attribute.nla_type == CTRL_ATTR_MCAST_GROUPS)
      read_groups((struct attributes){value, length}, &family);
  }
  return family;
}

bool psp_is_overrun(const void* octets, size_t size) {
  static const struct nlmsghdr sign = {
      .nlmsg_len = NLMSG_HDRLEN, .nlmsg_type = NLMSG_OVERRUN, .nlmsg_seq = SOFTPSP_OVERRUN_SEQ};
  return size == sizeof sign && memcmp(octets, &sign, sizeof sign) == 0;
}

uint32_t psp_notification_group(const void* octets, size_t size, const struct psp_family* kernel) {
  struct nlmsghdr header;
  if (size < NLMSG_HDRLEN + GENL_HDRLEN) return 0;
  memcpy(&header, octets, sizeof header);
  const bool beside = kernel->id != 0 && header.nlmsg_type == kernel->id;
  if ((!beside && header.nlmsg_type != SOFTPSP_ID_PSP) || header.nlmsg_seq != 0 ||
      header.nlmsg_pid != 0)
    return 0;
  switch (((const unsigned char*)octets)[NLMSG_HDRLEN]) {
    case PSPNL_CMD_DEV_ADD_NTF:
    case PSPNL_CMD_DEV_DEL_NTF:
    case PSPNL_CMD_DEV_CHANGE_NTF:
      return beside ? kernel->mgmt : SOFTPSP_ID_GROUP_MGMT;
    case PSPNL_CMD_KEY_ROTATE_NTF:
      return beside ? kernel->use : SOFTPSP_ID_GROUP_USE;
    default:
      return 0;
  }
}
