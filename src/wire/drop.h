/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Why a packet was dropped: one list for C++ and BPF. Numbers are never reused or changed; a reason
 * that is retired keeps its place. The third column is the counter of the PSP specification that
 * the drop is counted under (section 8 of docs/protocol.md), if it is the device that drops.
 */
#ifndef PSP_WIRE_DROP_H
#define PSP_WIRE_DROP_H

/* X(name, number, counter, text) */
#define PSP_DROP_REASONS(X)                                                                   \
  X(TRUNCATED, 1, RX_ERROR, "packet ends inside a header")                                    \
  X(BAD_IP, 2, RX_ERROR, "not an IPv4 or IPv6 packet with UDP directly behind the IP header") \
  X(BAD_LENGTH, 3, RX_ERROR, "IP, UDP and PSP lengths do not agree")                          \
  X(BAD_HEADER, 4, RX_ERROR, "PSP header length or fixed bit wrong")                          \
  X(BAD_CRYPT_OFFSET, 5, RX_ERROR, "crypt offset beyond the payload")                         \
  X(BAD_VERSION, 6, RX_BAD, "unknown or unsupported PSP version")                             \
  X(BAD_SPI, 7, RX_BAD, "SPI is reserved")                                                    \
  X(AUTH_FAIL, 8, RX_AUTH_FAIL, "ICV does not match")                                         \
  X(VERSION_DISABLED, 9, RX_BAD, "PSP version not enabled for receive")                       \
  X(BAD_INNER, 10, RX_ERROR, "what is inside is not a TCP segment that fits")                 \
  X(FRAGMENT, 11, RX_ERROR, "fragment of a PSP packet")                                       \
  X(TX_NO_ASSOC, 12, TX_ERROR, "no such Tx association")                                      \
  X(TX_BAD_PACKET, 13, TX_ERROR, "not a TCP segment that can be sealed")                      \
  X(TX_TOO_BIG, 14, TX_ERROR, "does not fit the path MTU")                                    \
  X(TX_WRITE, 15, TX_ERROR, "the kernel did not take the sealed packet")                      \
  X(POLICY_CLEAR, 16, NONE, "clear text where the socket wants PSP")                          \
  X(POLICY_MISMATCH, 17, NONE, "PSP packet that does not match the socket's association")     \
  X(POLICY_NO_ASSOC, 18, NONE, "PSP packet for a socket without association")                 \
  X(POLICY_ROUTE, 19, NONE, "secured socket would leave by another device")                   \
  X(POLICY_EPOCH, 20, NONE, "association of an earlier daemon: its keys are gone")            \
  X(POLICY_FORGED, 21, NONE, "frame that the daemon did not write")                           \
  X(RX_WRITE, 22, RX_ERROR, "the kernel did not take the opened packet")                      \
  X(BAD_ECN, 23, RX_ERROR, "congestion marked on a tunnel packet that cannot carry the mark") \
  X(SAMPLED, 24, NONE, "authentic, but its sender wants it dropped after sampling")           \
  X(STALE_KEY, 25, RX_BAD, "SPI of a device key that was rotated out")                        \
  X(UNKNOWN_KEY, 26, RX_BAD, "SPI that was never given out here, as of an earlier pspd")      \
  X(PROBE, 27, NONE, "probe of pspctl doctor --peer that was answered, or such an answer")    \
  X(PROBE_REFUSED, 28, NONE, "probe that is malformed or one too many: not answered")         \
  X(PEER_NOT_ALLOWED, 29, NONE, "from an address that --allow-peers does not name")           \
  X(UNCLAIMED, 30, NONE, "came by a netdev without PSP device, or in a version not enabled")

#define PSP_DROP_ENUM_(name, number, counter, text) PSP_DROP_##name = number,
enum psp_drop_reason { PSP_DROP_NONE = 0, PSP_DROP_REASONS(PSP_DROP_ENUM_) PSP_DROP_MAX = 32 };
#undef PSP_DROP_ENUM_

#endif
