/** JSON files of a model folder, with typed access whose refusals name file and field. */
import { readFileSync } from 'node:fs';
import { formatError, shown, unavailable } from './model-error.js';

export type JsonRecord = { [key: string]: unknown };

export function isRecord(value: unknown): value is JsonRecord {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Throws ERR_MODEL_UNAVAILABLE when the file cannot be read, ERR_MODEL_FORMAT when it is not JSON. */
export function readJson(path: string): unknown {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw unavailable(`${path}: cannot be read: ${(error as Error).message}`, error);
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw formatError({
      file: path,
      where: 'file',
      expected: 'JSON',
      found: (error as Error).message,
    });
  }
}

/** One object of a JSON file. null counts as absent everywhere, as Hugging Face files mean it. */
export class JsonFields {
  readonly file: string;
  private readonly prefix: string;
  private readonly record: JsonRecord;

  constructor(file: string, record: JsonRecord, prefix = '') {
    this.file = file;
    this.record = record;
    this.prefix = prefix;
  }

  static read(path: string): JsonFields {
    const json = readJson(path);
    if (isRecord(json)) return new JsonFields(path, json);
    throw formatError({ file: path, where: 'file', expected: 'a JSON object', found: shown(json) });
  }

  get(key: string): unknown {
    return Object.hasOwn(this.record, key) ? (this.record[key] ?? undefined) : undefined;
  }

  /** True also where the value is null: some defaults apply to absent keys only. */
  has(key: string): boolean {
    return Object.hasOwn(this.record, key);
  }

  fault(key: string, expected: string): never {
    const value = this.get(key);
    const found = value === undefined ? 'none' : isRecord(value) ? 'an object' : shown(value);
    throw formatError({ file: this.file, where: this.prefix + key, expected, found });
  }

  text(key: string): string | undefined {
    const value = this.get(key);
    if (value === undefined || typeof value === 'string') return value;
    return this.fault(key, 'a string');
  }

  flag(key: string): boolean | undefined {
    const value = this.get(key);
    if (value === undefined || typeof value === 'boolean') return value;
    return this.fault(key, 'true or false');
  }

  number(key: string): number | undefined {
    const value = this.get(key);
    if (value === undefined || (typeof value === 'number' && Number.isFinite(value))) return value;
    return this.fault(key, 'a finite number');
  }

  integer(key: string, min: number, max = 0x7fff_ffff): number | undefined {
    const value = this.get(key);
    if (value === undefined) return undefined;
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) {
      return value;
    }
    return this.fault(key, `a whole number from ${min} to ${max}`);
  }

  requireInteger(key: string, min: number, max?: number): number {
    return this.integer(key, min, max) ?? this.fault(key, 'a whole number');
  }

  list(key: string): unknown[] | undefined {
    const value = this.get(key);
    if (value === undefined || Array.isArray(value)) return value;
    return this.fault(key, 'a list');
  }

  child(key: string): JsonFields | undefined {
    const value = this.get(key);
    if (value === undefined) return undefined;
    if (isRecord(value)) return new JsonFields(this.file, value, `${this.prefix}${key}.`);
    return this.fault(key, 'an object');
  }
}
