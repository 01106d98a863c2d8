/**
 * longhaul chat: a conversation in the terminal, with a running server or with a model in this
 * process (which is the same server on a free local port: one code path, one behavior).
 */
import { createInterface, type Interface } from 'node:readline';
import pc from 'picocolors';
import { ConfigError, type ServeConfig, serveConfig } from '../config.js';
import { createLogger } from '../log.js';
import { ChatClient, type ChatTurn } from './chat-client.js';
import { EXIT } from './exit-codes.js';
import { makeReporter } from './progress.js';

export interface ChatOptions {
  baseUrl?: string;
  apiKey?: string;
  system?: string;
  temperature?: string;
  maxTokens?: string;
  model?: string;
}

const HELP = '/reset forgets the conversation, /exit ends, Ctrl-C stops an answer';

/** Returns the exit code; throws what ends a chat before it begins. */
export async function runChat(
  options: ChatOptions,
  given: Partial<Record<keyof ServeConfig, unknown>>,
): Promise<number> {
  const temperature = parseNumber('--temperature', options.temperature, 0, 2);
  const maxTokens = parseNumber('--max-tokens', options.maxTokens, 1, 0x7fff_ffff);
  const server = options.baseUrl === undefined ? await startOwnServer(given) : null;
  const client = new ChatClient({
    baseUrl: options.baseUrl ?? server!.url,
    apiKey: options.apiKey ?? process.env.OPENAI_API_KEY ?? null,
    model: server ? null : (options.model ?? null),
    temperature,
    maxTokens,
  });
  try {
    const model = await client.modelName();
    const system = options.system;
    return await new Conversation(client, system).run(`${model}. ${HELP}.`);
  } finally {
    await server?.stop();
  }
}

function parseNumber(
  flag: string,
  text: string | undefined,
  min: number,
  max: number,
): number | null {
  if (text === undefined) return null;
  const value = Number(text);
  if (text.trim() !== '' && value >= min && value <= max) return value;
  throw new ConfigError(flag, `a number from ${min} to ${max}`, text);
}

async function startOwnServer(given: Partial<Record<keyof ServeConfig, unknown>>) {
  const { startServer } = await import('./start-server.js');
  const config = serveConfig({ ...given, host: '127.0.0.1', port: '0' });
  const logger = createLogger({ level: 'warn', destination: process.stderr, pretty: true });
  const reporter = makeReporter(false);
  const controller = new AbortController();
  const onSignal = (): void => controller.abort(new Error('interrupted'));
  process.once('SIGINT', onSignal);
  try {
    return await startServer({
      config,
      logger,
      signal: controller.signal,
      onProgress: (progress) => reporter.onProgress(progress),
    });
  } finally {
    reporter.stop();
    process.off('SIGINT', onSignal);
  }
}

class Conversation {
  private readonly client: ChatClient;
  private readonly system: string | undefined;
  private readonly turns: ChatTurn[] = [];
  private readonly interactive = process.stdin.isTTY === true;
  private answering: AbortController | null = null;
  private failed = false;

  constructor(client: ChatClient, system: string | undefined) {
    this.client = client;
    this.system = system;
    this.reset();
  }

  /** Reads lines until /exit or the end of input. Piped input prints answers alone. */
  async run(greeting: string): Promise<number> {
    const lines = createInterface({
      input: process.stdin,
      terminal: this.interactive,
      ...(this.interactive ? { output: process.stdout } : {}),
    });
    lines.setPrompt(pc.bold('> '));
    const onSignal = (): void => this.interrupt(lines);
    lines.on('SIGINT', onSignal);
    process.on('SIGINT', onSignal);
    if (this.interactive) process.stdout.write(`${pc.dim(greeting)}\n`);
    try {
      this.prompt(lines);
      for await (const line of lines) {
        if (line.trim() === '/exit') break;
        await this.handle(line.trim());
        this.prompt(lines);
      }
    } finally {
      process.off('SIGINT', onSignal);
      lines.close();
    }
    return this.failed && !this.interactive ? EXIT.failure : EXIT.ok;
  }

  private prompt(lines: Interface): void {
    if (this.interactive) lines.prompt();
  }

  private reset(): void {
    this.turns.length = 0;
    if (this.system !== undefined) this.turns.push({ role: 'system', content: this.system });
  }

  private async handle(line: string): Promise<void> {
    if (line === '') return;
    if (line === '/reset') return this.reset();
    if (line === '/help') {
      process.stdout.write(`${HELP}\n`);
      return;
    }
    this.turns.push({ role: 'user', content: line });
    await this.answer();
  }

  private async answer(): Promise<void> {
    this.answering = new AbortController();
    let text = '';
    try {
      const answer = await this.client.ask(this.turns, this.answering.signal, (delta) => {
        text += delta;
        process.stdout.write(delta);
      });
      process.stdout.write('\n');
      if (this.interactive) process.stdout.write(`${pc.dim(note(answer))}\n`);
    } catch (error) {
      if (this.answering.signal.aborted) {
        process.stdout.write(`${pc.dim(' (stopped)')}\n`);
      } else {
        this.failed = true;
        process.stderr.write(`${pc.red((error as Error).message)}\n`);
      }
    } finally {
      this.answering = null;
    }
    // What was said stays said, even half of it; a question without any answer is taken back.
    if (text === '') this.turns.pop();
    else this.turns.push({ role: 'assistant', content: text });
  }

  private interrupt(lines: Interface): void {
    if (this.answering) this.answering.abort();
    else lines.close();
  }
}

function note(answer: {
  finishReason: string | null;
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
}): string {
  const cut = answer.finishReason === 'length' ? ', cut at the token limit' : '';
  return `[${answer.promptTokens} tokens in, ${answer.cachedTokens} cached; ${answer.completionTokens} out${cut}]`;
}
