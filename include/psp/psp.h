/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PSP for C programs: secure a connected TCP socket with two calls.
 *
 *     int on = 1;                                             // why: see psp_tx_assoc
 *     setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on);
 *     struct psp_key rx, tx;
 *     struct psp_error err = PSP_ERROR_INIT;
 *     psp_rx_assoc(fd, PSP_VERSION_AES_GCM_128, &rx, &err);   // give rx to the peer, securely
 *     ... exchange rx for the peer's, as tx ...
 *     psp_tx_assoc(fd, PSP_VERSION_AES_GCM_128, &tx, &err);   // from here on all is sealed
 *
 * A socket is pspd's if its route is by a netdev that pspd serves, and else the kernel's; a device
 * is asked for where it is, and psp_dev_list lists both, pspd's first. Where the kernel has the
 * `psp` family, ids of pspd's devices begin at 0x8001. If PSP_SOCKET is set, pspd there is asked
 * about all. Functions return 0 or a negative errno; `err`, which may be NULL, then says why in
 * words. Thread: any; calls open and close their own connection.
 */
#ifndef PSP_PSP_H
#define PSP_PSP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  PSP_VERSION_AES_GCM_128 = 0,
  PSP_VERSION_AES_GCM_256 = 1,
  PSP_VERSION_AES_GMAC_128 = 2, /* authenticated, not encrypted */
  PSP_VERSION_AES_GMAC_256 = 3, /* authenticated, not encrypted */
};

/* psp_key is an SPI with its key: secret. Wipe it (psp_key_wipe) as soon as it is handed on. */
struct psp_key {
  uint32_t spi;     /* host order */
  uint32_t key_len; /* 16 or 32 */
  uint8_t key[32];
};

/*
 * Structs that are filled here begin with their size, so that they can grow: start from the _INIT
 * of each. Nothing is written behind `size` octets. Where it is not set, psp_dev_list and
 * psp_get_stats fail with -EINVAL, and a psp_error stays as it is.
 */

/* psp_error says what was wrong, in the kernel's words where it has any. */
struct psp_error {
  size_t size; /* of this struct */
  char text[160];
  char attr[32]; /* the attribute it is about, for example ".dev-id"; empty if none */
};

#define PSP_ERROR_INIT \
  { sizeof(struct psp_error), "", "" }

/* psp_device describes one PSP device. */
struct psp_device {
  size_t size; /* of this struct */
  uint32_t id;
  uint32_t ifindex;      /* of the main netdev; 0 if that is in another network namespace */
  uint32_t versions_cap; /* bit n: version n */
  uint32_t versions_ena;
  uint32_t associated; /* how many netdevs use it beside the main one, as far as seen from here */
  uint32_t by_association; /* 1: seen from here only because such a netdev is here; else 0 */
};

#define PSP_DEVICE_INIT \
  { sizeof(struct psp_device), 0, 0, 0, 0, 0, 0 }

struct psp_stats {
  size_t size; /* of this struct */
  uint32_t dev_id;
  uint64_t key_rotations, stale_events;
  uint64_t rx_packets, rx_bytes, rx_auth_fail, rx_error, rx_bad;
  uint64_t tx_packets, tx_bytes, tx_error;
};
#define PSP_STATS_INIT \
  { sizeof(struct psp_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/*
 * psp_rx_assoc gives the socket an Rx key and stores it in *rx. The device is that of the socket's
 * route. The socket then accepts clear and PSP segments alike, and sends in clear.
 */
int psp_rx_assoc(int fd, uint32_t version, struct psp_key* rx, struct psp_error* err);

/*
 * psp_tx_assoc installs the peer's Rx key as Tx key. From its success on every octet written is
 * sealed and every octet read was authenticated. -EBUSY while clear data waits in the receive
 * queue: read it and call again.
 *
 * Set SO_OOBINLINE before psp_rx_assoc, or at the latest before your key goes out. Without it an
 * urgent pointer takes an octet out of what recv() gives, and a man in the middle can move that
 * pointer by a clear segment before psp_tx_assoc. (libpsp-tls does it for you.)
 */
int psp_tx_assoc(int fd, uint32_t version, const struct psp_key* tx, struct psp_error* err);

/*
 * psp_dev_list stores up to `max` devices and returns how many there are. The size of the first one
 * holds for all: struct psp_device devices[8] = {PSP_DEVICE_INIT};
 */
int psp_dev_list(struct psp_device* devices, size_t max, struct psp_error* err);

/* psp_dev_set enables exactly `versions` for receive. Needs CAP_NET_ADMIN. */
int psp_dev_set(uint32_t dev_id, uint32_t versions, struct psp_error* err);

/* psp_key_rotate makes a new device key. Needs CAP_NET_ADMIN. Twice, and old connections die. */
int psp_key_rotate(uint32_t dev_id, struct psp_error* err);

/*
 * psp_dev_assoc lets the netdev `ifindex` use the device, psp_dev_disassoc ends that. nsid is the
 * number of the netdev's network namespace (ip netns list-id), -1: the caller's own. Need
 * CAP_NET_ADMIN.
 */
int psp_dev_assoc(uint32_t dev_id, uint32_t ifindex, int32_t nsid, struct psp_error* err);
int psp_dev_disassoc(uint32_t dev_id, uint32_t ifindex, int32_t nsid, struct psp_error* err);

int psp_get_stats(uint32_t dev_id, struct psp_stats* stats, struct psp_error* err);

/* psp_key_wipe overwrites a key in a way that the compiler cannot drop. */
void psp_key_wipe(struct psp_key* key);

#ifdef __cplusplus
}
#endif

#endif
