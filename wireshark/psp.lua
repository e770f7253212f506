-- SPDX-License-Identifier: Apache-2.0
--
-- A Wireshark dissector for PSP (the PSP Security Protocol), for Wireshark and tshark 4.0 with Lua 5.2.
-- It shows every field, checks the ICV and opens the payload with the keys of a PSP key log
-- (docs/key-log.md; preference psp.keylog or environment variable PSP_KEYLOG). The protocol is
-- docs/protocol.md. In four parts: AES-GCM and key derivation, the key log, the fields, the dissector.
-- One long file all the same: it is copied by hand, and of a plugin directory Wireshark runs every .lua
-- by itself, in any order; parts would run as plugins, get lost, and be of different versions.
--
-- Wireshark 4.0 gives Lua no ciphers, so AES-GCM is done here, with tables: made for looking at
-- captures, neither fast nor in constant time.

if not bit32 then error("psp.lua needs the bit32 library (Wireshark with Lua 5.2)") end
local bxor, band, bor, lshift = bit32.bxor, bit32.band, bit32.bor, bit32.lshift
local rshift, lrotate, extract = bit32.rshift, bit32.lrotate, bit32.extract
local pack, unpack_words = Struct.pack, Struct.unpack

-- Part 1: AES, GCM, CMAC --------------------------------------------------------------------------

local sbox, te0, te1, te2, te3 = {}, {}, {}, {}, {}

local function times_2(x)
  x = x * 2
  return x > 255 and bxor(x, 0x11b) or x
end

-- The S-box: inverse in GF(2^8) by powers of the generator 3, then the affine map.
local function make_aes_tables()
  local power, log, x = {}, {}, 1
  for i = 0, 254 do
    power[i], log[x] = x, i
    x = bxor(x, times_2(x))
  end
  for i = 0, 255 do
    local s = i == 0 and 0 or power[(255 - log[i]) % 255]
    local r = s * 0x01010101  -- so that a rotation of 32 bits is one of 8
    s = band(0xff, bxor(s, lrotate(r, 1), lrotate(r, 2), lrotate(r, 3), lrotate(r, 4), 0x63))
    local s2 = times_2(s)
    sbox[i] = s
    te0[i] = s2 * 0x1000000 + s * 0x10100 + bxor(s, s2)
    te1[i], te2[i], te3[i] = lrotate(te0[i], 24), lrotate(te0[i], 16), lrotate(te0[i], 8)
  end
end
make_aes_tables()

local function sub_word(w)
  return bor(lshift(sbox[rshift(w, 24)], 24), lshift(sbox[extract(w, 16, 8)], 16),
             lshift(sbox[extract(w, 8, 8)], 8), sbox[band(w, 255)])
end

-- aes_schedule returns the round keys of a key of 16 or 32 octets, from index 0, and the rounds as n.
local function aes_schedule(key)
  local words = #key / 4
  local rounds = words + 6
  local w, rcon = {n = rounds}, 1
  for i = 0, words - 1 do w[i] = (unpack_words(">I4", key, 4 * i + 1)) end
  for i = words, 4 * rounds + 3 do
    local t = w[i - 1]
    if i % words == 0 then
      t = bxor(sub_word(lrotate(t, 8)), lshift(rcon, 24))
      rcon = times_2(rcon)
    elseif words == 8 and i % 8 == 4 then
      t = sub_word(t)
    end
    w[i] = bxor(w[i - words], t)
  end
  return w
end

-- aes_block enciphers one block of four big-endian words.
local function aes_block(w, a, b, c, d)
  a, b, c, d = bxor(a, w[0]), bxor(b, w[1]), bxor(c, w[2]), bxor(d, w[3])
  local last = 4 * w.n
  for k = 4, last - 4, 4 do
    a, b, c, d =
      bxor(te0[rshift(a, 24)], te1[extract(b, 16, 8)], te2[extract(c, 8, 8)], te3[band(d, 255)], w[k]),
      bxor(te0[rshift(b, 24)], te1[extract(c, 16, 8)], te2[extract(d, 8, 8)], te3[band(a, 255)], w[k + 1]),
      bxor(te0[rshift(c, 24)], te1[extract(d, 16, 8)], te2[extract(a, 8, 8)], te3[band(b, 255)], w[k + 2]),
      bxor(te0[rshift(d, 24)], te1[extract(a, 16, 8)], te2[extract(b, 8, 8)], te3[band(c, 255)], w[k + 3])
  end
  local function final(p, q, r, s, k)
    return bxor(bor(lshift(sbox[rshift(p, 24)], 24), lshift(sbox[extract(q, 16, 8)], 16),
                    lshift(sbox[extract(r, 8, 8)], 8), sbox[band(s, 255)]), w[k])
  end
  return final(a, b, c, d, last), final(b, c, d, a, last + 1),
         final(c, d, a, b, last + 2), final(d, a, b, c, last + 3)
end

-- What falls off the right end of GHASH's register, four bits at a time, comes back at the left.
local fold = {[0] = 0}
for i = 1, 15 do
  fold[i] = bxor(extract(i, 0) * 0x1c200000, extract(i, 1) * 0x38400000,
                 extract(i, 2) * 0x70800000, extract(i, 3) * 0xe1000000)
end

-- ghash_table returns the 16 multiples of H by four bits, as four columns of words.
local function ghash_table(a, b, c, d)
  local m = {{[0] = 0}, {[0] = 0}, {[0] = 0}, {[0] = 0}}
  for _, i in ipairs({8, 4, 2, 1}) do
    m[1][i], m[2][i], m[3][i], m[4][i] = a, b, c, d
    local carry = band(d, 1) == 1 and 0xe1000000 or 0
    a, b, c, d = bxor(rshift(a, 1), carry), bor(rshift(b, 1), lshift(a, 31)),
                 bor(rshift(c, 1), lshift(b, 31)), bor(rshift(d, 1), lshift(c, 31))
  end
  for i = 2, 8, 2 do
    if i ~= 6 then
      for j = 1, i - 1 do
        for column = 1, 4 do m[column][i + j] = bxor(m[column][i], m[column][j]) end
      end
    end
  end
  return m
end

-- ghash takes whole blocks of `text` into the state.
local function ghash(m, text, a, b, c, d)
  local m0, m1, m2, m3 = m[1], m[2], m[3], m[4]
  for at = 1, #text, 16 do
    local x0, x1, x2, x3 = unpack_words(">I4I4I4I4", text, at)
    local words = {bxor(d, x3), bxor(c, x2), bxor(b, x1), bxor(a, x0)}
    a, b, c, d = 0, 0, 0, 0
    for i = 1, 4 do
      local word = words[i]
      for shift = 0, 28, 4 do
        local nibble = extract(word, shift, 4)
        local out = fold[band(d, 15)]
        d = bxor(bor(rshift(d, 4), lshift(c, 28)), m3[nibble])
        c = bxor(bor(rshift(c, 4), lshift(b, 28)), m2[nibble])
        b = bxor(bor(rshift(b, 4), lshift(a, 28)), m1[nibble])
        a = bxor(rshift(a, 4), out, m0[nibble])
      end
    end
  end
  return a, b, c, d
end

local function pad_16(text)
  return #text % 16 == 0 and text or text .. string.rep("\0", 16 - #text % 16)
end

local function gcm_context(key)
  local w = aes_schedule(key)
  return {w = w, m = ghash_table(aes_block(w, 0, 0, 0, 0))}
end

-- gcm_open returns the plaintext, or nil when the tag is not the right one.
local function gcm_open(context, nonce, aad, text, tag)
  local n0, n1, n2 = unpack_words(">I4I4I4", nonce)
  local a, b, c, d = ghash(context.m, pad_16(aad), 0, 0, 0, 0)
  a, b, c, d = ghash(context.m, pad_16(text), a, b, c, d)
  a, b, c, d = ghash(context.m, pack(">I4I4I4I4", 0, #aad * 8, 0, #text * 8), a, b, c, d)
  local e, f, g, h = aes_block(context.w, n0, n1, n2, 1)
  if pack(">I4I4I4I4", bxor(a, e), bxor(b, f), bxor(c, g), bxor(d, h)) ~= tag then return nil end
  local padded, out = pad_16(text), {}
  for at = 1, #text, 16 do
    local x0, x1, x2, x3 = unpack_words(">I4I4I4I4", padded, at)
    e, f, g, h = aes_block(context.w, n0, n1, n2, 1 + (at + 15) / 16)
    out[#out + 1] = pack(">I4I4I4I4", bxor(x0, e), bxor(x1, f), bxor(x2, g), bxor(x3, h))
  end
  return table.concat(out):sub(1, #text)
end

-- cmac_block is AES-CMAC of exactly one block, which is all that key derivation needs.
local function cmac_block(w, block)
  local a, b, c, d = aes_block(w, 0, 0, 0, 0)
  local carry = extract(a, 31) * 0x87
  a, b, c, d = bor(lshift(a, 1), extract(b, 31)), bor(lshift(b, 1), extract(c, 31)),
               bor(lshift(c, 1), extract(d, 31)), bxor(lshift(d, 1), carry)
  local x0, x1, x2, x3 = unpack_words(">I4I4I4I4", block)
  return pack(">I4I4I4I4", aes_block(w, bxor(a, x0), bxor(b, x1), bxor(c, x2), bxor(d, x3)))
end

local key_size = {[0] = 16, [1] = 32, [2] = 16, [3] = 32}

local function derive_key(device_key, version, spi)
  local w, key = aes_schedule(device_key), ""
  for counter = 1, key_size[version] / 16 do
    key = key .. cmac_block(w, pack(">I4", counter) .. "Pv" .. version .. "\0" ..
                               pack(">I4I4", spi, key_size[version] * 8))
  end
  return key
end

local function from_hex(text)
  return (text:gsub("%x%x", function(octet) return string.char(tonumber(octet, 16)) end))
end

-- self_test compares with published answers: NIST's GCM test cases 4 and 16, and the key derivation
-- of the PSP specification. Wrong arithmetic must never look like a wrong packet.
local function self_test()
  local text = from_hex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72" ..
                        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39")
  local key = from_hex("feffe9928665731c6d6a8f9467308308")
  local nonce = from_hex("cafebabefacedbaddecaf888")
  local aad = from_hex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
  local sealed = {
    {key, "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e" ..
          "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091", "5bc94fbc3221a5db94fae95ae7121a47"},
    {key .. key, "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa" ..
          "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662", "76fc6ece0f4e1768cddf8853bb2d551b"}}
  for _, case in ipairs(sealed) do
    local context, tag = gcm_context(case[1]), from_hex(case[3])
    local wrong = tag:sub(1, 15) .. "\0"
    if gcm_open(context, nonce, aad, from_hex(case[2]), tag) ~= text or
       gcm_open(context, nonce, aad, from_hex(case[2]), wrong) then
      error("psp.lua: AES-GCM fails its known answers")
    end
  end
  local device_key = from_hex("34448a064292601b11a0978f56a2d34cf3fc35ede1a6bc04f8db3e5243a2b0ca")
  if derive_key(device_key, 0, 0x12345678) ~= from_hex("96c22dc799198090b74b70ae468e4e30") or
     derive_key(device_key, 1, 0x12345678) ~=
       from_hex("2b7d72074e42ca334487f2990e3f8c4037e436f38283449b76463e9b7fb2e3de") then
    error("psp.lua: key derivation fails its known answers")
  end
end
self_test()

-- Part 2: the key log -----------------------------------------------------------------------------

local key_log = {}

local function key_log_reset(path)
  key_log = {path = path, offset = 0, number = 0, marks = "", sa = {}, device = {[0] = {}, [1] = {}},
             contexts = {}, context_count = 0, opened = {}, opened_octets = 0}
end
key_log_reset("")

-- parse_address takes numbers only: Wireshark's own reader would ask name servers for anything else.
local function parse_address(text)
  local octets = {text:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$")}
  if #octets == 4 then
    for _, octet in ipairs(octets) do if tonumber(octet) > 255 then return nil end end
    return Address.ip(text)
  end
  local words = text:gsub(":%d+%.%d+%.%d+%.%d+$", ":0:0")
  local gap = words:match("::") ~= nil
  if not words:match("^[%x:]+$") or words:match("%x%x%x%x%x") or words:match(":::") or
     words:match("::.*::") or words:match("^:%x") or words:match("%x:$") then return nil end
  local _, count = words:gsub("%x+", "")
  if gap and count > 7 or not gap and count ~= 8 then return nil end
  return Address.ipv6(text)
end

-- key_log_line takes one line in; nil, or what is wrong with it (never what stands in it).
local function key_log_line(line, number)
  local label, rest = line:match("^%s*(PSP_%u[%u_]*)%s+(.*)$")
  if label ~= "PSP_SA" and label ~= "PSP_DEVICE_KEY" then return nil end
  local list, key, destination, size
  if label == "PSP_SA" then
    local version, spi
    version, spi, key, destination = rest:match("^([0-3])%s+(%x+)%s+(%x+)%s*(%S*)")
    if not version or #spi > 8 then return "not version, SPI and key" end
    local name = version .. string.format("%08x", tonumber(spi, 16))
    key_log.sa[name] = key_log.sa[name] or {}
    list, size = key_log.sa[name], key_size[tonumber(version)]
  else
    local index
    index, key, destination = rest:match("^([01])%s+(%x+)%s*(%S*)")
    if not index then return "not index and key" end
    list, size = key_log.device[tonumber(index)], 32
  end
  if #key ~= 2 * size then return "the key is not " .. 2 * size .. " hex digits" end
  local entry = {key = from_hex(key), derives = label == "PSP_DEVICE_KEY", source = label .. ", line " .. number}
  if destination ~= "" and destination ~= "-" then
    entry.destination = parse_address(destination)
    if not entry.destination then return "the destination is no IP address" end
  end
  list[#list + 1] = entry
end

-- key_log_marks returns the first and the last octets of the `offset` that were taken in.
local function key_log_marks(file, offset)
  local size = math.min(offset, 1024)
  file:seek("set", 0)
  local first = file:read(size) or ""
  file:seek("set", offset - size)
  return first .. (file:read(size) or "")
end

-- key_log_read takes in what the file has got since the last time: a live capture's log grows. A log
-- that does not begin or go on as it did is another one. Returns whether there was anything new.
local function key_log_read()
  if key_log.path == "" then return false end
  local file = io.open(key_log.path, "rb")
  local size = file and file:seek("end")
  if size and (size < key_log.offset or key_log_marks(file, key_log.offset) ~= key_log.marks) then
    key_log_reset(key_log.path)
  end
  key_log.problem = not size and "cannot be read" or key_log.wrong
  local new = size and size ~= key_log.size
  if new then
    key_log.size = size
    file:seek("set", key_log.offset)
    local text, at = file:read("*a") or "", 1
    while at <= #text do
      local stop = text:find("\n", at, true)
      local wrong = key_log_line(text:sub(at, (stop or #text + 1) - 1), key_log.number + 1)
      if wrong then
        key_log.wrong = "line " .. key_log.number + 1 .. ": " .. wrong
        key_log.problem = key_log.wrong
      end
      if not stop then break end  -- used as it is, and read again when there is more of it
      key_log.number = key_log.number + 1
      key_log.offset = key_log.offset + stop + 1 - at
      at = stop + 1
    end
  end
  if new then key_log.marks = key_log_marks(file, key_log.offset) end
  if file then file:close() end
  return new
end

-- context_of returns the ready tables of an SA's key. They are kept, but not without bound: whoever
-- sends packets can invent any number of SPIs.
local function context_of(entry, version, spi)
  local name = entry.derives and entry.key .. version .. string.format("%08x", spi) or entry.key
  local context = key_log.contexts[name]
  if not context then
    if key_log.context_count >= 4096 then key_log.contexts, key_log.context_count = {}, 0 end
    context = gcm_context(entry.derives and derive_key(entry.key, version, spi) or entry.key)
    key_log.contexts[name], key_log.context_count = context, key_log.context_count + 1
  end
  return context
end

-- candidates returns the log's keys for an SA: its own lines, or else those of its device key.
local function candidates(version, spi, destination)
  local found = {}
  local function take(list)
    for _, entry in ipairs(list or {}) do
      if not entry.destination or entry.destination == destination then found[#found + 1] = entry end
    end
  end
  take(key_log.sa[version .. string.format("%08x", spi)])
  if #found == 0 then take(key_log.device[rshift(spi, 31)]) end
  return found
end

local kCacheOctets, kCacheEntry = 64 * 1024 * 1024, 256

-- open_packet returns "good", payload and source of the key; "bad" when no key fits; "none" without a key.
-- Wireshark dissects a packet again and again, so what was found is kept.
local function open_packet(frame, version, spi, destination, header, clear, sealed, icv)
  local name = frame .. ":" .. header .. icv
  local function try()
    local keys = candidates(version, spi, destination)
    for _, entry in ipairs(keys) do
      local context = context_of(entry, version, spi)
      local plain = gcm_open(context, header:sub(5, 16), header .. clear, sealed, icv)
      if plain then return {"good", plain, entry.source} end
    end
    return {#keys == 0 and "none" or "bad"}
  end
  local result = key_log.opened[name]
  if result and (result[1] == "good" or not key_log_read()) then return result[1], result[2], result[3] end
  result = try()
  if result[1] ~= "good" and key_log_read() then result = try() end
  if result[1] == "none" then return "none" end
  local octets = #name + #sealed + kCacheEntry
  key_log.opened_octets = key_log.opened_octets + octets
  if key_log.opened_octets > kCacheOctets then
    key_log.opened, key_log.opened_octets = {}, octets
  end
  key_log.opened[name] = result
  return result[1], result[2], result[3]
end

-- Part 3: fields ----------------------------------------------------------------------------------

local psp = Proto("psp", "PSP Security Protocol")
local kPort, kBaseHeader, kIcv = 1000, 16, 16
local kVersions = {[0] = "AES-GCM-128", [1] = "AES-GCM-256", [2] = "AES-GMAC-128", [3] = "AES-GMAC-256"}
local kProtocols = {[1] = "ICMP", [4] = "IPv4 (tunnel)", [6] = "TCP", [17] = "UDP", [41] = "IPv6 (tunnel)",
                    [58] = "ICMPv6", [60] = "IPv6 destination options", [132] = "SCTP"}
local kTunnel = {[4] = "ip", [41] = "ipv6"}
local kStatus = {[0] = "Bad", [1] = "Good", [2] = "Unverified"}

psp.prefs.keylog = Pref.string("Key log", "",
  "PSP key log file with the keys of this capture. Empty: the environment variable PSP_KEYLOG")
psp.prefs.claim_all = Pref.bool("Show packets that cannot be PSP", false,
  "Take every packet to UDP port 1000 for PSP and say what is wrong with it, instead of leaving it to others")

local f = {
  next_header = ProtoField.uint8("psp.next_header", "Next Header", base.DEC, kProtocols),
  hdr_ext_len = ProtoField.uint8("psp.hdr_ext_len", "Hdr Ext Len", base.DEC),
  header_length = ProtoField.uint16("psp.header_length", "Header length, octets", base.DEC),
  reserved = ProtoField.uint8("psp.reserved", "Reserved", base.HEX, nil, 0xc0),
  crypt_offset = ProtoField.uint8("psp.crypt_offset", "Crypt Offset, in 4 octets", base.DEC, nil, 0x3f),
  clear_length = ProtoField.uint16("psp.clear_length", "In clear behind the IV, octets", base.DEC),
  flags = ProtoField.uint8("psp.flags", "Flags and version", base.HEX),
  sample = ProtoField.bool("psp.sample", "S: sample at receiver", 8, nil, 0x80),
  drop = ProtoField.bool("psp.drop", "D: drop after sampling", 8, nil, 0x40),
  version = ProtoField.uint8("psp.version", "Version", base.DEC, kVersions, 0x3c),
  has_vc = ProtoField.bool("psp.has_vc", "V: virtualization cookie", 8, nil, 0x02),
  one = ProtoField.bool("psp.one", "Always one", 8, nil, 0x01),
  spi = ProtoField.uint32("psp.spi", "SPI", base.HEX),
  phase = ProtoField.uint32("psp.phase", "Device key (phase)", base.DEC, nil, 0x80000000),
  iv = ProtoField.uint64("psp.iv", "IV", base.HEX),
  vc = ProtoField.uint64("psp.vc", "Virtualization Cookie", base.HEX),
  extension = ProtoField.bytes("psp.extension", "Further extension"),
  clear = ProtoField.bytes("psp.clear", "Part in clear"),
  encrypted = ProtoField.bytes("psp.encrypted", "Encrypted part"),
  payload = ProtoField.bytes("psp.payload", "Inner packet"),
  icv = ProtoField.bytes("psp.icv", "ICV"),
  status = ProtoField.uint8("psp.icv.status", "ICV status", base.DEC, kStatus),
  key = ProtoField.string("psp.key", "Key from"),
  datagram = ProtoField.uint16("psp.datagram", "Datagram in this packet", base.DEC),
  datagrams = ProtoField.uint16("psp.datagrams", "Datagrams in this packet", base.DEC),
}
psp.fields = f

local function problem(name, text, severity)
  local group = name == "icv_bad" and expert.group.CHECKSUM or expert.group.MALFORMED
  return ProtoExpert.new("psp." .. name, text, group, severity or expert.severity.ERROR)
end
local e = {
  short = problem("short", "Too short for a PSP header and an ICV"),
  one = problem("one_is_zero", "The bit that is always one is zero"),
  version = problem("bad_version", "Reserved version"),
  header = problem("bad_header_length", "Hdr Ext Len 0: the header would end before its IV"),
  length = problem("beyond_end", "Header and ICV do not fit into the packet"),
  next_header = problem("bad_next_header", "Next Header is not assigned to any protocol"),
  no_room = problem("vc_without_room", "V is set, but Hdr Ext Len leaves no room for the cookie"),
  offset = problem("bad_crypt_offset", "Crypt Offset lies beyond the ICV"),
  spi = problem("bad_spi", "Reserved SPI: its low 31 bits are zero"),
  icv = problem("icv_bad", "ICV does not match"),
  inner = problem("bad_inner", "Inside the tunnel is no IP packet of this family and length"),
  malformed = problem("inner_malformed", "The inner packet is malformed or cut short", expert.severity.NOTE),
  reserved = problem("reserved_bits", "Reserved bits are set", expert.severity.WARN),
  gmac = problem("gmac_offset", "Crypt Offset is reserved in GMAC versions: ignored", expert.severity.NOTE),
  joined = problem("joined", "Several datagrams as one packet: by the offloads of the host that captured them",
                   expert.severity.NOTE),
  cut = problem("cut", "Cut short by the capture: not opened", expert.severity.NOTE),
  key_log = problem("key_log", "The key log", expert.severity.WARN),
}
psp.experts = e

local function key_log_start()
  local path = psp.prefs.keylog
  key_log_reset(path ~= "" and path or os.getenv("PSP_KEYLOG") or "")
  key_log_read()
end
psp.init = key_log_start
psp.prefs_changed = key_log_start

-- Part 4: the dissector ---------------------------------------------------------------------------

-- IANA has given out 0 to 147; 253 and 254 are for experiments.
local function assigned(protocol) return protocol <= 147 or protocol == 253 or protocol == 254 end

-- not_psp lists what no PSP packet can have. An empty list: it may be claimed.
local function not_psp(tvb)
  local length = tvb:reported_len()
  if length < kBaseHeader + kIcv or tvb:len() < kBaseHeader then return {e.short} end
  local wrong, flags, ext = {}, tvb(3, 1):uint(), tvb(1, 1):uint()
  if band(flags, 1) == 0 then wrong[#wrong + 1] = e.one end
  if extract(flags, 2, 4) > 3 then wrong[#wrong + 1] = e.version end
  if ext == 0 then wrong[#wrong + 1] = e.header
  elseif 8 * (ext + 1) + kIcv > length then wrong[#wrong + 1] = e.length end
  if not assigned(tvb(0, 1):uint()) then wrong[#wrong + 1] = e.next_header end
  return wrong
end

-- read_header returns the values in the first 16 octets.
local function read_header(tvb)
  local h = {next_header = tvb(0, 1):uint(), ext = tvb(1, 1):uint(), spi = tvb(4, 4):uint(),
             offset = band(tvb(2, 1):uint(), 0x3f), flags = tvb(3, 1):uint()}
  h.length, h.version, h.has_vc = 8 * (h.ext + 1), extract(h.flags, 2, 4), band(h.flags, 2) ~= 0
  h.gmac = h.version == 2 or h.version == 3
  return h
end

-- header_tree shows the first 16 octets; returns their values. add(expert) makes a remark on the tree.
local function header_tree(tvb, tree, add)
  local h = read_header(tvb)
  tree:add(f.next_header, tvb(0, 1))
  tree:add(f.hdr_ext_len, tvb(1, 1))
  tree:add(f.header_length, tvb(1, 1), h.length):set_generated()
  tree:add(f.reserved, tvb(2, 1))
  tree:add(f.crypt_offset, tvb(2, 1))
  local flags = tree:add(f.flags, tvb(3, 1))
  for _, name in ipairs({"sample", "drop", "version", "has_vc", "one"}) do flags:add(f[name], tvb(3, 1)) end
  local spi = tree:add(f.spi, tvb(4, 4))
  spi:add(f.phase, tvb(4, 4))
  tree:add(f.iv, tvb(8, 8))
  if tvb(2, 1):uint() >= 0x40 then add(e.reserved) end
  if h.gmac and h.offset > 0 then add(e.gmac) end
  if band(h.spi, 0x7fffffff) == 0 then add(e.spi) end
  return h
end

-- extension_tree shows what stands between IV and inner packet; `range` returns a range of the payload.
local function extension_tree(h, tree, range)
  local at = 0
  if h.has_vc then
    tree:add(f.vc, range(0, 8))
    at = 8
  end
  if h.length - kBaseHeader > at then
    tree:add(f.extension, range(at, h.length - kBaseHeader - at))
  end
end

-- tunnel_fit: 0 if what was authenticated is no IP packet of the named family, 1 if its length is wrong, else 2.
local function tunnel_fit(next_header, inner)
  local length, family = inner:len(), extract(inner(0, 1):uint(), 4, 4)
  if next_header == 4 then
    if length < 20 or family ~= 4 then return 0 end
    return inner(2, 2):uint() == length and 2 or 1
  end
  if length < 40 or family ~= 6 then return 0 end
  return inner(4, 2):uint() + 40 == length and 2 or 1
end

-- inner_packet hands the inner packet to its dissector.
local function inner_packet(h, inner, pinfo, root, tree, add)
  tree:add(f.payload, inner())
  local name = kTunnel[h.next_header]
  local fit = name and tunnel_fit(h.next_header, inner) or 2
  if fit < 2 then add(e.inner) end
  if fit == 0 then return end
  local ok, taken = pcall(function()
    if name then return Dissector.get(name):call(inner, pinfo, root) end
    return DissectorTable.get("ip.proto"):try(h.next_header, inner, pinfo, root)
  end)
  if not ok then add(e.malformed)
  elseif taken == 0 then Dissector.get("data"):call(inner, pinfo, root) end
end

-- sealed_tree shows a packet that is not opened: what is in clear, and the rest.
local function sealed_tree(h, tvb, tree, clear, sealed)
  local extension = h.length - kBaseHeader
  if clear >= extension then
    extension_tree(h, tree, function(at, size) return tvb(kBaseHeader + at, size) end)
  end
  if clear > 0 then tree:add(f.clear, tvb(kBaseHeader, clear)) end
  if sealed > 0 then tree:add(f.encrypted, tvb(kBaseHeader + clear, sealed)) end
end

-- clear_size is how many octets behind the IV are in clear.
local function clear_size(h, tvb)
  return h.gmac and tvb:len() - kBaseHeader - kIcv or 4 * h.offset
end

-- open_datagram is open_packet for the datagram in tvb.
local function open_datagram(h, tvb, pinfo)
  local size, clear = tvb:len() - kBaseHeader - kIcv, clear_size(h, tvb)
  return open_packet(pinfo.number, h.version, h.spi, pinfo.dst, tvb:raw(0, kBaseHeader),
                     tvb:raw(kBaseHeader, clear), tvb:raw(kBaseHeader + clear, size - clear),
                     tvb:raw(kBaseHeader + size, kIcv))
end

-- body shows what is behind the IV: opened if there is a key, or if there is nothing to decrypt.
local function body(h, tvb, pinfo, root, tree, add)
  local size, clear = tvb:len() - kBaseHeader - kIcv, clear_size(h, tvb)
  tree:add(f.clear_length, tvb(2, 1), clear):set_generated()
  local clear_text, icv = tvb:raw(kBaseHeader, clear), tvb(kBaseHeader + size, kIcv)
  local state, plain, source = open_datagram(h, tvb, pinfo)
  local icv_item = tree:add(f.icv, icv)
  local status = icv_item:add(f.status, icv, state == "good" and 1 or state == "bad" and 0 or 2)
  status:set_generated()
  if source then icv_item:add(f.key, icv, source):set_generated() end
  if state == "bad" then add(e.icv) end
  if state == "none" and key_log.problem then add(e.key_log, "The key log: " .. key_log.problem) end
  if state == "bad" or (state == "none" and clear < size) then
    sealed_tree(h, tvb, tree, clear, size - clear)
    return
  end
  local whole, first = tvb, kBaseHeader  -- nothing was encrypted: ranges of the packet itself
  if clear < size then
    whole, first = ByteArray.new(clear_text .. plain, true):tvb("Decrypted PSP"), 0
  end
  extension_tree(h, tree, function(at, octets) return whole(first + at, octets) end)
  local extension = h.length - kBaseHeader
  if size > extension then
    inner_packet(h, whole(first + extension, size - extension):tvb(), pinfo, root, tree, add)
  elseif kTunnel[h.next_header] then
    add(e.inner)
  end
end

local function summary(tvb)
  local version = extract(tvb(3, 1):uint(), 2, 4)
  return string.format("PSP %s, SPI 0x%08x, IV 0x%s", kVersions[version] or "version " .. version,
                       tvb(4, 4):uint(), tostring(tvb(8, 8):bytes()):lower())
end

-- Datagrams in one packet, told apart as psp-pcap does (src/pcap/joined.cc). Offsets count from 0.

-- marks is how much the header at `at` is like the first: 0 if it is none of the kind, 3 at most.
local function marks(text, at)
  if text:sub(at + 1, at + 3) ~= text:sub(1, 3) or
     band(bxor(text:byte(at + 4), text:byte(4)), 0x3f) ~= 0 then return 0 end
  return 1 + (text:sub(at + 5, at + 8) == text:sub(5, 8) and 1 or 0) +
             (text:sub(at + 9, at + 12) == text:sub(9, 12) and 1 or 0)
end

-- fits: most steps lead to such a header, and the last datagram has the least octets that it must.
local function fits(text, stride, least)
  if stride < least or (#text - 1) % stride + 1 < least then return false end
  local steps, like, all = 0, 0, 0
  for at = stride, #text - 1, stride do
    local found = marks(text, at)
    steps, like, all = steps + 1, like + (found > 0 and 1 or 0), all + found
  end
  return 2 * like > steps and all >= 2
end

-- joined_stride returns the length of the datagrams in tvb; nil if it looks like one.
local function joined_stride(tvb)
  local text, least = tvb:raw(), 8 * (tvb(1, 1):uint() + 1) + kIcv
  local at = text:find(text:sub(1, 3), least + 1, true)
  while at and at - 1 + least <= #text do
    for parts = 3, 1, -1 do
      local stride = (at - 1) / parts
      if stride == math.floor(stride) and fits(text, stride, least) then return stride end
    end
    at = text:find(text:sub(1, 3), at + 1, true)
  end
end

-- is_one: the ICV says that tvb is one datagram, whatever it looks like.
local function is_one(tvb, pinfo, stride)
  local function opens(range)
    local h = read_header(range)
    if kBaseHeader + clear_size(h, range) + kIcv > range:len() then return "bad" end
    return (open_datagram(h, range, pinfo))
  end
  return opens(tvb(0, stride):tvb()) == "bad" and opens(tvb) == "good"
end

-- datagram shows one datagram: `wrong` is what not_psp says of it, `part` of `parts` which one it is.
local function datagram(tvb, pinfo, root, wrong, part, parts)
  local tree = root:add(psp, tvb())
  local function add(what, text)
    if text then tree:add_proto_expert_info(what, text) else tree:add_proto_expert_info(what) end
  end
  for _, what in ipairs(wrong) do add(what) end
  if tvb:len() < kBaseHeader then return end
  pinfo.cols.info = summary(tvb)
  tree:append_text(": " .. summary(tvb))
  if parts > 1 then
    tree:add(f.datagram, part):set_generated()
    tree:add(f.datagrams, parts):set_generated()
    if part == 1 then add(e.joined) end
  end
  local h = header_tree(tvb, tree, add)
  if #wrong > 0 then return end
  local fine = true
  if h.has_vc and h.ext < 2 then fine = false add(e.no_room) end
  if not h.gmac and kBaseHeader + 4 * h.offset + kIcv > tvb:reported_len() then fine = false add(e.offset) end
  if tvb:len() < tvb:reported_len() then fine = false add(e.cut) end
  if fine then body(h, tvb, pinfo, root, tree, add) end
end

function psp.dissector(tvb, pinfo, root)
  if pinfo.dst_port ~= kPort then return 0 end
  local wrong = not_psp(tvb)
  if #wrong > 0 and not psp.prefs.claim_all then return 0 end
  pinfo.cols.protocol = "PSP"
  local whole = #wrong == 0 and tvb:len() == tvb:reported_len()
  local stride = whole and joined_stride(tvb)
  if not stride or is_one(tvb, pinfo, stride) then
    datagram(tvb, pinfo, root, wrong, 1, 1)
    return tvb:len()
  end
  local parts = math.ceil(tvb:len() / stride)
  for part = 1, parts do
    local at = (part - 1) * stride
    local one = tvb(at, math.min(stride, tvb:len() - at)):tvb()
    datagram(one, pinfo, root, not_psp(one), part, parts)
  end
  return tvb:len()
end

DissectorTable.get("udp.port"):add(kPort, psp)
-- Wireshark asks the lower port first: with a source port below 1000 that somebody else has, only
-- the preference udp.try_heuristic_first brings a packet here.
psp:register_heuristic("udp", function(tvb, pinfo, root)
  return pinfo.dst_port == kPort and #not_psp(tvb) == 0 and psp.dissector(tvb, pinfo, root) > 0
end)
