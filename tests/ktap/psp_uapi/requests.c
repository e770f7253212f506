// SPDX-License-Identifier: Apache-2.0
//
// Cases: requests and answers as messages, whatever they are about.
//
// Headers and their reserved fields, flags, acknowledgements, the options of a netlink socket,
// several messages in a datagram.
#include "psp_uapi.h"

static void case_unknown_command(void) {
  struct message m;
  struct answer a;
  static const uint8_t commands[] = {0,  DEV_ADD_NTF, DEV_DEL_NTF, DEV_CHANGE_NTF, KEY_ROTATE_NTF,
                                     13, 200};
  for (unsigned i = 0; i < sizeof commands; i++) {
    begin(&m, psp.family, commands[i], 0);
    ask(&psp.nl, &m, &a);
    CHECK(a.error == EOPNOTSUPP, "command %u: %s", commands[i], strerror(a.error));
  }
}

static void case_dump_of_what_has_none(void) {
  static const uint8_t commands[] = {DEV_SET, KEY_ROTATE, RX_ASSOC, TX_ASSOC, DEV_ASSOC};
  struct answer a;
  for (unsigned i = 0; i < sizeof commands; i++) {
    dump(&psp.nl, commands[i], &a, NULL, NULL);
    CHECK(a.error == EOPNOTSUPP, "dump of command %u: %s", commands[i], strerror(a.error));
  }
}

static void case_reserved_field(void) {
  struct message m;
  struct answer a;
  begin(&m, psp.family, DEV_GET, 0);
  ((struct genlmsghdr*)(m.octets + NLMSG_HDRLEN))->reserved = 1;
  put_u32(&m, DEV_ID, psp.id);
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.error, EINVAL, "error");
  CHECK(strcmp(a.text, "genlmsghdr.reserved field is not 0") == 0, "text is %s", a.text);
  CHECK_EQ(a.bad, 0, "bad attribute");
}

static void case_reserved_flags(void) {
  struct message m;
  struct answer a;
  begin(&m, psp.family, DEV_GET, NLM_F_APPEND);
  put_u32(&m, DEV_ID, psp.id);
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.error, EINVAL, "error");
  CHECK(strcmp(a.text, "ambiguous or reserved bits set in nlmsg_flags") == 0, "text is %s", a.text);
  begin(&m, psp.family, DEV_GET, NLM_F_ECHO);
  put_u32(&m, DEV_ID, psp.id);
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.error, 0, "error with NLM_F_ECHO");
}

static void case_any_header_version(void) {
  struct message m;
  struct answer a;
  begin(&m, psp.family, DEV_GET, 0);
  ((struct genlmsghdr*)(m.octets + NLMSG_HDRLEN))->version = 200;
  put_u32(&m, DEV_ID, psp.id);
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.error, 0, "error");
  CHECK_EQ(a.version, 1, "version of the reply");
}

static void case_short_message(void) {
  struct message m;
  struct answer a;
  begin(&m, psp.family, DEV_GET, 0);
  m.size = NLMSG_HDRLEN + 2;
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.error, EINVAL, "error");
  CHECK(a.text[0] == '\0', "text is %s", a.text);
}

static void case_answer_carries_port_and_sequence(void) {
  struct answer a;
  struct netlink nl = open_netlink();
  nl.seq = 0xfffffffe;
  ask_id(&nl, DEV_GET, psp.id, &a);  // receive() looks for the sequence number
  CHECK_EQ(a.error, 0, "error");
  CHECK(a.port == nl.port, "port is %u, not %u", a.port, nl.port);
  CHECK_EQ(a.version, 1, "version");
  CHECK_EQ(a.flags, 0, "flags");
}

static void case_answer_comes_from_the_kernel(void) {
  struct netlink nl = open_netlink();
  struct message m;
  uint8_t buffer[8192];
  struct sockaddr_nl from = {0};
  socklen_t size = sizeof from;
  begin(&m, psp.family, DEV_GET, NLM_F_REQUEST);
  put_u32(&m, DEV_ID, psp.id);
  CHECK(send_message(&nl, &m), "send: %s", strerror(errno));
  CHECK(recvfrom(nl.fd, buffer, sizeof buffer, 0, (struct sockaddr*)&from, &size) > 0, "recv: %s",
        strerror(errno));
  CHECK_EQ(size, sizeof from, "size of the sender's address");
  CHECK_EQ(from.nl_family, AF_NETLINK, "family of the sender");
  CHECK_EQ(from.nl_pid, 0, "port of the sender");
}

static void case_no_acknowledgement_unless_asked(void) {
  struct netlink nl = open_netlink();
  struct message m;
  struct answer a;
  begin(&m, psp.family, DEV_GET, NLM_F_REQUEST);
  put_u32(&m, DEV_ID, psp.id);
  CHECK(send_message(&nl, &m) && next_notification(&nl, &a, PATIENCE_MS), "no reply");
  CHECK_EQ(a.cmd, DEV_GET, "command of the reply");
  CHECK(!wait_readable(nl.fd, SILENCE_MS), "something follows the reply");
  begin(&m, psp.family, DEV_GET, NLM_F_REQUEST);
  CHECK(send_message(&nl, &m), "send: %s", strerror(errno));
  receive(&nl, nl.seq, &a, NULL, NULL);
  CHECK_EQ(a.error, EINVAL, "an error is told without NLM_F_ACK too: error");
}

static void case_no_request_flag_no_answer(void) {
  struct netlink nl = open_netlink();
  struct message m;
  begin(&m, psp.family, DEV_GET, 0);
  put_u32(&m, DEV_ID, psp.id);
  CHECK(send_message(&nl, &m), "send: %s", strerror(errno));
  CHECK(!wait_readable(nl.fd, SILENCE_MS), "there is an answer");
}

static void case_cap_ack(void) {
  struct netlink nl = open_netlink();
  struct answer a;
  const int on = 1;
  ask_id(&nl, DEV_GET, NO_SUCH_ID, &a);
  CHECK(!(a.ack_flags & NLM_F_CAPPED), "an error is capped without NETLINK_CAP_ACK");
  ask_id(&nl, DEV_GET, psp.id, &a);
  CHECK(a.ack_flags & NLM_F_CAPPED, "an acknowledgement is not capped");
  CHECK(setsockopt(nl.fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on) == 0, "NETLINK_CAP_ACK: %s",
        strerror(errno));
  ask_id(&nl, DEV_GET, 0, &a);
  CHECK_EQ(a.error, ERANGE, "error");
  CHECK(a.ack_flags & NLM_F_CAPPED, "an error is not capped with NETLINK_CAP_ACK");
  CHECK(strcmp(a.text, TEXT_RANGE) == 0, "the text behind a capped error is \"%s\"", a.text);
}

static void case_no_ext_ack(void) {
  struct netlink nl = open_netlink();
  struct answer a;
  const int off = 0;
  setsockopt(nl.fd, SOL_NETLINK, NETLINK_EXT_ACK, &off, sizeof off);
  ask_id(&nl, DEV_GET, 0, &a);
  CHECK_EQ(a.error, ERANGE, "error");
  CHECK(!(a.ack_flags & NLM_F_ACK_TLVS), "the error has attributes");
}

static void case_policy_comes_with_the_error(void) {
  struct message m;
  struct answer a;
  ask_id(&psp.nl, DEV_GET, 0, &a);
  CHECK(a.has_policy, "no policy with an integer out of range");
  CHECK_EQ(a.policy_type, NL_ATTR_TYPE_U32, "type");
  CHECK_EQ(a.policy_min, 1, "least id");
  CHECK_EQ(a.policy_max, UINT32_MAX, "greatest id");
  begin(&m, psp.family, RX_ASSOC, 0);
  put_u32(&m, ASSOC_VERSION, 4);
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.policy_max, 3, "greatest version");
  ask_id(&psp.nl, DEV_GET, NO_SUCH_ID, &a);
  CHECK(!a.has_policy, "a policy with ENODEV");
}

static void case_several_messages_in_a_datagram(void) {
  struct netlink nl = open_netlink();
  struct message m[3];
  struct answer a;
  uint8_t all[512];
  size_t size = 0;
  for (unsigned i = 0; i < 3; i++) {
    begin(&m[i], psp.family, DEV_GET, NLM_F_REQUEST | NLM_F_ACK);
    put_u32(&m[i], DEV_ID, i == 1 ? NO_SUCH_ID : psp.id);
    header_of(&m[i])->nlmsg_len = (uint32_t)m[i].size;
    header_of(&m[i])->nlmsg_seq = 50 + i;
    memcpy(all + size, m[i].octets, m[i].size);
    size += m[i].size;
  }
  CHECK(send(nl.fd, all, size, 0) == (ssize_t)size, "send: %s", strerror(errno));
  for (unsigned i = 0; i < 3; i++) {
    receive(&nl, 50 + i, &a, NULL, NULL);
    CHECK(a.error == (i == 1 ? ENODEV : 0), "message %u: error %d", i, a.error);
  }
}

static void case_strict_check_changes_nothing(void) {
  struct netlink nl = open_netlink();
  struct message m;
  struct answer a;
  const int on = 1;
  CHECK(setsockopt(nl.fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof on) == 0, "%s",
        strerror(errno));
  begin(&m, psp.family, DEV_GET, NLM_F_REQUEST | NLM_F_DUMP);
  put_u32(&m, 99, 1);
  CHECK(send_message(&nl, &m), "send: %s", strerror(errno));
  receive(&nl, nl.seq, &a, NULL, NULL);
  CHECK_EQ(a.error, opt.linux_6_18 ? 0 : EINVAL, "error");
  CHECK(!opt.linux_6_18 || a.messages > 0, "no devices");
}

static void case_dump_refuses_attributes(void) {
  static const uint8_t commands[] = {DEV_GET, GET_STATS};
  struct message m;
  struct answer a;
  for (unsigned i = 0; i < sizeof commands; i++) {
    begin(&m, psp.family, commands[i], NLM_F_REQUEST | NLM_F_DUMP);
    const size_t bad = put_u32(&m, DEV_ID, psp.id);
    CHECK(send_message(&psp.nl, &m), "send: %s", strerror(errno));
    receive(&psp.nl, psp.nl.seq, &a, NULL, NULL);
    CHECK_EQ(a.error, EINVAL, "error");
    CHECK(strcmp(a.text, "Unknown attribute type") == 0, "text is \"%s\"", a.text);
    CHECK_EQ(a.bad, bad, "offset of the bad attribute");
  }
}

static const struct test_case cases[] = {
    {"unknown commands and notifications are not supported as requests", case_unknown_command, 0},
    {"operations without dump refuse one", case_dump_of_what_has_none, NEED_ROOT},
    {"a genlmsghdr.reserved that is not 0 is refused", case_reserved_field, 0},
    {"reserved bits in nlmsg_flags are refused", case_reserved_flags, 0},
    {"any version in the genl header is accepted", case_any_header_version, 0},
    {"a message shorter than its headers is refused", case_short_message, 0},
    {"a reply carries the port and the sequence number of the request",
     case_answer_carries_port_and_sequence, 0},
    {"a reply comes from port 0", case_answer_comes_from_the_kernel, 0},
    {"without NLM_F_ACK there is no acknowledgement but of errors",
     case_no_acknowledgement_unless_asked, 0},
    {"without NLM_F_REQUEST there is no answer", case_no_request_flag_no_answer, 0},
    {"NETLINK_CAP_ACK caps what an error quotes", case_cap_ack, 0},
    {"without NETLINK_EXT_ACK an error has no attributes", case_no_ext_ack, 0},
    {"an error of a policy brings the policy", case_policy_comes_with_the_error, 0},
    {"several messages in a datagram are answered one by one", case_several_messages_in_a_datagram,
     0},
    {"NETLINK_GET_STRICT_CHK changes nothing for dumps", case_strict_check_changes_nothing, 0},
    {"a dump takes no attribute", case_dump_refuses_attributes, NOT_6_18},
};
const struct group request_cases = GROUP(cases);
