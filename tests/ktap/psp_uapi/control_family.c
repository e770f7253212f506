// SPDX-License-Identifier: Apache-2.0
//
// Cases: what the kernel's control family tells of the family psp.
//
// Its id by name, operations with their flags, groups, and the policy dump: which attributes each
// operation takes, of which type and range.
#include "psp_uapi.h"

static void case_family_by_name(void) {
  struct answer a;
  get_family(&psp.nl, "psp", &a);
  CHECK_EQ(a.error, 0, "error");
  CHECK_EQ(a.messages, 1, "messages");
  CHECK_EQ(a.cmd, CTRL_CMD_NEWFAMILY, "command");
  const struct nlattr* name = in_answer(&a, CTRL_ATTR_FAMILY_NAME);
  CHECK(name != NULL && strcmp(payload(name), "psp") == 0, "no name psp");
  CHECK_EQ(u32_of(in_answer(&a, CTRL_ATTR_VERSION)), 1, "version");
  CHECK(in_answer(&a, CTRL_ATTR_HDRSIZE) != NULL, "no header size");
  CHECK_EQ(u32_of(in_answer(&a, CTRL_ATTR_HDRSIZE)), 0, "header size");
  CHECK(in_answer(&a, CTRL_ATTR_MAXATTR) != NULL, "no maxattr");
  CHECK_EQ(u32_of(in_answer(&a, CTRL_ATTR_MAXATTR)), 0, "maxattr (policies are per operation)");
}

static void case_family_by_id(void) {
  struct message m;
  struct answer a;
  begin(&m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0);
  put(&m, CTRL_ATTR_FAMILY_ID, &psp.family, sizeof psp.family);
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.error, 0, "error");
  const struct nlattr* name = in_answer(&a, CTRL_ATTR_FAMILY_NAME);
  CHECK(name != NULL && strcmp(payload(name), "psp") == 0, "no name psp");
  CHECK_EQ(group_id(&a, "mgmt"), psp.mgmt, "id of mgmt by id and by name");
}

static void case_family_of_another_name(void) {
  struct answer a;
  get_family(&psp.nl, "pspx", &a);
  CHECK_EQ(a.error, ENOENT, "error of an unknown name");
  get_family(&psp.nl, "nlctrl", &a);
  CHECK_EQ(a.error, 0, "error of nlctrl");
}

static void case_family_operations(void) {
  static const struct {
    uint32_t cmd, flags;
  } want[] = {
      {DEV_GET, 0xe},  {DEV_SET, 0xb},   {KEY_ROTATE, 0xb}, {RX_ASSOC, 0xa},
      {TX_ASSOC, 0xa}, {GET_STATS, 0xe}, {DEV_ASSOC, 0xb},  {DEV_DISASSOC, 0xb},
  };
  struct answer a;
  get_family(&psp.nl, "psp", &a);
  const struct nlattr* ops = in_answer(&a, CTRL_ATTR_OPS);
  CHECK(ops != NULL, "no operations");
  CHECK_EQ(count_attributes(payload(ops), payload_size(ops)), sizeof want / sizeof want[0],
           "operations");
  for (uint16_t i = 0; i < sizeof want / sizeof want[0]; i++) {
    const struct nlattr* op = inside(ops, (uint16_t)(i + 1));
    uint32_t flags = want[i].flags;
    if (opt.linux_6_18 && (want[i].cmd == DEV_SET || want[i].cmd == KEY_ROTATE))
      flags &= ~(uint32_t)GENL_ADMIN_PERM;
    CHECK_EQ(u32_of(inside(op, CTRL_ATTR_OP_ID)), want[i].cmd, "operation");
    CHECK(u32_of(inside(op, CTRL_ATTR_OP_FLAGS)) == flags,
          "flags of operation %u are 0x%x, not 0x%x", want[i].cmd,
          u32_of(inside(op, CTRL_ATTR_OP_FLAGS)), flags);
  }
}

static void case_family_groups(void) {
  struct answer a;
  get_family(&psp.nl, "psp", &a);
  const struct nlattr* groups = in_answer(&a, CTRL_ATTR_MCAST_GROUPS);
  CHECK(groups != NULL, "no groups");
  CHECK_EQ(count_attributes(payload(groups), payload_size(groups)), 2, "groups");
  const struct nlattr* first = inside(inside(groups, 1), CTRL_ATTR_MCAST_GRP_NAME);
  CHECK(first != NULL && strcmp(payload(first), "mgmt") == 0, "the first group is not mgmt");
  CHECK(psp.mgmt != 0 && psp.use != 0 && psp.mgmt != psp.use, "group ids %u and %u", psp.mgmt,
        psp.use);
}

static void count_families(const struct nlmsghdr* h, void* context) {
  unsigned* counts = context;
  const uint8_t* data = (const uint8_t*)NLMSG_DATA(h) + GENL_HDRLEN;
  const struct nlattr* name =
      attribute(data, h->nlmsg_len - NLMSG_HDRLEN - GENL_HDRLEN, CTRL_ATTR_FAMILY_NAME);
  if (name == NULL) return;
  counts[0] += strcmp(payload(name), "psp") == 0;
  counts[1] += strcmp(payload(name), "nlctrl") == 0;
  counts[2]++;
}

static void case_family_dump(void) {
  struct message m;
  struct answer a;
  unsigned counts[3] = {0};
  begin(&m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, NLM_F_REQUEST | NLM_F_DUMP);
  CHECK(send_message(&psp.nl, &m), "send: %s", strerror(errno));
  receive(&psp.nl, psp.nl.seq, &a, count_families, counts);
  CHECK_EQ(a.error, 0, "error");
  CHECK_EQ(counts[0], 1, "families called psp");
  CHECK_EQ(counts[1], 1, "families called nlctrl");
  CHECK(counts[2] > 2, "the kernel's other families are missing: %u", counts[2]);
}

// The policy dump, as a table of what was told.
struct policies {
  uint32_t do_index[16], has_do[16], dump_index[16], has_dump[16];
  struct {
    uint32_t type, nested, nested_max;
    uint64_t min, max, mask;
  } at[16][16];
};

static void take_policies(const struct nlmsghdr* h, void* context) {
  struct policies* p = context;
  const uint8_t* data = (const uint8_t*)NLMSG_DATA(h) + GENL_HDRLEN;
  const size_t size = h->nlmsg_len - NLMSG_HDRLEN - GENL_HDRLEN;
  const struct nlattr* ops = attribute(data, size, CTRL_ATTR_OP_POLICY);
  const struct nlattr* policy = attribute(data, size, CTRL_ATTR_POLICY);
  for (uint16_t cmd = 0; cmd < 16; cmd++) {
    const struct nlattr* op = inside(ops, cmd);
    if (inside(op, CTRL_ATTR_POLICY_DO) != NULL) {
      p->has_do[cmd] = 1;
      p->do_index[cmd] = u32_of(inside(op, CTRL_ATTR_POLICY_DO));
    }
    if (inside(op, CTRL_ATTR_POLICY_DUMP) != NULL) {
      p->has_dump[cmd] = 1;
      p->dump_index[cmd] = u32_of(inside(op, CTRL_ATTR_POLICY_DUMP));
    }
  }
  for (uint16_t index = 0; index < 16; index++)
    for (uint16_t type = 0; type < 16; type++) {
      const struct nlattr* a = inside(inside(policy, index), type);
      if (a == NULL) continue;
      p->at[index][type].type = u32_of(inside(a, NL_POLICY_TYPE_ATTR_TYPE));
      p->at[index][type].min = uint_of(inside(a, NL_POLICY_TYPE_ATTR_MIN_VALUE_U));
      p->at[index][type].max = uint_of(inside(a, NL_POLICY_TYPE_ATTR_MAX_VALUE_U));
      p->at[index][type].mask = uint_of(inside(a, POLICY_ATTR_MASK));
      p->at[index][type].nested = u32_of(inside(a, NL_POLICY_TYPE_ATTR_POLICY_IDX));
      p->at[index][type].nested_max = u32_of(inside(a, NL_POLICY_TYPE_ATTR_POLICY_MAXTYPE));
    }
}

static void ask_policies(struct policies* p, struct answer* a, int op) {
  struct message m;
  memset(p, 0, sizeof *p);
  begin(&m, GENL_ID_CTRL, CTRL_CMD_GETPOLICY, NLM_F_REQUEST | NLM_F_ACK | NLM_F_DUMP);
  put_text(&m, CTRL_ATTR_FAMILY_NAME, "psp");
  if (op != 0) put_u32(&m, CTRL_ATTR_OP, (uint32_t)op);
  CHECK(send_message(&psp.nl, &m), "send: %s", strerror(errno));
  receive(&psp.nl, psp.nl.seq, a, take_policies, p);
}

static const uint16_t policy_types[16][8] = {
    [DEV_GET] = {DEV_ID},
    [DEV_SET] = {DEV_ID, DEV_ENA},
    [KEY_ROTATE] = {DEV_ID},
    [RX_ASSOC] = {ASSOC_DEV_ID, ASSOC_VERSION, ASSOC_SOCK_FD},
    [TX_ASSOC] = {ASSOC_DEV_ID, ASSOC_VERSION, ASSOC_TX_KEY, ASSOC_SOCK_FD},
    [GET_STATS] = {STATS_DEV_ID},
    [DEV_ASSOC] = {DEV_ID, DEV_IFINDEX, DEV_NSID},
    [DEV_DISASSOC] = {DEV_ID, DEV_IFINDEX, DEV_NSID},
};

static void case_policy_dump(void) {
  struct policies p;
  struct answer a;
  ask_policies(&p, &a, 0);
  PASS_ON;
  CHECK_EQ(a.error, 0, "error");
  for (unsigned cmd = 1; cmd < 16; cmd++) {
    CHECK(!p.has_do[cmd] == (policy_types[cmd][0] == 0), "operation %u has %s policy", cmd,
          p.has_do[cmd] ? "a" : "no");
    CHECK(p.has_dump[cmd] == (cmd == DEV_GET || cmd == GET_STATS),
          "operation %u has %s policy for dumps", cmd, p.has_dump[cmd] ? "a" : "no");
    for (unsigned type = 0; p.has_dump[cmd] && type < 16; type++)
      CHECK(p.at[p.dump_index[cmd] & 15][type].type == 0, "a dump of %u takes attribute %u", cmd,
            type);
    if (!p.has_do[cmd]) continue;
    unsigned seen = 0, want = 0;
    for (unsigned type = 1; type < 16; type++) seen += p.at[p.do_index[cmd] & 15][type].type != 0;
    for (; policy_types[cmd][want] != 0; want++)
      CHECK(p.at[p.do_index[cmd] & 15][policy_types[cmd][want]].type != 0,
            "operation %u has no policy for attribute %u", cmd, policy_types[cmd][want]);
    CHECK(seen == want, "operation %u has %u policies, not %u", cmd, seen, want);
  }
}

static void case_policy_limits(void) {
  struct policies p;
  struct answer a;
  ask_policies(&p, &a, 0);
  PASS_ON;
  const uint32_t get = p.do_index[DEV_GET] & 15, set = p.do_index[DEV_SET] & 15;
  const uint32_t tx = p.do_index[TX_ASSOC] & 15, in_key = p.at[tx][ASSOC_TX_KEY].nested & 15;
  CHECK_EQ(p.at[get][DEV_ID].type, NL_ATTR_TYPE_U32, "type of id");
  CHECK_EQ(p.at[get][DEV_ID].min, 1, "least id");
  CHECK_EQ(p.at[get][DEV_ID].max, UINT32_MAX, "greatest id");
  CHECK_EQ(p.at[set][DEV_ENA].mask, ALL_VERSIONS, "mask of versions-ena");
  CHECK_EQ(p.at[tx][ASSOC_VERSION].min, 0, "least version");
  CHECK_EQ(p.at[tx][ASSOC_VERSION].max, 3, "greatest version");
  CHECK_EQ(p.at[tx][ASSOC_SOCK_FD].max, UINT32_MAX, "greatest sock-fd");
  CHECK_EQ(p.at[tx][ASSOC_TX_KEY].type, NL_ATTR_TYPE_NESTED, "type of tx-key");
  CHECK_EQ(p.at[tx][ASSOC_TX_KEY].nested_max, KEYS_SPI, "greatest attribute in tx-key");
  CHECK_EQ(p.at[in_key][KEYS_KEY].type, NL_ATTR_TYPE_BINARY, "type of key");
  CHECK_EQ(p.at[in_key][KEYS_SPI].type, NL_ATTR_TYPE_U32, "type of spi");
  CHECK_EQ(p.at[p.do_index[DEV_ASSOC] & 15][DEV_NSID].type, NL_ATTR_TYPE_S32, "type of nsid");
}

static void case_policy_of_one_operation(void) {
  struct policies p;
  struct answer a;
  ask_policies(&p, &a, RX_ASSOC);
  PASS_ON;
  CHECK_EQ(a.error, 0, "error");
  CHECK(p.has_do[RX_ASSOC], "no policy of rx-assoc");
  for (unsigned cmd = 1; cmd < 16; cmd++)
    CHECK(cmd == RX_ASSOC || !p.has_do[cmd], "operation %u was not asked for", cmd);
  ask_policies(&p, &a, 77);
  PASS_ON;
  CHECK_EQ(a.error, ENOENT, "error of an operation that there is not");
  CHECK(a.bad != 0, "the operation is not named as bad attribute");
}

static const struct test_case cases[] = {
    {"the family is found by name", case_family_by_name, 0},
    {"the family is found by id", case_family_by_id, 0},
    {"a family of another name is not psp", case_family_of_another_name, 0},
    {"the family lists its operations and their flags", case_family_operations, 0},
    {"the family has the groups mgmt and use", case_family_groups, 0},
    {"the dump of families has psp once and the kernel's too", case_family_dump, 0},
    {"the policy dump names each operation's attributes", case_policy_dump, 0},
    {"the policy dump tells types, ranges and masks", case_policy_limits, 0},
    {"the policy dump of one operation tells of it alone", case_policy_of_one_operation, 0},
};
const struct group control_family_cases = GROUP(cases);
