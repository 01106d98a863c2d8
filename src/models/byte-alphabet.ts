/**
 * The printable stand-ins of byte-level BPE (Radford et al. 2019): each byte is one visible
 * character, so that a vocabulary is plain text. Bytes that are printable in Latin-1 stand for
 * themselves, the others take the code points from 256 on.
 */
export const BYTE_CHARACTERS: readonly string[] = buildAlphabet();

function buildAlphabet(): string[] {
  const characters: string[] = [];
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const visible = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    characters.push(String.fromCharCode(visible ? byte : next++));
  }
  return characters;
}
