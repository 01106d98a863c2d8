/** What tests of the harness run on: bytes as tokens, a small corpus, an engine that looks up. */

import { EngineError } from '../../../src/errors.js';
import { Corpus } from '../../../src/eval/corpus.js';
import { EvalRandom } from '../../../src/eval/eval-random.js';
import type { EvalTask, TaskRequest } from '../../../src/eval/eval-task.js';
import type {
  AttentionSetting,
  EvalAnswer,
  EvalContext,
  EvalEngine,
  EvalQuestion,
} from '../../../src/eval/eval-types.js';

const PLAIN = [
  'The harbor lay still under a low sky. Nobody had moved the crates since morning! “Was it yours?” asked the clerk.',
  'Rain came over the hills, slowly at first. It filled the ditches and the wheel marks.',
  'A lamp burned in the upper window. Somebody was reading there, or had fallen asleep over a book.',
];
const WORDS = Array.from(
  { length: 400 },
  (_, i) =>
    `q${String.fromCharCode(97 + Math.floor(i / 20))}${String.fromCharCode(97 + (i % 20))}x`,
);

/** Few sentences, many words, and no two stretches of it alike. */
export const TEXT = Array.from(
  { length: 1200 },
  (_, i) => `There was a ${WORDS[i % WORDS.length]}. ${PLAIN[i % PLAIN.length]}\n`,
).join('');

export const toyCorpus = (): Corpus => new Corpus(TEXT, TEXT);

export const countBytes = async (text: string): Promise<number> => Buffer.byteLength(text);

export function taskRequest(task: EvalTask, changes: Partial<TaskRequest> = {}): TaskRequest {
  return {
    numItems: Math.min(6, task.itemsMax),
    knobs: task.knobs,
    random: new EvalRandom('test', task.name),
    corpus: toyCorpus(),
    count: countBytes,
    length: 20_000,
    ...changes,
  };
}

/**
 * Answers as expected under 'exact'. Under 'worse', the first question of a context gets nothing
 * and every log-probability is lower by `worse`.
 */
export class LookupEngine implements EvalEngine {
  readonly maxLength = 30_000;
  readonly opened: Int32Array[] = [];
  numClosed = 0;
  worse = 0.25;
  /** Called before each answer. */
  onAsk: (numAsked: number) => void = () => {};
  #numAsked = 0;

  checkSetting({ attention }: AttentionSetting): void {
    if (attention === 'exact' || attention === 'worse') return;
    throw new EngineError('ERR_UNSUPPORTED', `no ${attention}`);
  }

  async openContext(
    tokens: Int32Array,
    _settings: readonly AttentionSetting[],
    signal: AbortSignal,
  ): Promise<EvalContext> {
    signal.throwIfAborted();
    this.opened.push(tokens);
    return {
      ask: async (questions, setting, askSignal) =>
        questions.map((question, i) => {
          this.onAsk(this.#numAsked++);
          askSignal.throwIfAborted();
          return this.#answer(question, setting, i);
        }),
      close: async () => {
        this.numClosed += 1;
      },
    };
  }

  #answer(question: EvalQuestion, setting: AttentionSetting, index: number): EvalAnswer {
    const isWorse = setting.attention === 'worse';
    return {
      tokens: isWorse && index === 0 ? [] : [...question.expected].slice(0, question.maxTokens),
      logprobs: Array.from(question.expected, () => -1 - (isWorse ? this.worse : 0)),
      budgetMeasured: isWorse ? 1 - setting.sparsity! : 1,
    };
  }
}
