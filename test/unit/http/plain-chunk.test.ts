/** Chunks written as text are the very chunks that objects would have been. */
import fc from 'fast-check';
import t from 'tap';
import { ChatShape } from '../../../src/http/chat-shape.js';
import { CompletionShape } from '../../../src/http/completion-shape.js';
import type { Choice } from '../../../src/http/generation.js';
import { TokenSpelling } from '../../../src/http/logprobs.js';
import type { AnswerUpdate, ResponseShape } from '../../../src/http/response-shape.js';
import { FakeTextService } from '../../support/fake-text-service.js';

const text = new FakeTextService();
const options = {
  id: 'cmpl-"1"',
  created: 1_700_000_000,
  model: 'a "model" \\ of mine',
  text,
  spelling: new TokenSpelling(text, false),
  numLogprobs: -1,
  numPromptLogprobs: -1,
  echo: false,
  returnTokenIds: false,
  includeUsage: false,
};
type Changes = Partial<typeof options>;
const SHAPES: Array<[string, (changes: Changes) => ResponseShape]> = [
  ['chat', (changes) => new ChatShape({ ...options, ...changes })],
  ['completion', (changes) => new CompletionShape({ ...options, ...changes })],
];
const choiceOf = (index: number) =>
  ({ index, prompt: { tokens: Int32Array.of(1), text: 'p', maxTokens: 9 } }) as Choice;
const delta = (piece: string): AnswerUpdate => ({ type: 'delta', text: piece, tokens: [] });

for (const [name, make] of SHAPES) {
  t.test(`${name}: the same JSON`, async () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ unit: 'binary', minLength: 1 }), { minLength: 1 }),
        fc.boolean(),
        (pieces, includeUsage) => {
          const shape = make({ includeUsage });
          const choices = [choiceOf(0), choiceOf(3)];
          for (const choice of choices) shape.chunks(choice, delta('first'));
          return ['$&', '\u0000text\u0000', ...pieces].every((piece) =>
            choices.every((choice) => {
              const chunks = shape.chunks(choice, delta(piece));
              return (
                chunks.length === 1 &&
                shape.plainChunk(choice, delta(piece)) === JSON.stringify(chunks[0])
              );
            }),
          );
        },
      ),
    );
  });

  t.test(`${name}: what is not plain`, async (t) => {
    const shape = make({});
    const choice = choiceOf(0);
    t.equal(shape.plainChunk(choice, delta('a')), null, 'the first one opens the answer');
    shape.chunks(choice, delta('a'));
    t.equal(shape.plainChunk(choice, delta('')), '', 'no text, no chunk');
    t.strictSame(shape.chunks(choice, delta('')), []);
    t.equal(shape.plainChunk(choice, { type: 'finish', reason: 'stop', stopReason: null }), null);
    t.equal(shape.plainChunk(choice, { type: 'promptLogprobs', entries: [] }), null);
    t.equal(shape.plainChunk(choiceOf(1), delta('b')), null, 'another choice has not begun');
    for (const changes of [{ numLogprobs: 0 }, { returnTokenIds: true }]) {
      const told = make(changes);
      told.chunks(choice, delta('a'));
      t.equal(told.plainChunk(choice, delta('b')), null, JSON.stringify(changes));
    }
  });
}
