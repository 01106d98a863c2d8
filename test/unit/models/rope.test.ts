import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { hfModel } from '../../../src/models/hf-model.js';
import { computeRope } from '../../../src/models/rope.js';
import { checkpointTensors, safetensorsBytes } from '../../support/write-safetensors.js';

interface Golden {
  made_with: string;
  cases: Array<{
    name: string;
    config: Record<string, unknown> & { architectures: string[] };
    ropes: Array<{ inv_freq: number[]; attention_factor: number }>;
  }>;
}

/** The test may run from dist: golden files stay in the source tree. */
function goldenPath(name: string): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  for (;;) {
    try {
      const path = join(folder, 'test', 'golden', 'rope', name);
      readFileSync(path);
      return path;
    } catch {
      const parent = dirname(folder);
      if (parent === folder) throw new Error(`${name} not found`);
      folder = parent;
    }
  }
}

const golden = JSON.parse(readFileSync(goldenPath('rope.json'), 'utf8')) as Golden;

t.test(`config.json to frequencies as ${golden.made_with}`, async (t) => {
  t.ok(golden.cases.length >= 13);
  for (const { name, config, ropes } of golden.cases) {
    const gemma = config.architectures[0] === 'Gemma3ForCausalLM';
    const headDim = (config.head_dim as number | undefined) ?? 64;
    const folder = t.testdir();
    writeFileSync(
      join(folder, 'config.json'),
      JSON.stringify({ tie_word_embeddings: true, ...config }),
    );
    const tensors = checkpointTensors({
      hidden: 256,
      layers: 6,
      heads: 4,
      kvHeads: 2,
      headDim,
      intermediate: 64,
      vocab: 64,
      qkNorm: gemma,
      postNorms: gemma,
    });
    writeFileSync(join(folder, 'model.safetensors'), safetensorsBytes(tensors));
    const found = hfModel(folder).config.ropes;
    t.equal(found.length, ropes.length, name);
    ropes.forEach((rope, index) => {
      const { invFreq, attentionFactor, style, dim } = found[index]!;
      t.equal(style, 1, `${name}: halves`);
      t.equal(dim, headDim, name);
      t.equal(invFreq.length, rope.inv_freq.length, name);
      t.ok(Math.abs(attentionFactor - rope.attention_factor) < 1e-6, `${name}: attention factor`);
      // The reference rounds at every step in float32; ours once at the end.
      const worst = Math.max(
        ...rope.inv_freq.map((value, i) => Math.abs(invFreq[i]! - value) / value),
      );
      t.ok(worst < 2e-6, `${name}: worst relative difference ${worst}`);
    });
  }
});

t.test('frequencies are those of double precision, rounded once', async (t) => {
  const { invFreq } = computeRope({ type: 'default', theta: 500_000, dim: 128 }, 'test');
  for (let i = 0; i < 64; i++) t.equal(invFreq[i], Math.fround(500_000 ** (-(2 * i) / 128)));
});

t.test('divisors divide', async (t) => {
  const divisors = Float32Array.of(1, 2, 4, 8);
  const { invFreq } = computeRope({ type: 'default', theta: 16, dim: 8, divisors }, 'test');
  t.same(invFreq, Float32Array.of(1, 0.25, 1 / 16, 1 / 64));
});

t.test('unknown scalings and bad parameters are refused by name', async (t) => {
  const base = { theta: 10_000, dim: 8 };
  const refuse = (parameters: Parameters<typeof computeRope>[0], message: RegExp): void => {
    t.throws(() => computeRope(parameters, 'file'), { code: 'ERR_MODEL_FORMAT', message });
  };
  refuse({ type: 'longrope', ...base }, /found "longrope"/);
  refuse({ type: 'dynamic', ...base }, /found "dynamic"/);
  refuse({ type: 'linear', ...base }, /factor: expected a number above 0, found undefined/);
  refuse({ type: 'linear', ...base, factor: 0 }, /found 0/);
  refuse({ type: 'llama3', ...base, factor: 8 }, /low_freq_factor/);
  refuse({ type: 'yarn', ...base, factor: 8 }, /original_max_position_embeddings/);
  refuse({ type: 'default', theta: -1, dim: 8 }, /theta/);
  refuse({ type: 'default', theta: 1, dim: 7 }, /even number/);
  refuse({ type: 'default', ...base, divisors: new Float32Array(3) }, /4 of them, found 3/);
  refuse({ type: 'default', ...base, divisors: new Float32Array(4) }, /divisor 0/);
});
