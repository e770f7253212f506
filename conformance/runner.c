/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs the PSP conformance corpus against an implementation in C. One file, no library but OpenSSL
 * for AES:  cc -o runner runner.c -lcrypto && ./runner corpus.json
 *
 * As it stands the implementation is psp_receive() and psp_seal() below, written from the protocol
 * alone; they share no code with softpsp. To test a firmware or a driver, put calls to it there.
 * Everything from "The corpus" on only reads cases and compares.
 *
 * Exit status: 0 all agree, 1 not, 2 the corpus cannot be read.
 */
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PACKET = 65575, BASE_HEADER = 16, ICV = 16, UDP = 8 };

/* The reasons for a drop, in the words of the corpus; NULL: not dropped. */
typedef const char* psp_drop;

static uint8_t device_keys[2][32];

static uint16_t get16(const uint8_t* p) { return (uint16_t)(p[0] << 8 | p[1]); }
static uint32_t get32(const uint8_t* p) { return (uint32_t)get16(p) << 16 | get16(p + 2); }
static void put16(uint8_t* p, size_t value) {
  p[0] = (uint8_t)(value >> 8);
  p[1] = (uint8_t)value;
}
static void put32(uint8_t* p, uint32_t value) {
  put16(p, value >> 16);
  put16(p + 2, value & 0xffff);
}

/* --- Cryptography -------------------------------------------------------------------------- */

static void fail(const char* what) {
  fprintf(stderr, "runner: OpenSSL: %s\n", what);
  exit(2);
}

/* cmac: AES-256-CMAC of 16 octets. */
static void cmac(const uint8_t* key, const uint8_t* block, uint8_t* out) {
  EVP_MAC* mac = EVP_MAC_fetch(NULL, "CMAC", NULL);
  EVP_MAC_CTX* context = EVP_MAC_CTX_new(mac);
  char cipher[] = "AES-256-CBC";
  const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_CIPHER, cipher, 0),
                               OSSL_PARAM_construct_end()};
  size_t size = 0;

  if (!EVP_MAC_init(context, key, 32, params) || !EVP_MAC_update(context, block, 16) ||
      !EVP_MAC_final(context, out, &size, 16))
    fail("CMAC");
  EVP_MAC_CTX_free(context);
  EVP_MAC_free(mac);
}

/* derive_key writes the SA key, 16 or 32 octets by version, and returns its length. */
static size_t derive_key(unsigned version, uint32_t spi, uint8_t* key) {
  const size_t size = version & 1 ? 32 : 16;
  uint8_t block[16] = {0, 0, 0, 0, 'P', 'v', (uint8_t)('0' + version), 0};

  put32(block + 8, spi);
  put32(block + 12, (uint32_t)(8 * size));
  for (size_t done = 0; done < size; done += 16) {
    ++block[3];
    cmac(device_keys[spi >> 31], block, key + done);
  }
  return size;
}

/*
 * gcm encrypts or decrypts `size` octets in place. The AAD is `aad_size` octets at `psp`, the nonce
 * 12 octets at psp + 4, the tag stands behind the text. Returns false if a tag is wrong.
 */
static bool gcm(bool encrypt, uint8_t* psp, size_t aad_size, size_t size, unsigned version) {
  uint8_t key[32], *text = psp + aad_size, *tag = text + size;
  const size_t key_size = derive_key(version, get32(psp + 4), key);
  EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
  const EVP_CIPHER* cipher = key_size == 16 ? EVP_aes_128_gcm() : EVP_aes_256_gcm();
  int written = 0;
  bool good;

  if (!EVP_CipherInit_ex(context, cipher, NULL, key, psp + 4, encrypt) ||
      (!encrypt && !EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, ICV, tag)) ||
      !EVP_CipherUpdate(context, NULL, &written, psp, (int)aad_size) ||
      (size != 0 && !EVP_CipherUpdate(context, text, &written, text, (int)size)))
    fail("GCM");
  good = EVP_CipherFinal_ex(context, text + size, &written) == 1;
  if (encrypt && (!good || !EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, ICV, tag)))
    fail("GCM");
  EVP_CIPHER_CTX_free(context);
  return good;
}

/* --- IP ------------------------------------------------------------------------------------ */

struct ip {
  unsigned family, protocol;
  size_t header, total;
  bool fragment;
};

static uint16_t checksum(const uint8_t* p, size_t size) {
  uint32_t sum = 0;

  for (size_t i = 0; i + 1 < size; i += 2) sum += get16(p + i);
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return (uint16_t)~sum;
}

static psp_drop parse_ip(const uint8_t* p, size_t size, struct ip* ip) {
  ip->family = size ? p[0] >> 4 : 0;
  if (size == 0) return "TRUNCATED";
  if (ip->family == 4) {
    if (size < 20) return "TRUNCATED";
    ip->header = (p[0] & 15u) * 4;
    ip->total = get16(p + 2);
    ip->protocol = p[9];
    ip->fragment = get16(p + 6) & 0x3fff;
    if (ip->header < 20) return "BAD_IP";
    if (ip->header > size) return "TRUNCATED";
    return ip->total < ip->header || ip->total > size ? "BAD_LENGTH" : NULL;
  }
  if (ip->family != 6) return "BAD_IP";
  if (size < 40) return "TRUNCATED";
  ip->header = 40;
  ip->total = 40u + get16(p + 4);
  ip->protocol = p[6];
  ip->fragment = p[6] == 44;
  return ip->total > size ? "BAD_LENGTH" : NULL;
}

/* set_payload writes a payload length and protocol into an IP header. */
static void set_payload(uint8_t* p, const struct ip* ip, size_t size, unsigned protocol) {
  if (ip->family == 6) {
    put16(p + 4, size);
    p[6] = (uint8_t)protocol;
    return;
  }
  put16(p + 2, ip->header + size);
  p[9] = (uint8_t)protocol;
  put16(p + 10, 0);
  put16(p + 10, checksum(p, ip->header));
}

static unsigned traffic_class(const uint8_t* p) {
  return p[0] >> 4 == 4 ? p[1] : (unsigned)(get16(p) >> 4 & 0xff);
}

static void set_traffic_class(uint8_t* p, unsigned value) {
  uint32_t sum;

  if (p[0] >> 4 == 6) {
    put32(p, (get32(p) & 0xf00fffff) | value << 20);
    return;
  }
  /* Incremental (RFC 1624): a damaged header must not be repaired. */
  sum = (uint32_t)(uint16_t)~get16(p + 10) + (0xffffu - p[1]) + value;
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  p[1] = (uint8_t)value;
  put16(p + 10, (uint16_t)~sum);
}

/* --- PSP: put your implementation here ------------------------------------------------------ */

/* open_datagram opens a UDP payload in place; says where the inner packet stands in it. */
static psp_drop open_datagram(uint8_t* psp, size_t size, size_t* inner_at, size_t* inner_size) {
  const unsigned version = size > 3 ? psp[3] >> 2 & 15u : 0;
  size_t header, clear;

  if (size < BASE_HEADER + ICV) return "TRUNCATED";
  if (!(psp[3] & 1) || psp[1] < (psp[3] & 2 ? 2 : 1)) return "BAD_HEADER";
  header = 8 * ((size_t)psp[1] + 1);
  if (size < header + ICV) return "TRUNCATED";
  clear = version == 2 || version == 3 ? size - ICV : BASE_HEADER + 4u * (psp[2] & 63u);
  if (clear > size - ICV) return "BAD_CRYPT_OFFSET";
  if (version > 3) return "BAD_VERSION";
  if ((get32(psp + 4) & 0x7fffffff) == 0) return "BAD_SPI";
  if (!gcm(false, psp, clear, size - ICV - clear, version)) return "AUTH_FAIL";
  *inner_at = header;
  *inner_size = size - header - ICV;
  return NULL;
}

/* leave_tunnel looks at what came out of a tunnel and merges congestion marks (RFC 6040). */
static psp_drop leave_tunnel(unsigned next_header, uint8_t* inner, size_t size,
                             const uint8_t* outer) {
  enum { DROP = 4 };
  static const uint8_t merged[4][4] = {{0, 0, 0, DROP}, {1, 1, 1, 3}, {2, 1, 2, 3}, {3, 3, 3, 3}};
  struct ip ip;
  unsigned before, ecn;

  if (parse_ip(inner, size, &ip) != NULL || ip.family != (next_header == 4 ? 4u : 6u) ||
      ip.total != size)
    return "BAD_INNER";
  before = traffic_class(inner);
  ecn = merged[before & 3][traffic_class(outer) & 3];
  if (ecn == DROP) return "BAD_ECN";
  if (ecn != (before & 3)) set_traffic_class(inner, (before & 0xfcu) | ecn);
  return NULL;
}

/*
 * psp_receive turns a packet, from the IP header on, into the clear IP packet at `out`, which has
 * room for MAX_PACKET octets. Returns why it is dropped, or NULL.
 */
static psp_drop psp_receive(const uint8_t* packet, size_t size, uint8_t* out, size_t* out_size) {
  static uint8_t datagram[MAX_PACKET];
  size_t udp_size, inner_at, inner_size;
  unsigned next_header;
  struct ip ip;
  psp_drop drop = parse_ip(packet, size, &ip);

  if (drop) return drop;
  if (ip.fragment) return "FRAGMENT";
  if (ip.protocol != 17) return "BAD_IP";
  udp_size = ip.total - ip.header;
  if (udp_size < UDP) return "TRUNCATED";
  if (get16(packet + ip.header + 2) != 1000 || (ip.family == 4 && checksum(packet, ip.header) != 0))
    return "BAD_IP";
  if (get16(packet + ip.header + 4) != udp_size) return "BAD_LENGTH";
  memcpy(datagram, packet + ip.header + UDP, udp_size - UDP);
  drop = open_datagram(datagram, udp_size - UDP, &inner_at, &inner_size);
  if (drop) return drop;
  next_header = datagram[0];
  if (next_header == 4 || next_header == 41) {
    drop = leave_tunnel(next_header, datagram + inner_at, inner_size, packet);
    memcpy(out, datagram + inner_at, inner_size);
    *out_size = inner_size;
    return drop;
  }
  memcpy(out, packet, ip.header);
  memcpy(out + ip.header, datagram + inner_at, inner_size);
  set_payload(out, &ip, inner_size, next_header);
  *out_size = ip.header + inner_size;
  return NULL;
}

/*
 * psp_seal completes a datagram: `psp` holds the PSP header (with extension) and the inner packet,
 * `size` octets, and has room for the ICV.
 */
static void psp_seal(uint8_t* psp, size_t size) {
  const unsigned version = psp[3] >> 2 & 15u;
  const size_t clear = version > 1 ? size : BASE_HEADER + 4u * (psp[2] & 63u);

  gcm(true, psp, clear, size - clear, version);
}

/* --- The corpus: one JSON object a line, with strings and numbers only ------------------------ */

/* field finds the value of `key` in a line; NULL if it is not there. */
static const char* field(const char* line, const char* key) {
  char quoted[64];
  const char* at;

  snprintf(quoted, sizeof quoted, "\"%s\":", key);
  at = strstr(line, quoted);
  if (at == NULL) return NULL;
  at += strlen(quoted);
  return *at == '"' ? at + 1 : at;
}

static bool is(const char* line, const char* key, const char* text) {
  const char* value = field(line, key);
  return value != NULL && strncmp(value, text, strlen(text)) == 0 && value[strlen(text)] == '"';
}

static unsigned long number(const char* line, const char* key) {
  const char* value = field(line, key);
  return value ? strtoul(value, NULL, 10) : 0;
}

static int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* octets reads a hex string of at most `room` octets; returns how many. */
static size_t octets(const char* line, const char* key, uint8_t* out, size_t room) {
  const char* hex = field(line, key);
  size_t size = 0;

  if (hex == NULL) return 0;
  for (; digit(hex[0]) >= 0 && digit(hex[1]) >= 0 && size < room; hex += 2)
    out[size++] = (uint8_t)(digit(hex[0]) << 4 | digit(hex[1]));
  return size;
}

/* check_seal makes the packet of a case again. Returns what is wrong, or NULL. */
static const char* check_seal(const char* line, const uint8_t* packet, size_t size,
                              const uint8_t* clear) {
  static uint8_t made[MAX_PACKET + 4096];
  const bool tunnel = is(line, "mode", "tunnel");
  uint8_t key[32], wanted_key[32];
  size_t ip_header, inner_size, psp_size, wanted;
  uint8_t* psp;
  struct ip ip, outer;

  if (parse_ip(clear, MAX_PACKET, &ip) || parse_ip(packet, size, &outer)) return "no IP packet";
  ip_header = tunnel ? outer.header : ip.header;
  /* The outer header of a tunnel is a matter of policy. */
  memcpy(made, tunnel ? packet : clear, ip_header);
  psp = made + ip_header + UDP;
  psp[0] = (uint8_t)(!tunnel ? ip.protocol : ip.family == 4 ? 4 : 41);
  psp_size = BASE_HEADER + octets(line, "extension", psp + BASE_HEADER, 2032);
  psp[1] = (uint8_t)(psp_size / 8 - 1);
  psp[2] = (uint8_t)number(line, "crypt_offset");
  psp[3] = (uint8_t)(1 | number(line, "cookie") << 1 | number(line, "version") << 2);
  octets(line, "spi", psp + 4, 4);
  octets(line, "iv", psp + 8, 8);
  wanted = derive_key((unsigned)number(line, "version"), get32(psp + 4), key);
  if (octets(line, "sa_key", wanted_key, 32) != wanted || memcmp(key, wanted_key, wanted) != 0)
    return "the key differs";
  inner_size = ip.total - (tunnel ? 0 : ip.header);
  memcpy(psp + psp_size, clear + (tunnel ? 0 : ip.header), inner_size);
  psp_seal(psp, psp_size + inner_size);
  put16(made + ip_header, number(line, "source_port"));
  put16(made + ip_header + 2, 1000);
  put16(made + ip_header + 4, UDP + psp_size + inner_size + ICV);
  put16(made + ip_header + 6, 0);
  if (!tunnel) set_payload(made, &ip, UDP + psp_size + inner_size + ICV, 17);
  wanted = ip_header + UDP + psp_size + inner_size + ICV;
  return wanted == size && memcmp(made, packet, size) == 0 ? NULL : "the sealed packet differs";
}

/* check_case returns what is wrong with a line of the corpus, or NULL. */
static const char* check_case(const char* line) {
  static uint8_t packet[MAX_PACKET], clear[MAX_PACKET], opened[MAX_PACKET];
  static char problem[128];
  const size_t size = octets(line, "packet", packet, sizeof packet);
  const size_t clear_size = octets(line, "clear", clear, sizeof clear);
  size_t opened_size = 0;
  const psp_drop drop = psp_receive(packet, size, opened, &opened_size);

  if (is(line, "kind", "drop")) {
    if (drop != NULL && is(line, "reason", drop)) return NULL;
    snprintf(problem, sizeof problem, "%s", drop ? drop : "opened");
    return problem;
  }
  if (drop != NULL) return drop;
  if (opened_size != clear_size || memcmp(opened, clear, clear_size) != 0)
    return "the opened packet differs";
  return is(line, "kind", "seal") ? check_seal(line, packet, size, clear) : NULL;
}

static void report(const char* line, const char* problem) {
  const char* name = field(line, "name");
  printf("%.*s: %s\n", (int)strcspn(name, "\""), name, problem);
}

int main(int argc, char** argv) {
  FILE* file = argc == 2 ? fopen(argv[1], "r") : NULL;
  unsigned long cases = 0, wrong = 0;
  size_t room = 0;
  char* line = NULL;

  if (file == NULL || getline(&line, &room, file) < 0 || !is(line, "format", "psp-conformance-1") ||
      octets(line, "device_key_0", device_keys[0], 32) != 32 ||
      octets(line, "device_key_1", device_keys[1], 32) != 32) {
    fprintf(stderr, "usage: runner corpus.json\n");
    return 2;
  }
  while (getline(&line, &room, file) >= 0) {
    const char* problem;
    if (field(line, "name") == NULL) continue;
    ++cases;
    problem = check_case(line);
    if (problem == NULL) continue;
    if (++wrong <= 50) report(line, problem);
  }
  free(line);
  fclose(file);
  printf("%lu cases, %lu wrong\n", cases, wrong);
  return wrong != 0 || cases == 0;
}
