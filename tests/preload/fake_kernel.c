/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kernel that has the `psp` family, with one device: preloaded behind libpsp-genl.so, or into a
 * program of softpsp's own, it takes the place of the system calls. Of rx-assoc it says EXFULL, so
 * that it is seen who was asked.
 */
#include <errno.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FAMILY = 0x19, MGMT = 0x21, USE = 0x22, DEVICE = 3, IFINDEX = 1, DEV_GET = 1, RX_ASSOC = 8 };

static int asked = -1; /* the descriptor whose answer is due */
static unsigned char due[1024];
static size_t due_size;

static int is_netlink(int fd) {
  int domain = 0;
  socklen_t size = sizeof domain;
  return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_NETLINK;
}

static int is_ours(int fd, const void* octets, size_t size) {
  struct nlmsghdr header;
  if (size < sizeof header + GENL_HDRLEN || !is_netlink(fd)) return 0;
  memcpy(&header, octets, sizeof header);
  return header.nlmsg_type == FAMILY ||
         (header.nlmsg_type == GENL_ID_CTRL && memmem(octets, size, "psp", 4) != NULL);
}

/* put appends an attribute to the message that begins at `message` in `due`. */
static void put(size_t message, unsigned short type, const void* value, size_t size) {
  const struct nlattr row = {(unsigned short)(NLA_HDRLEN + size), type};
  memcpy(due + due_size, &row, sizeof row);
  memcpy(due + due_size + NLA_HDRLEN, value, size);
  due_size += NLA_ALIGN(row.nla_len);
  ((struct nlmsghdr*)(due + message))->nlmsg_len = (unsigned)(due_size - message);
}

static size_t begin(const struct nlmsghdr* request, unsigned short type, const void* payload,
                    size_t size) {
  const size_t at = due_size;
  struct nlmsghdr header = {.nlmsg_len = (unsigned)(NLMSG_HDRLEN + size),
                            .nlmsg_type = type,
                            .nlmsg_flags = type == NLMSG_DONE ? NLM_F_MULTI : 0,
                            .nlmsg_seq = request->nlmsg_seq,
                            .nlmsg_pid = request->nlmsg_pid};
  memcpy(due + at, &header, sizeof header);
  memcpy(due + at + NLMSG_HDRLEN, payload, size);
  due_size += NLMSG_ALIGN(header.nlmsg_len);
  return at;
}

static size_t group(unsigned char* room, unsigned short index, const char* name, unsigned id) {
  struct {
    struct nlattr nest, id_row;
    unsigned id;
    struct nlattr name_row;
    char name[8];
  } row = {.nest = {sizeof row, index},
           .id_row = {NLA_HDRLEN + sizeof id, CTRL_ATTR_MCAST_GRP_ID},
           .id = id,
           .name_row = {(unsigned short)(NLA_HDRLEN + strlen(name) + 1), CTRL_ATTR_MCAST_GRP_NAME}};
  row.nest.nla_len = (unsigned short)(sizeof row - sizeof row.name + NLA_ALIGN(strlen(name) + 1));
  strcpy(row.name, name);
  memcpy(room, &row, row.nest.nla_len);
  return row.nest.nla_len;
}

static void answer_lookup(const struct nlmsghdr* request) {
  const struct genlmsghdr generic = {.cmd = CTRL_CMD_NEWFAMILY, .version = 2};
  const unsigned short id = FAMILY;
  const unsigned version = 1;
  unsigned char groups[64];
  const size_t at = begin(request, GENL_ID_CTRL, &generic, sizeof generic);
  put(at, CTRL_ATTR_FAMILY_NAME, "psp", 4);
  put(at, CTRL_ATTR_FAMILY_ID, &id, sizeof id);
  put(at, CTRL_ATTR_VERSION, &version, sizeof version);
  size_t size = group(groups, 1, "mgmt", MGMT);
  size += group(groups + size, 2, "use", USE);
  put(at, CTRL_ATTR_MCAST_GROUPS, groups, size);
}

static void answer_request(const struct nlmsghdr* request, unsigned char cmd) {
  const int dump = (request->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
  if (cmd == RX_ASSOC) {
    const struct nlmsgerr error = {.error = -EXFULL, .msg = *request};
    (void)begin(request, NLMSG_ERROR, &error, sizeof error);
    return;
  }
  const struct genlmsghdr generic = {.cmd = cmd, .version = 1};
  const unsigned id = DEVICE, ifindex = IFINDEX;
  const size_t at = begin(request, FAMILY, &generic, sizeof generic);
  put(at, 1, &id, sizeof id);
  if (cmd == DEV_GET) put(at, 2, &ifindex, sizeof ifindex);
  const int success = 0;
  if (dump) (void)begin(request, NLMSG_DONE, &success, sizeof success);
}

static ssize_t take(int fd, const void* octets, size_t size) {
  struct nlmsghdr request;
  memcpy(&request, octets, sizeof request);
  struct sockaddr_nl own = {0};
  socklen_t length = sizeof own;
  (void)getsockname(fd, (struct sockaddr*)&own, &length);
  request.nlmsg_pid = own.nl_pid; /* what answers carry */
  asked = fd;
  due_size = 0;
  if (request.nlmsg_type == GENL_ID_CTRL)
    answer_lookup(&request);
  else
    answer_request(&request, ((const unsigned char*)octets)[NLMSG_HDRLEN]);
  return (ssize_t)size;
}

ssize_t send(int fd, const void* octets, size_t size, int flags) {
  if (is_ours(fd, octets, size)) return take(fd, octets, size);
  return syscall(SYS_sendto, fd, octets, size, flags, NULL, 0);
}

extern ssize_t own_sendto(int fd, const void* octets, size_t size, int flags, const void* name,
                          socklen_t length) __asm__("sendto");
ssize_t own_sendto(int fd, const void* octets, size_t size, int flags, const void* name,
                   socklen_t length) {
  if (is_ours(fd, octets, size)) return take(fd, octets, size);
  return syscall(SYS_sendto, fd, octets, size, flags, name, length);
}

ssize_t sendmsg(int fd, const struct msghdr* message, int flags) {
  if (message->msg_iovlen == 1 &&
      is_ours(fd, message->msg_iov[0].iov_base, message->msg_iov[0].iov_len))
    return take(fd, message->msg_iov[0].iov_base, message->msg_iov[0].iov_len);
  return syscall(SYS_sendmsg, fd, message, flags);
}

/* What pspd has sent to this socket came first. */
static ssize_t receive(int fd, void* room, size_t size, int flags, void* name, socklen_t* length) {
  if (fd != asked) return syscall(SYS_recvfrom, fd, room, size, flags, name, length);
  const ssize_t got = syscall(SYS_recvfrom, fd, room, size, flags | MSG_DONTWAIT, name, length);
  if (got >= 0 || errno != EAGAIN) return got;
  const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  if (name != NULL && *length >= sizeof kernel) memcpy(name, &kernel, *length = sizeof kernel);
  asked = -1;
  memcpy(room, due, size < due_size ? size : due_size);
  return (ssize_t)due_size;
}

ssize_t recv(int fd, void* room, size_t size, int flags) {
  return receive(fd, room, size, flags, NULL, NULL);
}

extern ssize_t own_recvfrom(int fd, void* room, size_t size, int flags, void* name,
                            socklen_t* length) __asm__("recvfrom");
ssize_t own_recvfrom(int fd, void* room, size_t size, int flags, void* name, socklen_t* length) {
  return receive(fd, room, size, flags, name, length);
}

int setsockopt(int fd, int level, int option, const void* value, socklen_t size) {
  unsigned group = 0;
  if (level == SOL_NETLINK && option == NETLINK_ADD_MEMBERSHIP && size == sizeof group)
    memcpy(&group, value, sizeof group);
  if (group == MGMT || group == USE) return 0;
  return (int)syscall(SYS_setsockopt, fd, level, option, value, size);
}
