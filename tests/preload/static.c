/* SPDX-License-Identifier: Apache-2.0 */
/* A program without a dynamic linker: no library can be loaded before it. */
int main(void) { return 7; }
