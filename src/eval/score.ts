/** Right or wrong, by text: RULER's recall of expected strings. */

/**
 * Points from 0 to 100: the share of the expected texts that occur in the answer, letter case
 * aside. Null where nothing is expected.
 */
export function recallScore(answer: string, expected: readonly string[]): number | null {
  if (expected.length === 0) return null;
  const said = answer.toLowerCase();
  const found = expected.filter((text) => said.includes(text.toLowerCase())).length;
  return (100 * found) / expected.length;
}
