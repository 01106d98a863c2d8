/** The functions and constants that chat templates find, as transformers' sandbox offers them. */

/** The sandbox's limit; the template library's own range builds lists of any length. */
const RANGE_MAX = 100_000;

const MONTHS = [
  'January',
  'February',
  'March',
  'April',
  'May',
  'June',
  'July',
  'August',
  'September',
  'October',
  'November',
  'December',
];
const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];

export const TEMPLATE_GLOBALS: Readonly<Record<string, unknown>> = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  raise_exception(message: unknown): never {
    throw new Error(String(message));
  },
  range,
  strftime_now: (format: unknown) => strftime(new Date(), String(format)),
};

/** Python's range as a list. */
function range(...bounds: unknown[]): number[] {
  // Keyword arguments, which range does not have, arrive as one more object.
  const numbers = bounds.filter((bound): bound is number => typeof bound === 'number');
  const [start, end] = numbers.length < 2 ? [0, numbers[0] ?? 0] : [numbers[0]!, numbers[1]!];
  const step = numbers[2] ?? 1;
  if (step === 0) throw new Error('range(): expected a step other than 0');
  const length = Math.max(0, Math.ceil((end - start) / step));
  if (length > RANGE_MAX) {
    throw new Error(`range(): expected at most ${RANGE_MAX} numbers, found ${length}`);
  }
  return Array.from({ length }, (_, i) => start + i * step);
}

const pad = (value: number, width = 2): string => String(value).padStart(width, '0');

const FIELDS: Readonly<Record<string, (date: Date) => string>> = {
  Y: (date) => String(date.getFullYear()),
  y: (date) => pad(date.getFullYear() % 100),
  m: (date) => pad(date.getMonth() + 1),
  d: (date) => pad(date.getDate()),
  B: (date) => MONTHS[date.getMonth()]!,
  b: (date) => MONTHS[date.getMonth()]!.slice(0, 3),
  A: (date) => DAYS[date.getDay()]!,
  a: (date) => DAYS[date.getDay()]!.slice(0, 3),
  H: (date) => pad(date.getHours()),
  I: (date) => pad(date.getHours() % 12 || 12),
  M: (date) => pad(date.getMinutes()),
  S: (date) => pad(date.getSeconds()),
  p: (date) => (date.getHours() < 12 ? 'AM' : 'PM'),
  '%': () => '%',
};

/** Python's strftime in the C locale, local time; unknown fields stay as they are. */
export function strftime(date: Date, format: string): string {
  return format.replace(/%(-?)(.)/gs, (whole: string, dash: string, field: string) => {
    const text = FIELDS[field]?.(date);
    if (text === undefined) return whole;
    return dash === '' ? text : text.replace(/^0+(?=\d)/, '');
  });
}
