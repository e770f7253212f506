// SPDX-License-Identifier: Apache-2.0
//
// Netlink messages as octets: a header, attributes behind each other, nests; and the way back.
//
// Lengths of what was received are checked: a message of whoever answers is not trusted.
// It is written by hand, so that a test may send what a library would not: wrong lengths, twice the
// same.
#include "psp_uapi.h"

struct nlmsghdr* header_of(struct message* m) {
  return (struct nlmsghdr*)m->octets;
}

void begin(struct message* m, uint16_t family, uint8_t cmd, uint16_t flags) {
  memset(m->octets, 0, NLMSG_HDRLEN + GENL_HDRLEN);
  m->size = NLMSG_HDRLEN + GENL_HDRLEN;
  m->bad = m->missing_in = 0;
  *header_of(m) = (struct nlmsghdr){.nlmsg_type = family, .nlmsg_flags = flags};
  *(struct genlmsghdr*)(m->octets + NLMSG_HDRLEN) = (struct genlmsghdr){.cmd = cmd, .version = 1};
}

size_t put(struct message* m, uint16_t type, const void* data, size_t size) {
  const size_t at = m->size;
  const struct nlattr head = {.nla_len = (uint16_t)(NLA_HDRLEN + size), .nla_type = type};
  memset(m->octets + at, 0, NLA_HDRLEN + NLA_ALIGN(size));
  memcpy(m->octets + at, &head, sizeof head);
  if (size != 0) memcpy(m->octets + at + NLA_HDRLEN, data, size);
  m->size += NLA_HDRLEN + NLA_ALIGN(size);
  return at;
}

size_t put_u32(struct message* m, uint16_t type, uint32_t value) {
  return put(m, type, &value, sizeof value);
}

size_t put_text(struct message* m, uint16_t type, const char* text) {
  return put(m, type, text, strlen(text) + 1);
}

size_t nest(struct message* m, uint16_t type) { return put(m, type, NULL, 0); }

void end_nest(struct message* m, size_t at) {
  ((struct nlattr*)(m->octets + at))->nla_len = (uint16_t)(m->size - at);
}

const struct nlattr* attribute_nth(const void* data, size_t size, uint16_t type, unsigned skip) {
  const uint8_t* at = data;
  while (size >= NLA_HDRLEN) {
    const struct nlattr* a = (const struct nlattr*)at;
    if (a->nla_len < NLA_HDRLEN || a->nla_len > size) return NULL;
    if ((a->nla_type & NLA_TYPE_MASK) == type && skip-- == 0) return a;
    const size_t padded = NLA_ALIGN((size_t)a->nla_len), step = padded < size ? padded : size;
    at += step;
    size -= step;
  }
  return NULL;
}
const struct nlattr* attribute(const void* data, size_t size, uint16_t type) {
  return attribute_nth(data, size, type, 0);
}
unsigned count_attributes(const void* data, size_t size) {
  unsigned count = 0;
  for (size_t at = 0; at + NLA_HDRLEN <= size; count++) {
    const struct nlattr* a = (const struct nlattr*)((const uint8_t*)data + at);
    if (a->nla_len < NLA_HDRLEN) break;
    at += NLA_ALIGN(a->nla_len);
  }
  return count;
}
const void* payload(const struct nlattr* a) { return (const uint8_t*)a + NLA_HDRLEN; }
size_t payload_size(const struct nlattr* a) { return a->nla_len - (size_t)NLA_HDRLEN; }
uint32_t u32_of(const struct nlattr* a) {
  uint32_t value = 0;
  if (a != NULL && payload_size(a) >= sizeof value) memcpy(&value, payload(a), sizeof value);
  return value;
}
uint64_t uint_of(const struct nlattr* a) {
  uint64_t value = 0;
  if (a != NULL && payload_size(a) == 8) memcpy(&value, payload(a), 8);
  return a != NULL && payload_size(a) == 4 ? u32_of(a) : value;
}
const struct nlattr* inside(const struct nlattr* a, uint16_t type) {
  return a == NULL ? NULL : attribute(payload(a), payload_size(a), type);
}
