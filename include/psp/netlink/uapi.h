/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers of the two generic netlink families that pspd answers to: `psp`, exactly Linux's (first
 * in 6.18; here the newest superset, since distributions do not ship <linux/psp.h>), and `softpsp`,
 * our own. Prefixes differ from the kernel header's, so both can be included. The build checks each
 * number against spec/psp.yaml and spec/softpsp.yaml.
 *
 * `uint` below is a netlink uint: 4 octets if the value fits, else 8. All integers are in host
 * order, the SPI too.
 */
#ifndef PSP_NETLINK_UAPI_H
#define PSP_NETLINK_UAPI_H

#define PSPNL_FAMILY_NAME "psp"
#define PSPNL_FAMILY_VERSION 1
#define PSPNL_MCGRP_MGMT "mgmt" /* device notifications */
#define PSPNL_MCGRP_USE "use"   /* key rotation */

enum pspnl_cmd {
  PSPNL_CMD_DEV_GET = 1, /* do: dev.id; dump; reply: dev */
  PSPNL_CMD_DEV_ADD_NTF = 2,
  PSPNL_CMD_DEV_DEL_NTF = 3,
  PSPNL_CMD_DEV_SET = 4, /* dev.id, dev.psp-versions-ena; CAP_NET_ADMIN */
  PSPNL_CMD_DEV_CHANGE_NTF = 5,
  PSPNL_CMD_KEY_ROTATE = 6, /* dev.id; reply: dev.id; CAP_NET_ADMIN */
  PSPNL_CMD_KEY_ROTATE_NTF = 7,
  PSPNL_CMD_RX_ASSOC = 8,   /* [dev-id], version, sock-fd; reply: dev-id, rx-key */
  PSPNL_CMD_TX_ASSOC = 9,   /* [dev-id], version, tx-key, sock-fd */
  PSPNL_CMD_GET_STATS = 10, /* do: stats.dev-id; dump; reply: stats */
  PSPNL_CMD_DEV_ASSOC = 11,
  PSPNL_CMD_DEV_DISASSOC = 12,
};

enum pspnl_dev {
  PSPNL_DEV_ID = 1,               /* u32, at least 1 */
  PSPNL_DEV_IFINDEX = 2,          /* u32 */
  PSPNL_DEV_PSP_VERSIONS_CAP = 3, /* u32, bit n: version n */
  PSPNL_DEV_PSP_VERSIONS_ENA = 4, /* u32, mask 0xf */
  PSPNL_DEV_ASSOC_LIST = 5,       /* nest of pspnl_assoc_dev_info, repeated */
  PSPNL_DEV_NSID = 6,             /* s32 */
  PSPNL_DEV_BY_ASSOCIATION = 7,   /* flag */
};

enum pspnl_assoc_dev_info {
  PSPNL_ASSOC_DEV_INFO_IFINDEX = 1, /* u32 */
  PSPNL_ASSOC_DEV_INFO_NSID = 2,    /* s32 */
};

enum pspnl_assoc {
  PSPNL_ASSOC_DEV_ID = 1,  /* u32, at least 1 */
  PSPNL_ASSOC_VERSION = 2, /* u32, at most 3 */
  PSPNL_ASSOC_RX_KEY = 3,  /* nest of pspnl_keys */
  PSPNL_ASSOC_TX_KEY = 4,  /* nest of pspnl_keys */
  PSPNL_ASSOC_SOCK_FD = 5, /* u32; to pspd the descriptor itself travels as SCM_RIGHTS */
};

enum pspnl_keys {
  PSPNL_KEYS_KEY = 1, /* binary, 16 or 32 octets by version */
  PSPNL_KEYS_SPI = 2, /* u32 */
};

enum pspnl_stats {
  PSPNL_STATS_DEV_ID = 1,        /* u32, at least 1 */
  PSPNL_STATS_KEY_ROTATIONS = 2, /* this and all below: uint */
  PSPNL_STATS_STALE_EVENTS = 3,
  PSPNL_STATS_RX_PACKETS = 4,
  PSPNL_STATS_RX_BYTES = 5,
  PSPNL_STATS_RX_AUTH_FAIL = 6,
  PSPNL_STATS_RX_ERROR = 7,
  PSPNL_STATS_RX_BAD = 8,
  PSPNL_STATS_TX_PACKETS = 9,
  PSPNL_STATS_TX_BYTES = 10,
  PSPNL_STATS_TX_ERROR = 11,
};

#define SOFTPSP_FAMILY_NAME "softpsp"
#define SOFTPSP_FAMILY_VERSION 1

/*
 * What pspd numbers its families and groups: outside of what a kernel gives out (family ids end at
 * 0x3ff), so that one netlink socket of a program can carry the kernel's messages and pspd's.
 * Programs resolve the name, as ever; these are for the library that stands between
 * (libpsp-genl.so).
 */
#define SOFTPSP_ID_PSP 0x5053
#define SOFTPSP_ID_SOFTPSP 0x5054
#define SOFTPSP_ID_GROUP_MGMT 0x50530001
#define SOFTPSP_ID_GROUP_USE 0x50530002

enum softpsp_cmd {
  SOFTPSP_CMD_ASSOC_GET = 1, /* dump; reply: softpsp_assoc */
  SOFTPSP_CMD_INFO_GET = 2,  /* do: the daemon; dump: its devices; reply: softpsp_info */
  SOFTPSP_CMD_SUBSCRIBE = 3, /* softpsp_subscribe: this connection's multicast groups from now on */
  SOFTPSP_CMD_FORWARD = 4,   /* softpsp_forward: what a program sent on a netlink socket */
  SOFTPSP_CMD_KEY_GET = 5,   /* [softpsp_key.datagram]; reply: softpsp_key. For root only */
  SOFTPSP_CMD_PACKET_GET = 6, /* dump; reply: softpsp_packet; CAP_NET_ADMIN */
  /* Is the device of the socket beside the datagram one of pspd's? Reply: softpsp_serve, or ENODEV.
   * A socket that pspd has secured stays pspd's, whatever its route is now. */
  SOFTPSP_CMD_SERVE_GET = 7,
};

/*
 * Where the kernel has the family, pspd's devices have ids from here on. The kernel's are handed
 * out from 1, a new one for each device.
 */
#define SOFTPSP_FIRST_DEVICE 0x8001

enum softpsp_serve {
  SOFTPSP_SERVE_DEV_ID = 1, /* u32 */
};

enum softpsp_assoc {
  SOFTPSP_ASSOC_COOKIE = 1,        /* uint, the socket's SO_COOKIE */
  SOFTPSP_ASSOC_DEV_ID = 2,        /* u32 */
  SOFTPSP_ASSOC_IFNAME = 3,        /* string */
  SOFTPSP_ASSOC_FAMILY = 4,        /* u32: 4 or 6 */
  SOFTPSP_ASSOC_LOCAL_ADDRESS = 5, /* string, as inet_ntop writes it */
  SOFTPSP_ASSOC_PEER_ADDRESS = 6,
  SOFTPSP_ASSOC_LOCAL_PORT = 7, /* u32 */
  SOFTPSP_ASSOC_PEER_PORT = 8,
  SOFTPSP_ASSOC_STATE = 9,       /* u32, enum psp_state */
  SOFTPSP_ASSOC_TCP_STATE = 10,  /* string */
  SOFTPSP_ASSOC_VERSION = 11,    /* u32 */
  SOFTPSP_ASSOC_GENERATION = 12, /* u32 */
  SOFTPSP_ASSOC_STALE = 13,      /* flag */
  SOFTPSP_ASSOC_RX_SPI = 14,     /* u32 */
  SOFTPSP_ASSOC_TX_SPI = 15,     /* u32, absent without Tx key */
  SOFTPSP_ASSOC_RX_PACKETS = 16, /* this and all below: uint */
  SOFTPSP_ASSOC_RX_BYTES = 17,
  SOFTPSP_ASSOC_TX_PACKETS = 18,
  SOFTPSP_ASSOC_TX_BYTES = 19,
  SOFTPSP_ASSOC_RX_DROPS = 20,
};

enum softpsp_info {
  SOFTPSP_INFO_VERSION = 1,        /* string; do only */
  SOFTPSP_INFO_CRYPTO_BACKEND = 2, /* string; do only */
  SOFTPSP_INFO_PID = 3,            /* u32; do only */
  SOFTPSP_INFO_DEV_ID = 4,         /* u32; this and all below: dump only */
  SOFTPSP_INFO_IFNAME = 5,         /* string */
  SOFTPSP_INFO_TAP = 6,            /* string */
  SOFTPSP_INFO_MTU = 7,            /* u32 */
  SOFTPSP_INFO_GENERATION = 8,     /* u32 */
  SOFTPSP_INFO_SPI_REMAINING = 9,  /* uint */
  SOFTPSP_INFO_DROP = 10,          /* nest of softpsp_drop, repeated */
  SOFTPSP_INFO_INSTANCE = 11,      /* uint, random at each start of the daemon; do only */
  SOFTPSP_INFO_REPAIRS = 12,       /* uint: how often pspd put back what others had changed */
  SOFTPSP_INFO_TROUBLE = 13,       /* string: what is not as it has to be; absent if all is well */
  SOFTPSP_INFO_REFUSED = 14,       /* uint: requests for keys refused for want of room */
};

enum softpsp_drop {
  SOFTPSP_DROP_NAME = 1,  /* string */
  SOFTPSP_DROP_COUNT = 2, /* uint */
};

enum softpsp_subscribe {
  SOFTPSP_SUBSCRIBE_GROUPS = 1, /* u32, mask 0x3 */
};

/*
 * Forward: exactly one of message, join, leave, who, beside, without-done. The program's
 * NETLINK_GENERIC socket is the first descriptor beside the datagram, the one that sock-fd names
 * the second. Answers and notifications go to that netlink socket; then the datagram itself is
 * answered, with `sender` or an NLMSG_ERROR, which is what the program's send() or setsockopt()
 * fails with.
 */
enum softpsp_forward {
  /* binary: one netlink message. Of a dump of all families only the `psp` part is answered, and no
   * NLMSG_DONE: the kernel's part follows. */
  SOFTPSP_FORWARD_MESSAGE = 1,
  /* u32: a group id, as NETLINK_ADD_MEMBERSHIP; u32, if the kernel has the family: its id there,
   * which notifications then carry. */
  SOFTPSP_FORWARD_JOIN = 2,
  SOFTPSP_FORWARD_LEAVE = 3,  /* u32: a group id, as NETLINK_DROP_MEMBERSHIP */
  SOFTPSP_FORWARD_SENDER = 4, /* u32, reply: the netlink port that pspd sends from */
  SOFTPSP_FORWARD_WHO = 5,    /* flag: no request, only the reply is wanted */
  /* binary: as `message`, where the kernel has the family: the message bears the kernel's id of it,
   * and so do the answers. `without-done`: of a dump no NLMSG_DONE, since the kernel's
   * part follows. */
  SOFTPSP_FORWARD_BESIDE = 6,
  SOFTPSP_FORWARD_WITHOUT_DONE = 7,
};

/*
 * Key-get: the key under which a captured PSP packet is authentic, if it is one of a secured
 * connection of this pspd. Without a datagram it only asks whether keys may be asked for.
 */
enum softpsp_key {
  SOFTPSP_KEY_DATAGRAM = 1, /* binary: PSP header to ICV */
  SOFTPSP_KEY_VERSION = 2,  /* u32; this and all below: reply only */
  SOFTPSP_KEY_SPI = 3,      /* u32 */
  SOFTPSP_KEY_KEY = 4,      /* binary, 16 or 32 octets by version */
};

/* Packets that a device did not accept or could not send, or was asked to sample: the newest. */
enum softpsp_packet {
  SOFTPSP_PACKET_DEV_ID = 1,   /* u32 */
  SOFTPSP_PACKET_NUMBER = 2,   /* uint: counts the packets of the device from 1 */
  SOFTPSP_PACKET_TIME = 3,     /* uint: nanoseconds since 1970 */
  SOFTPSP_PACKET_TRANSMIT = 4, /* flag: it was to be sent; else it was received */
  SOFTPSP_PACKET_REASON = 5,   /* u32, enum psp_drop_reason; absent: sampled */
  SOFTPSP_PACKET_LENGTH = 6,   /* u32: of the whole packet */
  SOFTPSP_PACKET_OCTETS = 7,   /* binary: its beginning, from the IP header on */
};

/* Where notifications were lost, pspd sends a NLMSG_OVERRUN message with this sequence number. */
#define SOFTPSP_OVERRUN_SEQ 0x50534f56

/* Bits of softpsp subscribe's groups. */
#define SOFTPSP_GROUP_MGMT 0x1
#define SOFTPSP_GROUP_USE 0x2

#endif
