/**
 * Resident memory of a server: one copy of the weights, what is used of the K/V pool, and at most
 * 300 MB besides, at its peak while loading and after work of every kind that takes scratch memory.
 * The model is large enough that a second copy, even a passing one, breaks the bound.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { memoryOf } from '../../bench/serve-process.js';
import { writeSyntheticGguf } from '../../src/models/gguf-writer.js';
import { parseShape } from '../../src/models/synthetic.js';
import { startServer } from '../support/start-server.js';
import { complete } from './client.js';

const SHAPE = 'hidden=1024,intermediate=4096,layers=16,heads=16,kv_heads=4,vocab=48000,dtype=Q8_0';
const SLACK_BYTES = 300e6;
/** Before any work, when scratch memory and the pool are not touched yet. */
const LOADED_SLACK_BYTES = 220e6;
const skip = process.platform !== 'linux' && 'resident memory is read from /proc';

for (const source of ['a file', 'random values'] as const) {
  t.test(`memory of a model from ${source}`, { skip }, async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'longhaul-memory-'));
    t.teardown(() => rmSync(folder, { recursive: true, force: true }));
    const path = join(folder, 'model.gguf');
    if (source === 'a file') writeSyntheticGguf(parseShape(SHAPE), path, 7);
    const server = await startServer({
      model: source === 'a file' ? path : null,
      args: [
        ...(source === 'a file' ? [] : ['--synthetic', SHAPE]),
        ...['--kv-memory', '64MiB', '--threads', '2', '--max-model-len', '4096'],
      ],
    });
    t.teardown(() => server.stop());
    const info = server.logs.find((line) => line.event === 'model') as {
      weightBytes: number;
      numBlocks: number;
      blockBytes: number;
    };
    const loaded = info.weightBytes + LOADED_SLACK_BYTES;
    const allowed = info.weightBytes + info.numBlocks * info.blockBytes + SLACK_BYTES;
    t.ok(2 * info.weightBytes > loaded, 'a second copy could not hide');

    const check = (when: string, limit: number): void => {
      const memory = memoryOf(server.pid);
      if (memory === null) throw new Error(`no memory of process ${server.pid}`);
      t.comment(`${when}: ${JSON.stringify(memory)}, weights ${info.weightBytes}`);
      t.ok(memory.rssBytes >= info.weightBytes, `${when}: the weights are resident`);
      t.ok(memory.peakBytes <= limit, `${when}: peak ${memory.peakBytes} of ${limit}`);
      t.ok(memory.fileBytes < 100e6, `${when}: of files, ${memory.fileBytes}: Node's own`);
    };
    check('loaded', loaded);
    // A full step's activations, logits of many rows, and sampling with and without log-probabilities.
    const prompt = Array.from({ length: 2100 }, (_, i) => (i * 31) % 40_000);
    await complete(server.url, { prompt, max_tokens: 1, prompt_logprobs: 1 });
    await Promise.all(
      Array.from({ length: 8 }, (_, i) =>
        complete(server.url, { prompt: [i, 1, 2], max_tokens: 8, temperature: 1, logprobs: 5 }),
      ),
    );
    check('after work', allowed);
  });
}
