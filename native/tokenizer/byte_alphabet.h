// The GPT-2 byte alphabet: byte-level BPE vocabularies spell each byte as one printable character.
// Bytes 0x21-0x7E, 0xA1-0xAC and 0xAE-0xFF stand for themselves; the other 68, in order, are
// U+0100, U+0101, ... (so a space is U+0120).
#pragma once

#include <string>
#include <string_view>

namespace longhaul {

// Appends the bytes `token` spells to `out`; false (out unchanged) when one of its characters is
// not of the alphabet.
bool decode_byte_alphabet(std::string_view token, std::string& out);

}  // namespace longhaul
