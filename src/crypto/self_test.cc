// SPDX-License-Identifier: Apache-2.0
//
// Known answers and tampered inputs for a backend, run before it touches a packet. Sources:
//   CMAC   NIST SP 800-38B, AES-256, example of 16 octets
//   KDF    PSP Architecture Specification, key derivation examples
//   GCM    McGrew and Viega, "The Galois/Counter Mode of Operation", cases 2, 4, 14, 16
//   GMAC   IEEE 802.1AEbn, 54-octet packet authentication, 128 and 256 bit
#include <algorithm>
#include <array>
#include <vector>

#include "crypto/aead.hh"

namespace psp::crypto {
namespace {

using Octets = std::vector<std::uint8_t>;
using Failure = std::optional<std::string>;

std::uint8_t nibble(char c) { return static_cast<std::uint8_t>(c <= '9' ? c - '0' : c - 'a' + 10); }

Octets from_hex(std::string_view hex) {
  Octets octets(hex.size() / 2);
  for (std::size_t i = 0; i < octets.size(); ++i)
    octets[i] = static_cast<std::uint8_t>(nibble(hex[2 * i]) << 4 | nibble(hex[2 * i + 1]));
  return octets;
}

struct KdfCase {
  const char* device_key;
  Version version;
  std::uint32_t spi;
  const char* key;
};

constexpr const char* kDeviceKey0 =
    "34448a064292601b11a0978f56a2d34cf3fc35ede1a6bc04f8db3e5243a2b0ca";
constexpr const char* kDeviceKey1 =
    "563952565d3a78ae773ec1b779f2f2d99f4a7f53a6fbb9b07d5b71f39364d739";

constexpr KdfCase kKdfCases[] = {
    {kDeviceKey0, Version::kAesGcm128, 0x12345678, "96c22dc799198090b74b70ae468e4e30"},
    {kDeviceKey1, Version::kAesGcm128, 0x9a345678, "3946da2554eae46ad1ef77a64372edc4"},
    {kDeviceKey0, Version::kAesGcm256, 0x12345678,
     "2b7d72074e42ca334487f2990e3f8c4037e436f38283449b76463e9b7fb2e3de"},
};

struct AeadCase {
  const char* name;
  Version version;
  const char* key;
  const char* nonce;
  const char* aad;
  const char* plain;
  const char* sealed;
  const char* icv;
};

constexpr const char* kGcmPlain =
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39";
constexpr const char* kGmacAad =
    "d609b1f056637a0d46df998d88e5222ab2c2846512153524c0895e8108000f101112131415161718191a1b1c1d1e1f"
    "202122232425262728292a2b2c2d2e2f30313233340001";

constexpr AeadCase kAeadCases[] = {
    {"AES-128-GCM, one block", Version::kAesGcm128, "00000000000000000000000000000000",
     "000000000000000000000000", "", "00000000000000000000000000000000",
     "0388dace60b6a392f328c2b971b2fe78", "ab6e47d42cec13bdf53a67b21257bddf"},
    {"AES-256-GCM, one block", Version::kAesGcm256,
     "0000000000000000000000000000000000000000000000000000000000000000", "000000000000000000000000",
     "", "00000000000000000000000000000000", "cea7403d4d606b6e074ec5d3baf39d18",
     "d0d1c8a799996bf0265b98b5d48ab919"},
    {"AES-128-GCM", Version::kAesGcm128, "feffe9928665731c6d6a8f9467308308",
     "cafebabefacedbaddecaf888", "feedfacedeadbeeffeedfacedeadbeefabaddad2", kGcmPlain,
     "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
     "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
     "5bc94fbc3221a5db94fae95ae7121a47"},
    {"AES-256-GCM", Version::kAesGcm256,
     "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
     "feedfacedeadbeeffeedfacedeadbeefabaddad2", kGcmPlain,
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
     "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
     "76fc6ece0f4e1768cddf8853bb2d551b"},
    {"AES-128-GMAC", Version::kAesGmac128, "ad7a2bd03eac835a6f620fdcb506b345",
     "12153524c0895e81b2c28465", kGmacAad, "", "", "f09478a9b09007d06f46e9b6a1da25dd"},
    {"AES-256-GMAC", Version::kAesGmac256,
     "e3c08a8f06c6e3ad95a70557b23f75483ce33021a9c72b7025666204c69c0b72", "12153524c0895e81b2c28465",
     kGmacAad, "", "", "2f0bc5af409e06d609ea8b7d0fa5ea50"},
};

Failure test_cmac(const Backend& backend) {
  const auto kdf = backend.make_kdf(
      DeviceKey(from_hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")));
  Octets mac(16);
  kdf->cmac_block(from_hex("6bc1bee22e409f96e93d7e117393172a").data(), mac.data());
  if (mac != from_hex("28a7023f452e8f82bd4bf28d8c37c35c")) return "AES-256-CMAC: wrong result";
  return {};
}

Failure test_kdf(const Backend& backend) {
  for (const KdfCase& test : kKdfCases) {
    const auto kdf = backend.make_kdf(DeviceKey(from_hex(test.device_key)));
    SaKey key;
    kdf->derive(test.version, {test.spi}, key);
    if (!std::ranges::equal(key.span(), from_hex(test.key)))
      return "key derivation: wrong key for " + std::string(name(test.version));
  }
  return {};
}

// Sealed is a case's octets, to be tampered with.
struct Sealed {
  Octets nonce;
  Octets aad;
  Octets text;
  Octets icv;
};

// opens is whether `sealed` opens; `out` is what came out.
bool opens(Aead& aead, const Sealed& sealed, Octets& out) {
  out.assign(sealed.text.size(), 0xa5);
  return aead.open(sealed.nonce.data(), sealed.aad, sealed.text, out.data(), sealed.icv.data());
}

// test_tampered flips one bit of each octet of `part` in turn: none may open or give out anything.
Failure test_tampered(Aead& aead, Sealed& sealed, Octets& part, const std::string& what) {
  Octets out;
  for (std::uint8_t& octet : part) {
    octet ^= 0x10;
    if (opens(aead, sealed, out)) return what + " accepted";
    if (std::ranges::any_of(out, [](std::uint8_t left) { return left != 0; }))
      return what + " rejected, but its output was not wiped";
    octet ^= 0x10;
  }
  return {};
}

Failure test_known_answer(Aead& aead, const AeadCase& test, const Sealed& sealed) {
  const Octets plain = from_hex(test.plain);
  Octets out(plain.size());
  Octets icv(kIcv);
  aead.seal(sealed.nonce.data(), sealed.aad, plain, out.data(), icv.data());
  if (out != sealed.text) return "sealed wrong";
  if (icv != sealed.icv) return "wrong ICV";
  if (!opens(aead, sealed, out)) return "right ICV refused";
  if (out != plain) return "opened wrong";

  out = plain;  // the same in place
  aead.seal(sealed.nonce.data(), sealed.aad, out, out.data(), icv.data());
  if (out != sealed.text || icv != sealed.icv) return "sealed wrong in place";
  if (!aead.open(sealed.nonce.data(), sealed.aad, out, out.data(), icv.data()) || out != plain)
    return "opened wrong in place";
  return {};
}

Failure test_aead(Aead& aead, const AeadCase& test) {
  Sealed sealed{from_hex(test.nonce), from_hex(test.aad), from_hex(test.sealed),
                from_hex(test.icv)};
  aead.rekey(test.version, from_hex(test.key));
  if (auto failure = test_known_answer(aead, test, sealed)) return failure;
  if (auto failure = test_tampered(aead, sealed, sealed.icv, "wrong ICV")) return failure;
  if (auto failure = test_tampered(aead, sealed, sealed.nonce, "wrong nonce")) return failure;
  if (auto failure = test_tampered(aead, sealed, sealed.aad, "wrong AAD")) return failure;
  return test_tampered(aead, sealed, sealed.text, "wrong ciphertext");
}

}  // namespace

std::optional<std::string> self_test(const Backend& backend) {
  if (auto failure = test_cmac(backend)) return failure;
  if (auto failure = test_kdf(backend)) return failure;
  const auto aead = backend.make_aead();
  for (const AeadCase& test : kAeadCases)
    if (auto failure = test_aead(*aead, test)) return std::string(test.name) + ": " + *failure;
  return {};
}

}  // namespace psp::crypto
