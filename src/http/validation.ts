/**
 * Checks request bodies against TypeBox schemas. Every schema node carries a `description` that
 * says what is expected there; a failure becomes one ERR_INVALID_REQUEST that names the field,
 * what was expected and what came.
 */
import type { Static, TObject, TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import { EngineError } from '../errors.js';

/** Nesting of free-form values (messages, template arguments) that templates may recurse into. */
const NESTING_MAX = 100;
const RECEIVED_CHARS_MAX = 40;

export type BodyParser<Schema extends TSchema> = (body: unknown) => Static<Schema>;

/**
 * Compiles a parser for one body schema. Null is taken as "not given" for top-level fields, as
 * OpenAI's clients send it; unknown fields pass through untouched.
 */
export function bodyParser<Schema extends TObject>(schema: Schema): BodyParser<Schema> {
  const validator = Compile(schema);
  return (body) => {
    if (typeof body !== 'object' || body === null || Array.isArray(body)) {
      throw invalid('body', 'a JSON object', body);
    }
    const fields = Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null));
    if (validator.Check(fields)) return fields;
    throw describeFailure(schema, fields, validator.Errors(fields)[0]);
  };
}

/** `"field": expected …, received …` as a 400. */
export function invalid(field: string, expected: string, received: unknown): EngineError {
  return new EngineError(
    'ERR_INVALID_REQUEST',
    `${field}: expected ${expected}, received ${describeValue(received)}`,
    { param: field },
  );
}

/** Refuses values nested deeper than recursive readers can stand. Iterative itself. */
export function checkNesting(field: string, value: unknown): void {
  let level: unknown[] = [value];
  for (let depth = 0; level.length > 0; depth += 1) {
    if (depth > NESTING_MAX) {
      throw new EngineError(
        'ERR_INVALID_REQUEST',
        `${field}: expected at most ${NESTING_MAX} levels of nesting, received more`,
        { param: field },
      );
    }
    level = level.flatMap((item) =>
      typeof item === 'object' && item !== null ? Object.values(item) : [],
    );
  }
}

interface Failure {
  keyword: string;
  instancePath: string;
  params: object;
}

function describeFailure(
  schema: TSchema,
  fields: Record<string, unknown>,
  failure: Failure | undefined,
): EngineError {
  const path = (failure?.instancePath ?? '').split('/').slice(1).map(unescapePointer);
  if (failure?.keyword === 'required') {
    const missing = (failure.params as { requiredProperties?: string[] }).requiredProperties;
    path.push(missing?.[0] ?? '');
  }
  let node: SchemaNode = schema;
  let value: unknown = fields;
  let name = '';
  let expected = 'a JSON object';
  for (const key of path) {
    // Keys of free-form objects are the client's: they are quoted, not echoed at any length.
    const child = childSchema(node, key);
    // Below a union the failing branch is a guess: the union's own words are the better answer.
    if (child === undefined) break;
    node = child;
    value = (value as Record<string, unknown> | undefined)?.[key];
    const shown = key.slice(0, RECEIVED_CHARS_MAX);
    name = /^\d+$/.test(key) ? `${name}[${shown}]` : name === '' ? shown : `${name}.${shown}`;
    expected = node.description ?? expected;
  }
  return invalid(name === '' ? 'body' : name, expected, value);
}

type SchemaNode = {
  description?: string;
  properties?: Record<string, SchemaNode>;
  items?: SchemaNode;
  patternProperties?: Record<string, SchemaNode>;
};

function childSchema(node: SchemaNode, key: string): SchemaNode | undefined {
  if (node.properties && Object.hasOwn(node.properties, key)) return node.properties[key];
  if (node.items) return node.items;
  if (node.patternProperties) return Object.values(node.patternProperties)[0];
  return undefined;
}

function unescapePointer(part: string): string {
  return part.replaceAll('~1', '/').replaceAll('~0', '~');
}

function describeValue(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  if (Array.isArray(value)) {
    return value.length === 0 ? 'an empty array' : `an array of ${value.length}`;
  }
  if (typeof value === 'object') return 'an object';
  if (typeof value === 'string') {
    const short = value.slice(0, RECEIVED_CHARS_MAX);
    return `${JSON.stringify(short)}${short.length < value.length ? '…' : ''} (string)`;
  }
  return `${String(value)} (${typeof value})`;
}
