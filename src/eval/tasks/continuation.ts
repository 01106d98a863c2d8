/**
 * How likely real text is after a long stretch of itself: a few tokens of it are the question,
 * the next ones the answer. There is no right or wrong, only the likelihood; and as a context goes
 * on in one way only, it has one question.
 */
import { EngineError } from '../../errors.js';
import type { Corpus } from '../corpus.js';
import { type EvalTask, knob, type TaskRequest } from '../eval-task.js';
import type { TaskContext } from '../eval-types.js';
import { fitUnits } from '../haystack.js';

/** No model's tokens are longer than this on average. */
const CHARACTERS_PER_TOKEN = 6;
/** A beginning-of-sequence token, and room for splits that do not fall on tokens. */
const SLACK = 8;

async function continueText(
  what: string,
  text: string,
  request: TaskRequest,
): Promise<TaskContext> {
  const { random, knobs, count, length } = request;
  const numQuestion = knob(knobs, 'question');
  const numAnswer = knob(knobs, 'tokens');
  const starts = [...text.matchAll(/(?<=\n)(?=\S)/g)].map((match) => match.index);
  const wanted = length * CHARACTERS_PER_TOKEN;
  const last = starts.filter((start) => start + wanted <= text.length);
  if (last.length === 0 && text.length < length * 2) {
    throw new EngineError(
      'ERR_INVALID_REQUEST',
      `${what}: the text has ${text.length} characters, too few for ${length} tokens`,
    );
  }
  const start = last.length === 0 ? 0 : random.pick(last);
  // Pieces begin with their white space, as tokens do.
  let pieces = text.slice(start, start + wanted).split(/(?=\s)/);
  const take = async (maxTokens: number): Promise<string> => {
    const part = await fitUnits({
      least: 1,
      most: Math.min(pieces.length, maxTokens),
      maxTokens,
      count,
      render: (units) => pieces.slice(0, units).join(''),
      what,
    });
    pieces = pieces.slice(part.split(/(?=\s)/).length);
    return part;
  };
  const context = await take(length - numQuestion - numAnswer - SLACK);
  const question = await take(numQuestion);
  const answer = await take(numAnswer);
  return { text: context, items: [{ question, answer, expected: [], depth: null }] };
}

function continuation(name: string, about: string, textOf: (corpus: Corpus) => string): EvalTask {
  return {
    name,
    group: 'continuation',
    about,
    knobs: { question: 64, tokens: 256 },
    itemsMax: 1,
    build: (request) => continueText(name, textOf(request.corpus), request),
  };
}

export const LM_PROSE = continuation(
  'lm_prose',
  'likelihood of what follows in a novel',
  (corpus) => corpus.prose,
);
export const LM_CODE = continuation(
  'lm_code',
  "likelihood of what follows in this checkout's source code",
  (corpus) => corpus.code,
);
