/**
 * Is a backend's server right and quick: one chat through HTTP on the CPU backend and on the other
 * one, their first distributions and greedy tokens beside each other; then a short load.
 *
 *   node dist/bench/server-check.js --backend cuda [--model PATH | --synthetic SHAPE] [--prompts 64]
 *     [--concurrency 16] [--input 512] [--output 64] [--save FOLDER]
 *
 * Everything after `--` goes to `serve` as it is. Exit code 1: they disagree, or a request failed.
 */
import { spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { startServe } from './serve-process.js';

/**
 * How far the first distributions may be apart. A 4-bit model's logits are 0.1 (RMS) away from the
 * exact ones on either backend (test/golden/README.md), so 0.15 from each other; twice that moves a
 * probability of one half by 0.075. The same model with another --kv-dtype differs as much.
 */
const PROBABILITY_TOLERANCE = 0.08;
const LOGPROB_TOLERANCE = 0.5;
const CHAT_TOKENS = 24;
const QUESTION = 'Name the capital of France, then three of its rivers.';

export interface ServerCheckOptions {
  backend: string;
  /** Of `serve`: what names the model, and whatever else. */
  args: readonly string[];
}

export interface ChatAnswer {
  text: string;
  finishReason: string;
  tokens: string[];
  /** Of the first token: likely tokens and their log-probabilities. */
  first: Map<string, number>;
}

export interface ServerCheck {
  device: string;
  answer: ChatAnswer;
  reference: ChatAnswer;
  /** Greedy tokens that are the same from the start. */
  agreeing: number;
  /** Largest distances among likely first tokens that both name: of log-probabilities, probabilities. */
  distance: number;
  probabilityDistance: number;
  /** Empty: all is well. */
  problems: string[];
}

/** Starts both servers, one after the other. `load` runs while the checked one is up. */
export async function checkServer(
  options: ServerCheckOptions,
  load: (url: string) => Promise<void> = async () => {},
): Promise<ServerCheck> {
  const reference = await withServer('cpu', options.args, (url) => askChat(url));
  let device = '';
  const answer = await withServer(options.backend, options.args, async (url, info) => {
    device = info;
    const chat = await askChat(url);
    await load(url);
    return chat;
  });
  return { device, answer, reference, ...compareAnswers(answer, reference) };
}

async function withServer<T>(
  backend: string,
  args: readonly string[],
  work: (url: string, info: string) => Promise<T>,
): Promise<T> {
  const server = await startServe([...args, '--backend', backend]);
  try {
    return await work(
      server.url,
      `${server.info.backend}, ${server.info.device || server.info.isa}`,
    );
  } finally {
    await server.stop();
  }
}

interface ChatResponse {
  choices: {
    message: { content: string };
    finish_reason: string;
    logprobs: {
      content: { token: string; top_logprobs: { token: string; logprob: number }[] }[];
    };
  }[];
}

async function askChat(url: string): Promise<ChatAnswer> {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      messages: [{ role: 'user', content: QUESTION }],
      temperature: 0,
      max_tokens: CHAT_TOKENS,
      ignore_eos: true,
      logprobs: true,
      top_logprobs: 5,
    }),
  });
  const text = await response.text();
  if (response.status !== 200) throw new Error(`the server answered ${response.status}: ${text}`);
  const choice = (JSON.parse(text) as ChatResponse).choices[0]!;
  const content = choice.logprobs.content;
  return {
    text: choice.message.content,
    finishReason: choice.finish_reason,
    tokens: content.map((entry) => entry.token),
    first: new Map(content[0]?.top_logprobs.map(({ token, logprob }) => [token, logprob])),
  };
}

export function compareAnswers(
  answer: ChatAnswer,
  reference: ChatAnswer,
): Omit<ServerCheck, 'device' | 'answer' | 'reference'> {
  const problems: string[] = [];
  let agreeing = 0;
  while (
    agreeing < answer.tokens.length &&
    answer.tokens[agreeing] === reference.tokens[agreeing]
  ) {
    agreeing += 1;
  }
  let distance = 0;
  let probabilityDistance = 0;
  let shared = 0;
  for (const [token, logprob] of answer.first) {
    const other = reference.first.get(token);
    if (other === undefined) continue;
    shared += 1;
    distance = Math.max(distance, Math.abs(logprob - other));
    probabilityDistance = Math.max(
      probabilityDistance,
      Math.abs(Math.exp(logprob) - Math.exp(other)),
    );
  }
  if (answer.tokens.length !== CHAT_TOKENS) {
    problems.push(`${answer.tokens.length} tokens, expected ${CHAT_TOKENS}`);
  }
  // Near ties may change places at the end of the list.
  if (shared < 3) problems.push(`of five likely first tokens only ${shared} are the CPU's too`);
  if (!(distance <= LOGPROB_TOLERANCE)) {
    problems.push(`log-probabilities of the first token are ${distance.toFixed(3)} apart`);
  }
  if (!(probabilityDistance <= PROBABILITY_TOLERANCE)) {
    problems.push(`probabilities of the first token are ${probabilityDistance.toFixed(3)} apart`);
  }
  return { agreeing, distance, probabilityDistance, problems };
}

/** `longhaul bench serve` against the server; its table goes to stdout. */
function loadOf(values: Record<string, string | undefined>, failed: (why: string) => void) {
  const main = join(dirname(fileURLToPath(import.meta.url)), '..', 'src', 'cli', 'main.js');
  return (url: string): Promise<void> => {
    const args = [main, 'bench', 'serve', '--base-url', url, '--ignore-eos'];
    args.push('--num-prompts', values.prompts!, '--max-concurrency', values.concurrency!);
    args.push('--random-input-len', values.input!, '--random-output-len', values.output!);
    if (values.save) args.push('--save-result', join(values.save, 'serve.json'));
    return new Promise((resolve, reject) => {
      const child = spawn(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit'] });
      child.once('error', reject);
      child.once('close', (code) => {
        if (code !== 0) failed(`bench serve ended with ${code}`);
        resolve();
      });
    });
  };
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      backend: { type: 'string', default: 'cuda' },
      model: { type: 'string' },
      synthetic: { type: 'string' },
      prompts: { type: 'string', default: '64' },
      concurrency: { type: 'string', default: '16' },
      input: { type: 'string', default: '512' },
      output: { type: 'string', default: '64' },
      save: { type: 'string' },
    },
  });
  const args = [...positionals];
  if (values.synthetic) args.push('--synthetic', values.synthetic);
  if (values.model) args.push('--model', values.model);
  const failures: string[] = [];
  const load = loadOf(values, (why) => failures.push(why));
  const check = await checkServer({ backend: values.backend, args }, load);
  console.log(`${check.device}: ${JSON.stringify(check.answer.text)}`);
  console.log(`cpu: ${JSON.stringify(check.reference.text)}`);
  console.log(
    `greedy tokens that agree: ${check.agreeing} of ${check.answer.tokens.length}; ` +
      `of the first, log-probabilities are at most ${check.distance.toFixed(4)} apart, ` +
      `probabilities ${check.probabilityDistance.toFixed(4)}`,
  );
  failures.push(...check.problems);
  for (const failure of failures) console.log(`FAILED: ${failure}`);
  process.exitCode = failures.length > 0 ? 1 : 0;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main();
