/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Numbers of the wire, once for C++ and BPF: of PSP as its specification has them
 * (docs/protocol.md, sections 2 and 3), and of TCP what both sides look at. C++ knows those of PSP
 * by the names that wire/types.hh gives them.
 */
#ifndef PSP_WIRE_CONSTANTS_H
#define PSP_WIRE_CONSTANTS_H

enum {
  PSP_UDP_PORT = 1000, /* the destination port of every PSP packet, in both directions */
  PSP_VERSIONS = 4,    /* 0..3 */
};

/* Lengths in octets. */
enum {
  PSP_UDP_HEADER = 8,
  PSP_BASE_HEADER = 16, /* of PSP, without cookie and extension */
  PSP_ICV = 16,
  PSP_OVERHEAD = PSP_UDP_HEADER + PSP_BASE_HEADER + PSP_ICV, /* of transport mode */
};

/* Flags of a TCP header, octet 13. */
enum {
  PSP_TCP_FLAG_FIN = 0x01,
  PSP_TCP_FLAG_SYN = 0x02,
  PSP_TCP_FLAG_RST = 0x04,
  PSP_TCP_FLAG_PSH = 0x08,
  PSP_TCP_FLAG_ACK = 0x10,
  PSP_TCP_FLAG_URG = 0x20,
  PSP_TCP_FLAG_CWR = 0x80,
};

#endif
