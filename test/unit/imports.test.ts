/** Holds the import directions of docs/architecture.md against the code. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');
const src = join(root, 'src');

const LEAVES = ['errors.ts', 'types.ts', 'config.ts', 'log.ts'];
const ALLOWED: Record<string, readonly string[]> = {
  cli: ['bench', 'http', 'engine', 'kv', 'tokenizer', 'models', 'binding', 'metrics', 'eval'],
  bench: ['engine', 'models', 'binding'],
  eval: ['bench', 'engine', 'models', 'binding', 'tokenizer'],
  http: ['engine', 'tokenizer', 'metrics'],
  tokenizer: ['binding', 'models'],
  engine: ['kv', 'binding'],
  kv: [],
  models: ['binding'],
  binding: [],
  metrics: ['engine'],
};
/** Type-only imports of a room's vocabulary are free of run-time coupling. */
const VOCABULARY = [
  'engine/engine-types.ts',
  'tokenizer/tokenizer-types.ts',
  'models/model-types.ts',
];

function importsOf(file: string): string[] {
  const text = readFileSync(file, 'utf8');
  return [...text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)].map((match) =>
    relative(src, resolve(dirname(file), match[1] as string)).replace(/\.js$/, '.ts'),
  );
}

t.test('imports go in one direction', async (t) => {
  const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter((f) =>
    f.endsWith('.ts'),
  );
  t.ok(files.length > 30, 'the tree was found');
  for (const file of files) {
    const room = file.includes('/') ? (file.split('/')[0] as string) : null;
    for (const target of importsOf(join(src, file))) {
      if (LEAVES.includes(target) || VOCABULARY.includes(target)) continue;
      if (room === null) {
        t.fail(`${file} is a leaf but imports ${target}`);
        continue;
      }
      const targetRoom = target.split('/')[0] as string;
      const fine = targetRoom === room || ALLOWED[room]?.includes(targetRoom);
      if (!fine) t.fail(`${file} imports ${target}: ${room} may not import ${targetRoom}`);
    }
  }
});

t.test('no import cycles between files', async (t) => {
  const graph = new Map<string, string[]>();
  for (const file of readdirSync(src, { recursive: true, encoding: 'utf8' })) {
    if (file.endsWith('.ts')) graph.set(file, importsOf(join(src, file)));
  }
  const done = new Set<string>();
  const walk = (file: string, path: string[]): void => {
    if (path.includes(file)) {
      t.fail(`cycle: ${[...path.slice(path.indexOf(file)), file].join(' → ')}`);
      return;
    }
    if (done.has(file)) return;
    for (const next of graph.get(file) ?? []) walk(next, [...path, file]);
    done.add(file);
  };
  for (const file of graph.keys()) walk(file, []);
});

t.test('commands that serve nothing load no HTTP stack', async (t) => {
  /** Follows the imports that run at load time; types vanish and import() waits. */
  const reached = new Set<string>();
  const packages = new Set<string>();
  const follow = (file: string): void => {
    if (reached.has(file)) return;
    reached.add(file);
    const text = readFileSync(join(src, file), 'utf8');
    for (const [, type, target] of text.matchAll(/^(?:import|export) (type )?[^;]*?'([^']+)';/gm)) {
      if (type !== undefined) continue;
      if (!target!.startsWith('.')) packages.add(target!);
      else follow(relative(src, resolve(src, dirname(file), target!)).replace(/\.js$/, '.ts'));
    }
  };
  for (const file of ['main', 'doctor', 'pull']) follow(join('cli', `${file}.ts`));
  t.ok(reached.has('models/pull-hub.ts') && packages.has('commander'), 'imports are followed');
  const http = [...reached].filter((file) => file.startsWith('http/'));
  t.same(http, ['http/version.ts'], 'which only reads package.json');
  for (const heavy of ['fastify', 'typebox', 'typebox/compile', 'undici', '@huggingface/hub']) {
    t.notOk(packages.has(heavy), heavy);
  }
});
