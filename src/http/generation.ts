/**
 * The one path text → tokens → engine → text deltas, shared by every completion route and the
 * websocket. Owns: submitting n choices of each prompt, detokenizing, stop strings, usage. Does
 * not own: how a protocol spells any of it (see chat-shape.ts, completion-shape.ts).
 *
 * Invariant: every choice submitted to the engine is read to its terminal event, whatever happens
 * to the client or to its sibling choices.
 */
import type {
  Engine,
  GenerationStream,
  GenerationTimings,
  GenerationUsage,
} from '../engine/engine-types.js';
import { EngineError, toEngineError } from '../errors.js';
import { createStopMatcher } from '../tokenizer/stop-matcher.js';
import type { TextService } from '../tokenizer/tokenizer-types.js';
import type { FinishReason, SamplingParams, TokenWithLogprobs } from '../types.js';

export interface Prompt {
  tokens: Int32Array;
  /** The text as the client wrote it; null for token ids. */
  text: string | null;
  /** 0 only scores the prompt. */
  maxTokens: number;
}

/** A validated request in the engine's terms. */
export interface GenerationJob {
  /** The completion's id; unique in this process. */
  id: string;
  prompts: Prompt[];
  /** Choices a prompt. Choice `prompt * n + k` is drawn with `seed + k`. */
  n: number;
  sampling: Omit<SamplingParams, 'seed' | 'maxTokens'>;
  seed: bigint;
  stops: string[];
  /** Ids of the request's own stop_token_ids: only these are reported as stop_reason. */
  stopTokenIds: readonly number[];
  includeStop: boolean;
  skipSpecialTokens: boolean;
  priority: number;
  cacheSalt: string;
}

/** What a choice has to say, in order; ends with one 'finish' or a thrown EngineError. */
export type ChoiceUpdate =
  | { type: 'progress'; computed: number; total: number }
  | { type: 'promptLogprobs'; entries: Array<TokenWithLogprobs | null> }
  /** `text` may be empty while a character or a possible stop string is incomplete. */
  | { type: 'delta'; text: string; tokens: TokenWithLogprobs[] }
  | { type: 'finish'; reason: FinishReason; stopReason: string | number | null };

/** Usage of a whole request, as OpenAI counts it: a prompt once, however many choices it has. */
export interface RequestUsage {
  promptTokens: number;
  completionTokens: number;
  cachedTokens: number;
}

export type ChoiceOutcome = FinishReason | 'abort' | 'error';

export class Choice {
  readonly index: number;
  readonly prompt: Prompt;
  usage: GenerationUsage = { promptTokens: 0, completionTokens: 0, cachedTokens: 0 };
  timings: GenerationTimings = { queueMs: null, prefillMs: null, decodeMs: null };
  /** Null until the terminal event. */
  outcome: ChoiceOutcome | null = null;
  readonly #job: GenerationJob;
  readonly #text: TextService;
  readonly #stream: GenerationStream;

  constructor(
    index: number,
    prompt: Prompt,
    job: GenerationJob,
    text: TextService,
    stream: GenerationStream,
  ) {
    this.index = index;
    this.prompt = prompt;
    this.#job = job;
    this.#text = text;
    this.#stream = stream;
  }

  abort(): void {
    this.#stream.abort();
  }

  /** Reads the choice to its end; call once. */
  async *updates(): AsyncGenerator<ChoiceUpdate> {
    const output = new OutputText(this.#job, this.#text);
    for await (const event of this.#stream) {
      switch (event.type) {
        case 'progress':
        case 'promptLogprobs':
          yield event;
          break;
        case 'tokens': {
          // Tokens that were under way when a stop string was seen are not part of the answer.
          if (output.stopped) break;
          const delta = output.push(event.tokens);
          if (output.stopped) this.#stream.abort('stop');
          yield { type: 'delta', ...delta };
          break;
        }
        case 'finish':
        case 'error': {
          this.usage = { ...event.usage, completionTokens: output.numTokens };
          this.timings = event.timings;
          // A stop string ends the choice however the engine's own end raced with the abort.
          const stoppedHere =
            output.stopped && (event.type === 'finish' || event.error.code === 'ERR_ABORTED');
          if (event.type === 'error' && !stoppedHere) {
            this.outcome = event.error.code === 'ERR_ABORTED' ? 'abort' : 'error';
            throw event.error;
          }
          const rest = output.flush();
          if (rest !== '') yield { type: 'delta', text: rest, tokens: [] };
          // The flush itself may complete a stop string.
          const reason =
            output.stopped || (event.type === 'finish' && event.reason === 'stop')
              ? 'stop'
              : 'length';
          const stopToken = event.type === 'finish' ? event.stopTokenId : null;
          this.outcome = reason;
          yield { type: 'finish', reason, stopReason: this.#stopReason(output.matched, stopToken) };
          return;
        }
      }
    }
    this.outcome = 'error';
    throw new EngineError('ERR_INTERNAL', 'The generation ended without a result.');
  }

  #stopReason(matched: string | null, stopTokenId: number | null): string | number | null {
    if (matched !== null) return matched;
    if (stopTokenId === null) return null;
    return this.#job.stopTokenIds.includes(stopTokenId) ? stopTokenId : null;
  }
}

/** One choice's text: tokens in, text out, up to the first stop string. */
class OutputText {
  numTokens = 0;
  matched: string | null = null;
  readonly #job: GenerationJob;
  readonly #detokenizer: ReturnType<TextService['createDetokenizer']>;
  readonly #matcher: ReturnType<typeof createStopMatcher> | null;
  readonly #stopTokenIds: ReadonlySet<number>;

  constructor(job: GenerationJob, text: TextService) {
    this.#job = job;
    this.#detokenizer = text.createDetokenizer({ skipSpecialTokens: job.skipSpecialTokens });
    this.#matcher = job.stops.length > 0 ? createStopMatcher(job.stops, job.includeStop) : null;
    this.#stopTokenIds = new Set(job.sampling.stopTokenIds);
  }

  get stopped(): boolean {
    return this.matched !== null;
  }

  /** Takes tokens up to the one that completes a stop string. */
  push(tokens: readonly TokenWithLogprobs[]): { text: string; tokens: TokenWithLogprobs[] } {
    const taken: TokenWithLogprobs[] = [];
    let text = '';
    for (const token of tokens) {
      taken.push(token);
      this.numTokens += 1;
      const hidden = this.#stopTokenIds.has(token.tokenId) && !this.#job.includeStop;
      if (!hidden) text += this.#match(this.#detokenizer.push(token.tokenId));
      if (this.stopped) break;
    }
    return { text, tokens: taken };
  }

  /** What was held back; to be called once, at the end. */
  flush(): string {
    if (this.stopped) return '';
    const text = this.#match(this.#detokenizer.flush());
    return this.stopped || this.#matcher === null ? text : text + this.#matcher.flush();
  }

  #match(piece: string): string {
    // Stop strings count only in what follows the first min_tokens tokens.
    if (this.#matcher === null || this.numTokens <= this.#job.sampling.minTokens) return piece;
    const { text, matched } = this.#matcher.push(piece);
    this.matched = matched;
    return text;
  }
}

export class Generation {
  readonly choices: readonly Choice[];
  readonly #n: number;

  constructor(choices: readonly Choice[], n: number) {
    this.choices = choices;
    this.#n = n;
  }

  /** Idempotent. */
  abort(): void {
    for (const choice of this.choices) choice.abort();
  }

  /**
   * Reads every choice to its end, side by side, handing each update to `receive`; a choice is
   * not read further until `receive` resolves, which is how a slow client pauses its own request;
   * no promise means that it may go on at once.
   * The first failure aborts the other choices and is thrown once all have ended.
   */
  async run(
    receive: (choice: Choice, update: ChoiceUpdate) => Promise<void> | undefined,
  ): Promise<void> {
    const failures: EngineError[] = [];
    const fail = (error: unknown): void => {
      failures.push(toEngineError(error));
      this.abort();
    };
    await Promise.all(
      this.choices.map(async (choice) => {
        try {
          for await (const update of choice.updates()) {
            // After a failure the rest is read only to reach the terminal events.
            if (failures.length > 0) continue;
            try {
              const taken = receive(choice, update);
              if (taken !== undefined) await taken;
            } catch (error) {
              fail(error);
            }
          }
        } catch (error) {
          choice.outcome ??= 'error';
          fail(error);
        }
      }),
    );
    if (failures[0] !== undefined) throw failures[0];
  }

  get usage(): RequestUsage {
    const total: RequestUsage = { promptTokens: 0, completionTokens: 0, cachedTokens: 0 };
    this.choices.forEach((choice, index) => {
      total.completionTokens += choice.usage.completionTokens;
      // Later choices of a prompt find the first one's blocks: that is not the client's saving.
      if (index % this.#n !== 0) return;
      total.promptTokens += choice.prompt.tokens.length;
      total.cachedTokens += choice.usage.cachedTokens;
    });
    return total;
  }
}

/**
 * Submits every choice, or none: what engine.submit throws (queue full, too long, shutting down)
 * comes out here, before anything has been sent to the client.
 */
export function startGeneration(engine: Engine, text: TextService, job: GenerationJob): Generation {
  const choices: Choice[] = [];
  try {
    for (const prompt of job.prompts) {
      for (let k = 0; k < job.n; k += 1) {
        const index = choices.length;
        const stream = engine.submit({
          requestId: `${job.id}-${index}`,
          promptTokens: prompt.tokens,
          sampling: {
            ...job.sampling,
            seed: BigInt.asUintN(64, job.seed + BigInt(k)),
            maxTokens: prompt.maxTokens,
          },
          priority: job.priority,
          cacheSalt: job.cacheSalt,
          deadlineMs: null,
        });
        choices.push(new Choice(index, prompt, job, text, stream));
      }
    }
  } catch (error) {
    const started = new Generation(choices, job.n);
    started.abort();
    // Nobody will ask for these, but their terminal events must be read.
    void started.run(() => undefined).catch(() => {});
    throw error;
  }
  return new Generation(choices, job.n);
}
