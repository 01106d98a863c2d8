/** The `bench` commands' flags; what they run is imported when they run. */
import type { Command } from 'commander';
import { addServeOptions, givenFlags } from './serve-options.js';

/** Settings of the model and the engine that a benchmark shares with `serve`. */
const ENGINE_FLAGS = ['model', 'synthetic', 'threads', 'isa', 'kv-dtype'];

/** Adds `bench engine` and `bench serve` to the program. */
export function addBenchCommand(program: Command): void {
  const bench = program
    .command('bench')
    .description('measure speed: inside the engine, or of a server');
  addEngine(bench);
  addServe(bench);
}

function addEngine(bench: Command): void {
  const engine = bench
    .command('engine')
    .description('speed inside the engine, without HTTP: prefill and decode in tokens a second')
    .option('--prompt <n>', 'new tokens of a prefill; 0 leaves prefill out', '512')
    .option('--generate <n>', 'tokens of a decode; 0 leaves decode out', '64')
    .option('--depth <list>', 'tokens in the cache beforehand, comma-separated', '0')
    .option('--batch <list>', 'sequences at once, comma-separated', '1')
    .option('--together', 'also measure prefill and decode in one run')
    .option('--attention <list>', 'exact', 'exact')
    .option('--depth-fill <how>', 'how the cache is filled: prefill', 'prefill')
    .option('--repeat <n>', 'measured runs of each row', '3')
    .option('--json <file>', 'write the report as JSON; - writes it to stdout and nothing else');
  addServeOptions(engine, ENGINE_FLAGS);
  engine.action(async () => {
    const { runBenchEngine } = await import('./bench-engine.js');
    process.exitCode = await runBenchEngine(engine.opts(), givenFlags(engine));
  });
}

function addServe(bench: Command): void {
  const serve = bench
    .command('serve')
    .description("load a server that speaks OpenAI's API; options, keys and formulas are vLLM's")
    .option('--base-url <url>', 'the server', 'http://127.0.0.1:8000')
    .option('--endpoint <path>', '/v1/completions or /v1/chat/completions', '/v1/completions')
    .option('--model <name>', "model to ask for (default: the server's first)")
    .option('--api-key <key>', 'sent as a bearer token [OPENAI_API_KEY]')
    .option('--dataset-name <name>', 'random, sharegpt or custom', 'random')
    .option('--dataset-path <file>', "sharegpt's JSON, or JSON lines with a prompt each")
    .option('--num-prompts <n>', 'requests', '1000')
    .option('--random-input-len <n>', 'prompt tokens of a random request', '1024')
    .option('--random-output-len <n>', 'tokens that a random request generates', '128')
    .option('--random-range-ratio <r>', 'lengths vary by this share around those given', '0')
    .option('--random-prefix-len <n>', 'tokens that all random prompts begin with', '0')
    .option('--vocab-size <n>', 'random token ids are below this', '32000')
    .option('--sharegpt-output-len <n>', "tokens to generate instead of the answers' own lengths")
    .option(
      '--custom-output-len <n>',
      'tokens to generate where a line names no output_tokens',
      '256',
    )
    .option('--request-rate <r>', 'requests a second, Poisson arrivals; inf is all at once', 'inf')
    .option('--max-concurrency <n>', 'requests under way at once (default: no limit)')
    .option(
      '--goodput <pairs...>',
      'limits in ms that a good request keeps: ttft:500,tpot:50,e2el:9000',
    )
    .option('--ignore-eos', 'generate to the full length (always so for random)')
    .option('--seed <n>', 'seed of prompts and arrivals', '0')
    .option(
      '--save-result <file>',
      'write the result as JSON; - writes it to stdout and nothing else',
    )
    .option('--save-detailed', 'keep the values of each request in the result');
  serve.action(async () => {
    const { runBenchServe } = await import('./bench-serve.js');
    process.exitCode = await runBenchServe(serve.opts());
  });
}
