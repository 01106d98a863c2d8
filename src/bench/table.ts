/** Tables for terminals and for Markdown. */

/** Columns padded to their widest cell; the first is flush left, the others flush right. */
export function textTable(rows: ReadonlyArray<readonly string[]>): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  }
  return rows
    .map((row) =>
      row
        .map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** The first row is the header. */
export function markdownTable(rows: ReadonlyArray<readonly string[]>): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  const [header, ...rest] = rows as [readonly string[], ...string[][]];
  const rule = header.map((_, i) => (i === 0 ? '---' : '---:'));
  return [header, rule, ...rest].map(line).join('\n');
}

/** Three significant digits, no exponent: 12,345 / 1,234 / 123 / 12.3 / 1.23. */
export function shortNumber(value: number): string {
  const size = Math.abs(value);
  const digits = size >= 100 ? 0 : size >= 10 ? 1 : 2;
  return value.toLocaleString('en-US', {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

export function percentText(share: number | null): string {
  return share === null ? 'unknown' : `${(share * 100).toFixed(0)} %`;
}
