// SPDX-License-Identifier: Apache-2.0
//
// The table of refused requests.
//
// A row is a request, written as its attributes, and the whole answer: errno, text, and which
// attribute is named. BAD stands before the attribute whose offset must be given, MISSING_IN before
// the nest that lacks something. What a row does not mention must not be in the answer.
#include "psp_uapi.h"

enum {
  K_END_ROW,
  K_BAD,
  K_MISSING_IN,
  K_U32,
  K_OWN_ID,
  K_SOCKET,
  K_OCTETS,
  K_NEST,
  K_END_NEST,
  K_STRAY,
  K_IFINDEX
};
#define BAD \
  { K_BAD, 0, 0 }
#define MISSING_IN \
  { K_MISSING_IN, 0, 0 }
#define U32(type, value) \
  { K_U32, type, value }
#define OWN_ID \
  { K_OWN_ID, 1, 0 } /* dev.id, assoc.dev-id and stats.dev-id are all 1 */
#define SOCK(kind) \
  { K_SOCKET, ASSOC_SOCK_FD, kind }
#define OCTETS(type, count) \
  { K_OCTETS, type, count }
#define NEST(type) \
  { K_NEST, (type) | NLA_F_NESTED, 0 }
#define OLD_NEST(type) \
  { K_NEST, type, 0 }
#define END_NEST \
  { K_END_NEST, 0, 0 }
#define STRAY(count) \
  { K_STRAY, 0, count } /* octets too few for an attribute */
#define VERSION(value) U32(ASSOC_VERSION, value)
#define TX_KEY(spi, size) NEST(ASSOC_TX_KEY), U32(KEYS_SPI, spi), OCTETS(KEYS_KEY, size), END_NEST

// clang-format off
const struct row rows[] = {
    // Any operation with an id.
    {"dev-get without id misses id", DEV_GET, {{0}}, EINVAL, "", DEV_ID, 0},
    {"dev-set without id misses id", DEV_SET, {U32(DEV_ENA, 1)}, EINVAL, "", DEV_ID, NEED_ROOT},
    {"key-rotate without id misses id", KEY_ROTATE, {{0}}, EINVAL, "", DEV_ID, NEED_ROOT},
    {"get-stats without dev-id misses dev-id", GET_STATS, {{0}}, EINVAL, "", STATS_DEV_ID, 0},
    {"dev-assoc without id misses id", DEV_ASSOC, {U32(DEV_IFINDEX, 1)}, EINVAL, "", DEV_ID,
     NEED_ROOT},
    {"dev-disassoc without id misses id", DEV_DISASSOC, {U32(DEV_IFINDEX, 1)}, EINVAL, "", DEV_ID,
     NEED_ROOT},
    {"dev-get of an id that nobody has is ENODEV", DEV_GET, {U32(1, NO_SUCH_ID)}, ENODEV, "", 0, 0},
    {"dev-set of an id that nobody has is ENODEV", DEV_SET, {U32(1, NO_SUCH_ID), U32(DEV_ENA, 1)},
     ENODEV, "", 0, NEED_ROOT},
    {"key-rotate of an id that nobody has is ENODEV", KEY_ROTATE, {U32(1, NO_SUCH_ID)}, ENODEV, "",
     0, NEED_ROOT},
    {"get-stats of an id that nobody has is ENODEV", GET_STATS, {U32(1, NO_SUCH_ID)}, ENODEV, "", 0,
     0},
    {"dev-assoc of an id that nobody has is ENODEV", DEV_ASSOC, {U32(1, NO_SUCH_ID),
     U32(DEV_IFINDEX, 1)}, ENODEV, "", 0, NEED_ROOT},
    {"dev-disassoc of an id that nobody has is ENODEV", DEV_DISASSOC, {U32(1, NO_SUCH_ID),
     U32(DEV_IFINDEX, 1)}, ENODEV, "", 0, NEED_ROOT},
    {"an id beyond 65535 is ENODEV", DEV_GET, {U32(1, 0x10001)}, ENODEV, "", 0, 0},
    {"the largest id is ENODEV", DEV_GET, {U32(1, UINT32_MAX)}, ENODEV, "", 0, 0},

    // Policies: range, mask, length, type, strictness.
    {"dev-get of id 0 is out of range", DEV_GET, {BAD, U32(1, 0)}, ERANGE, TEXT_RANGE, 0, 0},
    {"dev-set of id 0 is out of range", DEV_SET, {BAD, U32(1, 0)}, ERANGE, TEXT_RANGE, 0,
     NEED_ROOT},
    {"key-rotate of id 0 is out of range", KEY_ROTATE, {BAD, U32(1, 0)}, ERANGE, TEXT_RANGE, 0,
     NEED_ROOT},
    {"rx-assoc with dev-id 0 is out of range", RX_ASSOC, {BAD, U32(1, 0)}, ERANGE, TEXT_RANGE, 0,
     0},
    {"tx-assoc with dev-id 0 is out of range", TX_ASSOC, {BAD, U32(1, 0)}, ERANGE, TEXT_RANGE, 0,
     0},
    {"get-stats of dev-id 0 is out of range", GET_STATS, {BAD, U32(1, 0)}, ERANGE, TEXT_RANGE, 0,
     0},
    {"dev-assoc of id 0 is out of range", DEV_ASSOC, {BAD, U32(1, 0)}, ERANGE, TEXT_RANGE, 0,
     NEED_ROOT},
    {"dev-disassoc of id 0 is out of range", DEV_DISASSOC, {BAD, U32(1, 0)}, ERANGE, TEXT_RANGE, 0,
     NEED_ROOT},
    {"rx-assoc of version 4 is out of range", RX_ASSOC, {BAD, VERSION(4), SOCK(S_ESTABLISHED)},
     ERANGE, TEXT_RANGE, 0, 0},
    {"tx-assoc of version 4 is out of range", TX_ASSOC, {BAD, VERSION(4), SOCK(S_ESTABLISHED)},
     ERANGE, TEXT_RANGE, 0, 0},
    {"a versions mask with a fifth bit is refused by policy", DEV_SET, {OWN_ID, BAD,
     U32(DEV_ENA, 0x10)}, EINVAL, "reserved bit set", 0, NEED_ROOT},
    {"a versions mask with the highest bit is refused by policy", DEV_SET, {OWN_ID, BAD,
     U32(DEV_ENA, 0x80000001)}, EINVAL, "reserved bit set", 0, NEED_ROOT},
    {"an id of two octets is refused", DEV_GET, {BAD, OCTETS(1, 2)}, EINVAL, TEXT_LENGTH, 0, 0},
    {"an id of eight octets is refused", DEV_GET, {BAD, OCTETS(1, 8)}, EINVAL, TEXT_LENGTH, 0, 0},
    {"an id without octets is refused", DEV_GET, {BAD, OCTETS(1, 0)}, EINVAL, TEXT_LENGTH, 0, 0},
    {"a sock-fd of eight octets is refused", RX_ASSOC, {VERSION(0), BAD, OCTETS(ASSOC_SOCK_FD, 8)},
     EINVAL, TEXT_LENGTH, 0, 0},
    {"a version of one octet is refused", TX_ASSOC, {BAD, OCTETS(ASSOC_VERSION, 1)}, EINVAL,
     TEXT_LENGTH, 0, 0},
    {"a versions mask of two octets is refused", DEV_SET, {OWN_ID, BAD, OCTETS(DEV_ENA, 2)}, EINVAL,
     TEXT_LENGTH, 0, NEED_ROOT},
    {"an SPI of eight octets is refused inside its nest", TX_ASSOC, {VERSION(0), NEST(ASSOC_TX_KEY),
     BAD, OCTETS(KEYS_SPI, 8), END_NEST, SOCK(S_RX)}, EINVAL, TEXT_LENGTH, 0, 0},
    {"a tx-key of two octets fails its policy", TX_ASSOC, {VERSION(0), BAD,
     OCTETS(ASSOC_TX_KEY | NLA_F_NESTED, 2)}, ERANGE, TEXT_POLICY, 0, 0},
    {"an attribute beyond the policy is unknown to dev-get", DEV_GET, {OWN_ID, BAD, U32(99, 1)},
     EINVAL, TEXT_UNKNOWN, 0, 0},
    {"an attribute of the reply is unknown to dev-get", DEV_GET, {OWN_ID, BAD, U32(DEV_IFINDEX, 1)},
     EINVAL, TEXT_UNKNOWN, 0, 0},
    {"an attribute beyond the policy is unknown to rx-assoc", RX_ASSOC, {BAD, U32(6, 1)}, EINVAL,
     TEXT_UNKNOWN, 0, 0},
    {"an attribute beyond the policy is unknown inside tx-key", TX_ASSOC, {VERSION(0),
     NEST(ASSOC_TX_KEY), BAD, U32(3, 1), END_NEST}, EINVAL, TEXT_UNKNOWN, 0, 0},
    {"attribute 0 is unknown", DEV_GET, {BAD, U32(0, 1)}, EINVAL, TEXT_UNKNOWN, 0, 0},
    {"an attribute without policy is unsupported by dev-set", DEV_SET, {OWN_ID, BAD,
     U32(DEV_IFINDEX, 1)}, EINVAL, "Unsupported attribute", 0, NEED_ROOT},
    {"an rx-key in a request is unsupported by rx-assoc", RX_ASSOC, {BAD, NEST(ASSOC_RX_KEY),
     END_NEST}, EINVAL, "Unsupported attribute", 0, 0},
    {"a tx-key in rx-assoc is unsupported", RX_ASSOC, {VERSION(0), BAD, TX_KEY(1, 16)}, EINVAL,
     "Unsupported attribute", 0, 0},
    {"a nest flag on a number is not expected", DEV_GET, {BAD, U32(1 | NLA_F_NESTED, 1)}, EINVAL,
     "NLA_F_NESTED not expected", 0, 0},
    {"a tx-key without nest flag misses it", TX_ASSOC, {VERSION(0), BAD, OLD_NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 1), END_NEST}, EINVAL, "NLA_F_NESTED is missing", 0, 0},
    {"octets behind the last attribute are refused", DEV_GET, {OWN_ID, STRAY(2)}, EINVAL,
     "bytes leftover after parsing attributes", 0, 0},
    {"of a repeated attribute the last counts", DEV_GET, {OWN_ID, U32(1, NO_SUCH_ID)}, ENODEV, "",
     0, 0},
    {"each of a repeated attribute is checked", DEV_GET, {BAD, U32(1, 0), OWN_ID}, ERANGE,
     TEXT_RANGE, 0, 0},

    // dev-set.
    {"dev-set without versions has no settings", DEV_SET, {OWN_ID}, EINVAL, "No settings present",
     0, NEED_ROOT},
    {"dev-set of versions beyond the capabilities is refused", DEV_SET, {OWN_ID, U32(DEV_ENA, 0xf)},
     EINVAL, "Requested PSP versions not supported by the device", 0, NEED_ROOT | NEED_PARTIAL_CAP},

    // Descriptor and socket.
    {"rx-assoc without sock-fd misses sock-fd", RX_ASSOC, {VERSION(0)}, EINVAL, "", ASSOC_SOCK_FD,
     0},
    {"tx-assoc without sock-fd misses sock-fd", TX_ASSOC, {VERSION(0), TX_KEY(1, 16)}, EINVAL, "",
     ASSOC_SOCK_FD, 0},
    {"rx-assoc on a number that is not open is EBADF", RX_ASSOC, {VERSION(0), SOCK(S_NOT_OPEN)},
     EBADF, "", 0, 0},
    {"tx-assoc on a number that is not open is EBADF", TX_ASSOC, {VERSION(0), TX_KEY(1, 16),
     SOCK(S_NOT_OPEN)}, EBADF, "", 0, 0},
    {"rx-assoc on descriptor -1 is EBADF", RX_ASSOC, {VERSION(0), SOCK(S_MINUS_ONE)}, EBADF, "", 0,
     0},
    {"rx-assoc on a file is ENOTSOCK", RX_ASSOC, {VERSION(0), SOCK(S_FILE)}, ENOTSOCK, "", 0, 0},
    {"tx-assoc on a file is ENOTSOCK", TX_ASSOC, {VERSION(0), TX_KEY(1, 16), SOCK(S_FILE)},
     ENOTSOCK, "", 0, 0},
    {"rx-assoc on a UDP socket is refused", RX_ASSOC, {VERSION(0), BAD, SOCK(S_UDP)}, EOPNOTSUPP,
     "Unsupported socket family and type", 0, 0},
    {"tx-assoc on a UDP socket is refused", TX_ASSOC, {VERSION(0), TX_KEY(1, 16), BAD, SOCK(S_UDP)},
     EOPNOTSUPP, "Unsupported socket family and type", 0, 0},
    {"rx-assoc on a unix socket is refused", RX_ASSOC, {VERSION(0), BAD, SOCK(S_UNIX)}, EOPNOTSUPP,
     "Unsupported socket family and type", 0, 0},
    {"rx-assoc on a netlink socket is refused", RX_ASSOC, {VERSION(0), BAD, SOCK(S_NETLINK)},
     EOPNOTSUPP, "Unsupported socket family and type", 0, 0},

    // The device of the socket.
    {"rx-assoc without dev-id on a route without PSP device misses dev-id", RX_ASSOC, {VERSION(0),
     SOCK(S_LOOPBACK)}, EINVAL, "", ASSOC_DEV_ID, 0},
    {"tx-assoc without dev-id on a route without PSP device misses dev-id", TX_ASSOC, {VERSION(0),
     TX_KEY(1, 16), SOCK(S_LOOPBACK)}, EINVAL, "", ASSOC_DEV_ID, 0},
    {"rx-assoc without dev-id on a closed socket misses dev-id", RX_ASSOC, {VERSION(0),
     SOCK(S_CLOSED)}, EINVAL, "", ASSOC_DEV_ID, 0},
    {"rx-assoc with the dev-id of no device mismatches the socket", RX_ASSOC, {BAD,
     U32(1, NO_SUCH_ID), VERSION(0), SOCK(S_ESTABLISHED)}, EINVAL, "Device id vs socket mismatch", 0,
     0},
    {"tx-assoc with the dev-id of no device mismatches the socket", TX_ASSOC, {BAD,
     U32(1, NO_SUCH_ID), VERSION(0), TX_KEY(1, 16), SOCK(S_RX)}, EINVAL,
     "Device id vs socket mismatch", 0, 0},
    {"rx-assoc with an unknown dev-id on a route without PSP device is ENODEV", RX_ASSOC,
     {U32(1, NO_SUCH_ID), VERSION(0), SOCK(S_LOOPBACK)}, ENODEV, "", 0, 0},
    {"tx-assoc with an unknown dev-id on a route without PSP device is ENODEV", TX_ASSOC,
     {U32(1, NO_SUCH_ID), VERSION(0), TX_KEY(1, 16), SOCK(S_LOOPBACK)}, ENODEV, "", 0, 0},

    // Version and key.
    {"rx-assoc without version misses version", RX_ASSOC, {SOCK(S_ESTABLISHED)}, EINVAL, "",
     ASSOC_VERSION, 0},
    {"tx-assoc without version misses version", TX_ASSOC, {TX_KEY(1, 16), SOCK(S_RX)}, EINVAL, "",
     ASSOC_VERSION, 0},
    {"tx-assoc without tx-key misses tx-key", TX_ASSOC, {VERSION(0), SOCK(S_RX)}, EINVAL, "",
     ASSOC_TX_KEY, 0},
    {"rx-assoc of a version that the device cannot is refused", RX_ASSOC, {BAD, VERSION(3),
     SOCK(S_ESTABLISHED)}, EOPNOTSUPP, "", 0, NEED_PARTIAL_CAP},
    {"tx-assoc of a version that the device cannot is refused", TX_ASSOC, {BAD, VERSION(3),
     TX_KEY(1, 32), SOCK(S_RX)}, EOPNOTSUPP, "", 0, NEED_PARTIAL_CAP},
    {"a tx-key without key misses key in its nest", TX_ASSOC, {VERSION(0), MISSING_IN,
     NEST(ASSOC_TX_KEY), U32(KEYS_SPI, 1), END_NEST, SOCK(S_RX)}, EINVAL, "", KEYS_KEY, 0},
    {"a tx-key without spi misses spi in its nest", TX_ASSOC, {VERSION(0), MISSING_IN,
     NEST(ASSOC_TX_KEY), OCTETS(KEYS_KEY, 16), END_NEST, SOCK(S_RX)}, EINVAL, "", KEYS_SPI, 0},
    {"an empty tx-key misses key first", TX_ASSOC, {VERSION(0), MISSING_IN, NEST(ASSOC_TX_KEY),
     END_NEST, SOCK(S_RX)}, EINVAL, "", KEYS_KEY, 0},
    {"a key of 15 octets has the wrong length", TX_ASSOC, {VERSION(0), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 1), BAD, OCTETS(KEYS_KEY, 15), END_NEST, SOCK(S_RX)}, EINVAL,
     "incorrect key length", 0, 0},
    {"a key of 32 octets is wrong for version 0", TX_ASSOC, {VERSION(0), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 1), BAD, OCTETS(KEYS_KEY, 32), END_NEST, SOCK(S_RX)}, EINVAL,
     "incorrect key length", 0, 0},
    {"a key of 16 octets is wrong for version 1", TX_ASSOC, {VERSION(1), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 1), BAD, OCTETS(KEYS_KEY, 16), END_NEST, SOCK(S_RX)}, EINVAL,
     "incorrect key length", 0, 0},
    {"a key of 17 octets is wrong for version 2", TX_ASSOC, {VERSION(2), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 1), BAD, OCTETS(KEYS_KEY, 17), END_NEST, SOCK(S_RX)}, EINVAL,
     "incorrect key length", 0, 0},
    {"a key of 16 octets is wrong for version 3", TX_ASSOC, {VERSION(3), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 1), BAD, OCTETS(KEYS_KEY, 16), END_NEST, SOCK(S_RX)}, EINVAL,
     "incorrect key length", 0, 0},
    {"a key without octets has the wrong length", TX_ASSOC, {VERSION(0), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 1), BAD, OCTETS(KEYS_KEY, 0), END_NEST, SOCK(S_RX)}, EINVAL,
     "incorrect key length", 0, 0},
    {"SPI 0 is invalid and the key is named", TX_ASSOC, {VERSION(0), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 0), BAD, OCTETS(KEYS_KEY, 16), END_NEST, SOCK(S_RX)}, EINVAL,
     "invalid SPI: lower 31b must be non-zero", 0, 0},
    {"an SPI of the phase bit alone is invalid", TX_ASSOC, {VERSION(0), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 0x80000000), BAD, OCTETS(KEYS_KEY, 16), END_NEST, SOCK(S_RX)}, EINVAL,
     "invalid SPI: lower 31b must be non-zero", 0, 0},

    // The state of the socket.
    {"a second rx-assoc finds PSP state", RX_ASSOC, {VERSION(0), BAD, SOCK(S_RX)}, EBUSY,
     "Socket already has PSP state", 0, 0},
    {"rx-assoc after tx-assoc finds PSP state", RX_ASSOC, {VERSION(0), BAD, SOCK(S_FULL)}, EBUSY,
     "Socket already has PSP state", 0, 0},
    {"a second rx-assoc of another version finds PSP state", RX_ASSOC, {VERSION(1), BAD,
     SOCK(S_RX)}, EBUSY, "Socket already has PSP state", 0, 0},
    {"tx-assoc before rx-assoc has no Rx key", TX_ASSOC, {VERSION(0), TX_KEY(1, 16),
     SOCK(S_ESTABLISHED)}, EINVAL, "Socket has no Rx key", 0, 0},
    {"tx-assoc of another version than rx-assoc mismatches", TX_ASSOC, {VERSION(1), TX_KEY(1, 32),
     SOCK(S_RX)}, EINVAL, "PSP version mismatch with existing state", 0, 0},
    {"a second tx-assoc finds the Tx key set", TX_ASSOC, {VERSION(0), TX_KEY(1, 16), SOCK(S_FULL)},
     EBUSY, "Tx key already set", 0, 0},
    {"rx-assoc on a closed socket needs an established one", RX_ASSOC, {OWN_ID, VERSION(0), BAD,
     SOCK(S_CLOSED)}, ENOTCONN, TEXT_ESTABLISHED, 0, ONLY_NET_NEXT},
    {"rx-assoc on a listening socket needs an established one", RX_ASSOC, {OWN_ID, VERSION(0), BAD,
     SOCK(S_LISTEN)}, ENOTCONN, TEXT_ESTABLISHED, 0, ONLY_NET_NEXT},
    {"rx-assoc after shutdown needs an established socket", RX_ASSOC, {VERSION(0), BAD,
     SOCK(S_HALF_CLOSED)}, ENOTCONN, TEXT_ESTABLISHED, 0, ONLY_NET_NEXT},
    {"tx-assoc on a closed socket needs an established one", TX_ASSOC, {OWN_ID, VERSION(0),
     TX_KEY(1, 16), SOCK(S_CLOSED)}, ENOTCONN, TEXT_ESTABLISHED, 0, ONLY_NET_NEXT},
    {"tx-assoc after shutdown needs an established socket", TX_ASSOC, {VERSION(0), TX_KEY(1, 16),
     SOCK(S_RX_HALF_CLOSED)}, ENOTCONN, TEXT_ESTABLISHED, 0, ONLY_NET_NEXT},
    {"rx-assoc on a closed socket with dev-id succeeds up to Linux 7.3", RX_ASSOC, {OWN_ID,
     VERSION(0), SOCK(S_CLOSED)}, 0, "", 0, NOT_NET_NEXT},
    {"rx-assoc on a listening socket with dev-id succeeds up to Linux 7.3", RX_ASSOC, {OWN_ID,
     VERSION(0), SOCK(S_LISTEN)}, 0, "", 0, NOT_NET_NEXT},
    {"rx-assoc after shutdown succeeds up to Linux 7.3", RX_ASSOC, {VERSION(0), SOCK(S_HALF_CLOSED)},
     0, "", 0, NOT_NET_NEXT},
    {"tx-assoc after shutdown succeeds up to Linux 7.3", TX_ASSOC, {VERSION(0), TX_KEY(1, 16),
     SOCK(S_RX_HALF_CLOSED)}, 0, "", 0, NOT_NET_NEXT},
    {"tx-assoc on a closed socket has no Rx key up to Linux 7.3", TX_ASSOC, {OWN_ID, VERSION(0),
     TX_KEY(1, 16), SOCK(S_CLOSED)}, EINVAL, "Socket has no Rx key", 0, NOT_NET_NEXT},

    // Which of two errors is told.
    {"order: policy before missing sock-fd", RX_ASSOC, {BAD, VERSION(9)}, ERANGE, TEXT_RANGE, 0, 0},
    {"order: policy before descriptor", TX_ASSOC, {BAD, VERSION(9), SOCK(S_NOT_OPEN)}, ERANGE,
     TEXT_RANGE, 0, 0},
    {"order: descriptor before device", RX_ASSOC, {U32(1, NO_SUCH_ID), SOCK(S_NOT_OPEN)}, EBADF, "",
     0, 0},
    {"order: kind of file before kind of socket", RX_ASSOC, {SOCK(S_FILE)}, ENOTSOCK, "", 0, 0},
    {"order: kind of socket before device", RX_ASSOC, {U32(1, NO_SUCH_ID), BAD, SOCK(S_UDP)},
     EOPNOTSUPP, "Unsupported socket family and type", 0, 0},
    {"order: device before version", RX_ASSOC, {BAD, U32(1, NO_SUCH_ID), SOCK(S_ESTABLISHED)},
     EINVAL, "Device id vs socket mismatch", 0, 0},
    {"order: missing dev-id before missing version", RX_ASSOC, {SOCK(S_LOOPBACK)}, EINVAL, "",
     ASSOC_DEV_ID, 0},
    {"order: version before tx-key", TX_ASSOC, {SOCK(S_RX)}, EINVAL, "", ASSOC_VERSION, 0},
    {"order: version before the state of the socket", RX_ASSOC, {SOCK(S_RX)}, EINVAL, "",
     ASSOC_VERSION, 0},
    {"order: key before the state of the socket", TX_ASSOC, {VERSION(0), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 1), BAD, OCTETS(KEYS_KEY, 4), END_NEST, SOCK(S_ESTABLISHED)}, EINVAL,
     "incorrect key length", 0, 0},
    {"order: key length before SPI", TX_ASSOC, {VERSION(0), NEST(ASSOC_TX_KEY), U32(KEYS_SPI, 0),
     BAD, OCTETS(KEYS_KEY, 4), END_NEST, SOCK(S_RX)}, EINVAL, "incorrect key length", 0, 0},
    {"order: missing spi before key length", TX_ASSOC, {VERSION(0), MISSING_IN, NEST(ASSOC_TX_KEY),
     OCTETS(KEYS_KEY, 4), END_NEST, SOCK(S_RX)}, EINVAL, "", KEYS_SPI, 0},
    {"order: TCP state before PSP state", RX_ASSOC, {VERSION(0), BAD, SOCK(S_RX_HALF_CLOSED)},
     ENOTCONN, TEXT_ESTABLISHED, 0, ONLY_NET_NEXT},
    {"order: TCP state before missing Rx key", TX_ASSOC, {VERSION(0), TX_KEY(1, 16),
     SOCK(S_HALF_CLOSED)}, ENOTCONN, TEXT_ESTABLISHED, 0, ONLY_NET_NEXT},
    {"order: version mismatch before Tx key set", TX_ASSOC, {VERSION(1), TX_KEY(1, 32),
     SOCK(S_FULL)}, EINVAL, "PSP version mismatch with existing state", 0, 0},

    // dev-assoc and dev-disassoc; what succeeds is among the cases below.
    {"dev-assoc without ifindex misses ifindex", DEV_ASSOC, {OWN_ID}, EINVAL, "", DEV_IFINDEX,
     NEED_ROOT},
    {"dev-disassoc without ifindex misses ifindex", DEV_DISASSOC, {OWN_ID}, EINVAL, "", DEV_IFINDEX,
     NEED_ROOT},
    {"dev-assoc of a netdev that is not there is ENODEV", DEV_ASSOC, {OWN_ID, BAD,
     U32(DEV_IFINDEX, 7654321)}, ENODEV, "", 0, NEED_ROOT},
    {"dev-disassoc of a netdev that is not in the list is ENODEV", DEV_DISASSOC, {OWN_ID, BAD,
     U32(DEV_IFINDEX, 7654321)}, ENODEV, "", 0, NEED_ROOT},
    {"dev-assoc with an unknown nsid is refused", DEV_ASSOC, {OWN_ID, U32(DEV_IFINDEX, 1), BAD,
     U32(DEV_NSID, 12345)}, EINVAL, "", 0, NEED_ROOT},
    {"dev-disassoc with an unknown nsid is refused", DEV_DISASSOC, {OWN_ID, U32(DEV_IFINDEX, 1),
     BAD, U32(DEV_NSID, 12345)}, EINVAL, "", 0, NEED_ROOT},
    {"dev-assoc of a netdev that has a PSP device is EBUSY", DEV_ASSOC, {OWN_ID, {K_IFINDEX,
     DEV_IFINDEX, 0}}, EBUSY, "Device already associated with a PSP device", 0, NEED_ROOT},
};
// clang-format on
const unsigned row_count = sizeof rows / sizeof rows[0];

static void put_part(struct message* m, const struct part* p, size_t* open_nest) {
  static const uint8_t zeros[64];
  switch (p->kind) {
    case K_BAD:
      m->bad = (uint32_t)m->size;
      break;
    case K_MISSING_IN:
      m->missing_in = (uint32_t)m->size;
      break;
    case K_U32:
      put_u32(m, p->type, p->value);
      break;
    case K_OWN_ID:
      put_u32(m, p->type, psp.id);
      break;
    case K_IFINDEX:
      put_u32(m, p->type, psp.ifindex);
      break;
    case K_SOCKET:
      put_u32(m, p->type, (uint32_t)make_socket((enum socket_kind)p->value));
      break;
    case K_OCTETS:
      put(m, p->type, zeros, p->value);
      break;
    case K_NEST:
      *open_nest = nest(m, p->type);
      break;
    case K_END_NEST:
      end_nest(m, *open_nest);
      break;
    case K_STRAY:
      memset(m->octets + m->size, 0, p->value);
      m->size += p->value;
      break;
  }
}

void run_row(const struct row* row) {
  struct message m;
  struct answer a;
  size_t open_nest = 0;
  begin(&m, psp.family, row->cmd, 0);
  for (unsigned i = 0; i < MANY_PARTS && row->parts[i].kind != K_END_ROW; i++)
    put_part(&m, &row->parts[i], &open_nest);
  PASS_ON;
  ask(&psp.nl, &m, &a);
  CHECK(a.error >= 0, "no answer within %d ms", PATIENCE_MS);
  CHECK(a.error == row->error, "error is %d (%s, \"%s\"), not %d (%s)", a.error, strerror(a.error),
        a.text, row->error, strerror(row->error));
  CHECK(strcmp(a.text, row->text) == 0, "text is \"%s\", not \"%s\"", a.text, row->text);
  CHECK_EQ(a.bad, m.bad, "offset of the bad attribute");
  CHECK_EQ(a.missing, row->missing, "missing attribute");
  CHECK_EQ(a.missing_in, m.missing_in, "offset of the nest with the missing attribute");
  CHECK_EQ(a.messages, row->error == 0 ? 1 : 0, "messages before the acknowledgement");
}
