/**
 * The engine of this process as the harness sees it. A context is read once and stays in the
 * prefix cache; each question then computes only its own tokens: once to answer greedily, once
 * with the expected answer behind it for its log-probabilities.
 */
import { setMaxListeners } from 'node:events';
import { kvPoolBytes } from '../bench/engine-driver.js';
import { loadAddon } from '../binding/addon.js';
import { LocalEngine } from '../engine/engine.js';
import type {
  Engine,
  GenerationEvent,
  GenerationRequest,
  GenerationStream,
} from '../engine/engine-types.js';
import { EngineError } from '../errors.js';
import type { ModelDescription } from '../models/model-types.js';
import { GREEDY_SAMPLING, type KvDtype, type SamplingParams } from '../types.js';
import { describeSetting } from './attention-settings.js';
import type {
  AttentionSetting,
  EvalAnswer,
  EvalContext,
  EvalEngine,
  EvalQuestion,
} from './eval-types.js';

const BLOCK_SIZE = 32;
const STEP_TOKENS = 2048;
const QUESTIONS_AT_ONCE = 16;
/** Room for the tokens of one question and its answer; longer ones wait for each other. */
const QUESTION_TOKENS = 512;

export interface LocalEvalOptions {
  backend: string;
  /** 0 is automatic. */
  threads: number;
  isaLimit: string;
  kvDtype: KvDtype;
  /** Longest context with its question and answer. */
  maxLength: number;
}

/** Ways of attending that this engine computes. */
export const LOCAL_ATTENTION: readonly string[] = ['exact'];

/** Throws ERR_UNSUPPORTED for a setting that an engine of this process would not compute. */
export function checkLocalSetting(setting: AttentionSetting): void {
  if (LOCAL_ATTENTION.includes(setting.attention)) return;
  throw new EngineError(
    'ERR_UNSUPPORTED',
    `--attention ${describeSetting(setting)}: this engine knows ${LOCAL_ATTENTION.join(', ')} ` +
      'only (ERR_UNSUPPORTED)',
    { param: 'attention' },
  );
}

export class LocalEvalEngine implements EvalEngine {
  readonly maxLength: number;
  readonly #engine: Engine;
  #nextRequest = 0;

  constructor(engine: Engine) {
    this.#engine = engine;
    this.maxLength = Math.min(engine.limits.maxModelLen, engine.limits.kvTokens);
  }

  /** Loads a model with a K/V pool that holds one context and its questions. Throws EngineError. */
  static async open(
    model: ModelDescription,
    options: LocalEvalOptions,
  ): Promise<{ engine: LocalEvalEngine; isa: string; close: () => Promise<void> }> {
    const tokens = options.maxLength + QUESTIONS_AT_ONCE * QUESTION_TOKENS + STEP_TOKENS;
    const native = await loadAddon().createEngine(model.native, {
      backend: options.backend,
      threads: options.threads,
      isaLimit: options.isaLimit,
      kvMemoryBytes: kvPoolBytes(model.native, tokens),
      kvDtype: options.kvDtype,
      blockSize: BLOCK_SIZE,
      maxNumSeqs: QUESTIONS_AT_ONCE,
      maxNumBatchedTokens: STEP_TOKENS,
      maxModelLen: 0,
    });
    const engine = new LocalEngine({
      native,
      options: {
        // Nobody waits for a stream's next token: steps are as large as they may be.
        itlTargetMs: 3_600_000,
        maxQueueRequests: 0,
        maxQueueTokens: 0,
        prefixCache: true,
        overlap: true,
        check: false,
      },
      fingerprint: model.fingerprint,
      observer: null,
    });
    return {
      engine: new LocalEvalEngine(engine),
      isa: native.info.isa,
      close: () => engine.close(),
    };
  }

  checkSetting(setting: AttentionSetting): void {
    checkLocalSetting(setting);
  }

  async openContext(
    tokens: Int32Array,
    settings: readonly AttentionSetting[],
    signal: AbortSignal,
  ): Promise<EvalContext> {
    for (const setting of settings) this.checkSetting(setting);
    // Every question listens to it: not a leak.
    setMaxListeners(0, signal);
    // No token is wanted: this leaves the context's blocks in the prefix cache.
    await this.#collect(this.#submit(tokens, {}), signal);
    return {
      ask: async (questions, setting, askSignal) => {
        this.checkSetting(setting);
        return Promise.all(questions.map((question) => this.#ask(tokens, question, askSignal)));
      },
      // The cache takes its blocks back when others need room.
      close: async () => {},
    };
  }

  async #ask(
    context: Int32Array,
    question: EvalQuestion,
    signal: AbortSignal,
  ): Promise<EvalAnswer> {
    const prompt = concatenate(context, question.tokens);
    const { maxTokens, stopTokenIds, expected } = question;
    const [generated, forced] = await Promise.all([
      maxTokens === 0
        ? []
        : this.#collect(this.#submit(prompt, { maxTokens, stopTokenIds }), signal),
      this.#collect(
        this.#submit(concatenate(prompt, expected), { numPromptLogprobs: 0 }, prompt.length),
        signal,
      ),
    ]);
    return {
      tokens: generatedTokens(generated),
      logprobs: promptLogprobs(forced, prompt.length),
      budgetMeasured: 1,
    };
  }

  #submit(
    promptTokens: Int32Array,
    sampling: Partial<SamplingParams>,
    promptLogprobsFrom?: number,
  ): GenerationStream {
    const request: GenerationRequest = {
      requestId: `eval-${this.#nextRequest++}`,
      promptTokens,
      sampling: { ...GREEDY_SAMPLING, ...sampling },
      priority: 0,
      cacheSalt: '',
      deadlineMs: null,
    };
    if (promptLogprobsFrom !== undefined) request.promptLogprobsFrom = promptLogprobsFrom;
    return this.#engine.submit(request);
  }

  /** All events of a stream; throws the error that ends it, the signal's reason when that fired. */
  async #collect(stream: GenerationStream, signal: AbortSignal): Promise<GenerationEvent[]> {
    const abort = (): void => stream.abort();
    signal.addEventListener('abort', abort, { once: true });
    if (signal.aborted) abort();
    try {
      const events: GenerationEvent[] = [];
      for await (const event of stream) {
        if (event.type === 'error') {
          signal.throwIfAborted();
          throw event.error;
        }
        events.push(event);
      }
      return events;
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }
}

function concatenate(left: Int32Array, right: Int32Array): Int32Array {
  const out = new Int32Array(left.length + right.length);
  out.set(left, 0);
  out.set(right, left.length);
  return out;
}

/** Without the stop token that ended them, if one did. */
function generatedTokens(events: readonly GenerationEvent[]): number[] {
  const tokens = events.flatMap((event) =>
    event.type === 'tokens' ? event.tokens.map(({ tokenId }) => tokenId) : [],
  );
  const last = events.at(-1);
  return last?.type === 'finish' && last.stopTokenId !== null ? tokens.slice(0, -1) : tokens;
}

function promptLogprobs(events: readonly GenerationEvent[], from: number): number[] {
  const event = events.find(({ type }) => type === 'promptLogprobs');
  if (event?.type !== 'promptLogprobs') throw new Error('the engine sent no prompt logprobs');
  return event.entries.slice(from).map((entry, i) => {
    if (entry === null) throw new Error(`the engine sent no logprob of prompt token ${from + i}`);
    return entry.logprob;
  });
}
