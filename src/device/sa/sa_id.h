/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * The identity of a security association, as whoever receives under it has it: one struct for the
 * core, the BPF programs, what they tell each other and what people are shown. Compiled as C, as
 * C++ and for BPF.
 *
 * The SPI is on the wire, and means something only together with the device: its top bit chooses
 * one of that device's two keys (docs/protocol.md, section 5). Generation and rotation say which
 * key that was when the SPI was handed out: the generation as the kernel counts, in 7 bits, the
 * rotation so that it does not come again.
 */
#ifndef PSP_DEVICE_SA_ID_H
#define PSP_DEVICE_SA_ID_H

#include "base/integers.h"

struct psp_sa_id {
  psp_u32 spi;      /* host order; 0 is none */
  psp_u32 rotation; /* how often the device had rotated its keys */
  psp_u16 dev_id;
  psp_u8 generation; /* of the device key */
  psp_u8 version;    /* of the PSP header: 0..3 */
};

/* psp_is_dead: two rotations of the device key after `rotation` nothing can match it any more. */
PSP_INLINE bool psp_is_dead(psp_u32 rotation, psp_u32 now) { return now - rotation > 1; }

/*
 * psp_sa_matches: was a packet that names SPI, generation, version and device opened under this
 * association? `opened.rotation` is how often the device has rotated its keys by now.
 */
PSP_INLINE bool psp_sa_matches(const struct psp_sa_id* sa, const struct psp_sa_id* opened) {
  return sa->dev_id == opened->dev_id && sa->spi == opened->spi &&
         !psp_is_dead(sa->rotation, opened->rotation) && sa->generation == opened->generation &&
         sa->version == opened->version;
}

#endif
