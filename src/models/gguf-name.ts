/** Keys and tensor names of a GGUF file: length, then UTF-8. */
import type { HeaderReader } from './header-reader.js';
import { formatError } from './model-error.js';

export function readName(reader: HeaderReader, where: string, bytesMax: number): string {
  const offset = reader.position;
  const length = reader.count(`length of ${where}`);
  if (length === 0 || length > bytesMax) {
    throw formatError({
      file: reader.path,
      where: `length of ${where}`,
      offset,
      expected: `1 to ${bytesMax} bytes`,
      found: String(length),
    });
  }
  return reader.text(length, where);
}
