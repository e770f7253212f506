// SPDX-License-Identifier: Apache-2.0
//
// psp_uapi: the options, which cases are in the plan, and their run in order.
//
//   psp_uapi --serve [::]:7000                              on the peer, PSP there too
//   psp_uapi --dev eth0 --peer 10.77.0.2:7000 --peer-assoc  here, as root
#include <arpa/inet.h>
#include <getopt.h>
#include <signal.h>

#include "psp_uapi.h"
#include "world.h"

struct options opt;

// In this order they run, behind the table of refused requests.
static const struct group* const groups[] = {
    &control_family_cases, &request_cases, &device_cases,     &notification_cases,
    &association_cases,    &data_cases,    &permission_cases, &namespace_cases,
};
#define COUNT_GROUPS (sizeof groups / sizeof groups[0])

static bool has_ktls(void) {
  const int fd = loopback_socket();
  const bool has = setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", 3) == 0;
  close_kept();
  tap.bad = false;
  return has;
}

// lack tells what a case needs and this run has not; NULL: nothing.
static const char* lack(unsigned needs) {
  if (needs & NEED_ROOT && geteuid() != 0) return "needs root";
  if (needs & NEED_PEER_ASSOC && !opt.peer_assoc) return "needs --peer-assoc";
  if (needs & NEED_DEV2 && (opt.dev2 == NULL || psp.id2 == 0)) return "needs --dev2";
  if (needs & NEED_REREG && opt.rereg == NULL) return "needs --rereg";
  if (needs & NEED_PARTIAL_CAP && psp.cap & 8) return "the device can all versions";
  if (needs & NEED_KTLS && !has_ktls()) return "the kernel has no kernel TLS (CONFIG_TLS)";
  if (needs & NEED_NETNS && access("/proc/self/ns/net", R_OK) != 0) return "no network namespaces";
  if (needs & NEED_USERNS && access("/proc/self/ns/user", R_OK) != 0) return "no user namespaces";
  return NULL;
}

static bool chosen(const char* name, unsigned needs) {
  if (opt.only != NULL && strstr(name, opt.only) == NULL) return false;
  if (needs & (opt.net_next ? NOT_NET_NEXT : ONLY_NET_NEXT)) return false;
  if (needs & (opt.linux_6_18 ? NOT_6_18 : ONLY_6_18)) return false;
  return !(needs & opt.without);
}

static void count(const char* name, unsigned needs, unsigned* planned, unsigned* all) {
  *planned += chosen(name, needs);
  ++*all;
}

static void print_plan(void) {
  unsigned planned = 0, all = 0;
  for (unsigned i = 0; i < row_count; i++) count(rows[i].name, rows[i].needs, &planned, &all);
  for (unsigned g = 0; g < COUNT_GROUPS; g++)
    for (unsigned i = 0; i < groups[g]->count; i++)
      count(groups[g]->cases[i].name, groups[g]->cases[i].needs, &planned, &all);
  printf("KTAP version 1\n1..%u\n", planned);
  printf("# device %s: id %u, versions 0x%x; %u cases of %u are in this plan\n", opt.dev, psp.id,
         psp.cap, planned, all);
}

static void run_case(const struct test_case* one) {
  if (!chosen(one->name, one->needs)) return;
  const char* why = lack(one->needs);
  if (why == NULL) one->run();
  end_world();
  report(one->name, why);
  close_kept();
}

static int run_all(void) {
  print_plan();
  for (unsigned i = 0; i < row_count; i++) {
    if (!chosen(rows[i].name, rows[i].needs)) continue;
    const char* why = lack(rows[i].needs);
    if (why == NULL) run_row(&rows[i]);
    report(rows[i].name, why);
    close_kept();
  }
  for (unsigned g = 0; g < COUNT_GROUPS; g++)
    for (unsigned i = 0; i < groups[g]->count; i++) run_case(&groups[g]->cases[i]);
  printf("# %u of %u failed\n", tap.failed, tap.number);
  return tap.failed == 0 ? 0 : 1;
}

// parse_address takes ADDR:PORT or [ADDR]:PORT.
static bool parse_address(const char* text, struct sockaddr_storage* out, socklen_t* size) {
  char host[64];
  const char* colon = strrchr(text, ':');
  if (colon == NULL || (size_t)(colon - text) >= sizeof host) return false;
  const bool bracket = text[0] == '[';
  snprintf(host, sizeof host, "%.*s", (int)(colon - text) - (bracket ? 2 : 0), text + bracket);
  struct sockaddr_in* v4 = (struct sockaddr_in*)out;
  struct sockaddr_in6* v6 = (struct sockaddr_in6*)out;
  memset(out, 0, sizeof *out);
  if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons((uint16_t)atoi(colon + 1));
    *size = sizeof *v4;
    return true;
  }
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons((uint16_t)atoi(colon + 1));
  *size = sizeof *v6;
  return inet_pton(AF_INET6, host, &v6->sin6_addr) == 1;
}

static unsigned parse_without(char* list) {
  static const struct {
    const char* name;
    unsigned bit;
  } names[] = {{"ktls", NEED_KTLS},
               {"partial-cap", NEED_PARTIAL_CAP},
               {"dev2", NEED_DEV2},
               {"rereg", NEED_REREG},
               {"netns", NEED_NETNS},
               {"userns", NEED_USERNS},
               {"everywhere", NEED_EVERYWHERE},
               {"root", NEED_ROOT},
               {"peer-assoc", NEED_PEER_ASSOC}};
  unsigned bits = 0;
  for (char* word = strtok(list, ","); word != NULL; word = strtok(NULL, ",")) {
    unsigned before = bits;
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
      if (strcmp(word, names[i].name) == 0) bits |= names[i].bit;
    if (bits == before) fprintf(stderr, "psp_uapi: --without: what is '%s'?\n", word);
  }
  return bits;
}

static int usage(void) {
  fputs(
      "usage: psp_uapi --dev IFNAME --peer ADDR:PORT [OPTIONS]   run the cases, as root\n"
      "       psp_uapi --serve ADDR:PORT                         be the peer\n"
      "  --peer-assoc        the peer is a psp_uapi --serve on a host with PSP\n"
      "  --dev2 IFNAME       another netdev with a PSP device\n"
      "  --rereg COMMAND     makes the PSP device of --dev2 go and come back\n"
      "  --compat KERNEL     linux-6.18, linux-7.2 or linux-7.3 (the default), net-next\n"
      "  --without LIST      this host is known to lack these; cases that need them are left out\n"
      "                      of the plan: "
      "ktls,partial-cap,dev2,rereg,netns,everywhere,\n"
      "                      userns,root,peer-assoc\n"
      "  --only TEXT         cases whose names contain it\n"
      "  --list              names of all cases\n"
      "IPv6: write the address of --peer as [ADDR]:PORT.\n",
      stderr);
  return 2;
}

static int list_all(void) {
  for (unsigned i = 0; i < row_count; i++) puts(rows[i].name);
  for (unsigned g = 0; g < COUNT_GROUPS; g++)
    for (unsigned i = 0; i < groups[g]->count; i++) puts(groups[g]->cases[i].name);
  return 0;
}

int main(int argc, char** argv) {
  static const struct option options[] = {
      {"dev", 1, NULL, 'd'},    {"dev2", 1, NULL, 'D'}, {"peer", 1, NULL, 'p'},
      {"rereg", 1, NULL, 'r'},  {"only", 1, NULL, 'o'}, {"peer-assoc", 0, NULL, 'a'},
      {"serve", 1, NULL, 's'},  {"list", 0, NULL, 'l'}, {"without", 1, NULL, 'w'},
      {"compat", 1, NULL, 'c'}, {NULL, 0, NULL, 0}};
  int option;
  signal(SIGPIPE, SIG_IGN);
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) switch (option) {
      case 'd':
        opt.dev = optarg;
        break;
      case 'D':
        opt.dev2 = optarg;
        break;
      case 'r':
        opt.rereg = optarg;
        break;
      case 'o':
        opt.only = optarg;
        break;
      case 'a':
        opt.peer_assoc = true;
        break;
      case 'l':
        opt.list = true;
        break;
      case 'w':
        opt.without |= parse_without(optarg);
        break;
      case 'c':
        opt.linux_6_18 = strcmp(optarg, "linux-6.18") == 0;
        opt.net_next = strcmp(optarg, "net-next") == 0;
        if (!opt.linux_6_18 && !opt.net_next && strcmp(optarg, "linux-7.2") != 0 &&
            strcmp(optarg, "linux-7.3") != 0)
          return usage();
        break;
      case 's':
        opt.serve = optarg;  // fall through
      case 'p':
        if (!parse_address(optarg, &opt.peer, &opt.peer_size)) return usage();
        break;
      default:
        return usage();
    }
  if (opt.list) return list_all();
  if (opt.serve != NULL) return serve(&opt.peer, opt.peer_size);
  if (opt.dev == NULL || opt.peer_size == 0) return usage();
  const char* wrong = set_up();
  if (wrong == NULL) return run_all();
  printf("KTAP version 1\n1..0 # SKIP %s\n", wrong);
  return 4;
}
