/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program without a dynamic linker: no library can be loaded before it. `pspctl run` must say so,
 * since the program would only see that the kernel has no `psp`, and run it all the same.
 *
 * Its status, 7, is one that neither pspctl nor a shell would give: so it is seen that it ran.
 */
int main(void) { return 7; }
