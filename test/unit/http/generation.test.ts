/**
 * Metamorphic: however tokens are cut into steps, a stream, a whole answer and a plain decode of
 * the tokens say the same.
 */
import fc from 'fast-check';
import t from 'tap';
import { FakeTextService, THE } from '../../support/fake-text-service.js';
import { events, makeServer } from './harness.js';

const RUNS = 150;

/** Letters, bytes of cut characters, a multi-letter token, a special one. */
const tokenId = fc.oneof(
  fc.constantFrom(...Buffer.from('ab.é€😀')),
  fc.constant(THE),
  fc.constant(256),
);
const steps = fc.array(fc.array(tokenId, { minLength: 1, maxLength: 4 }), { maxLength: 12 });
const stop = fc.string({
  unit: fc.constantFrom('a', 'b', '.', 't', 'h', 'é'),
  minLength: 1,
  maxLength: 3,
});

interface Expected {
  text: string;
  reason: string;
  stopReason: string | null;
  numTokens: number;
}

/** Decodes one token more at a time until the stop string is complete. */
function oracle(ids: number[], stopString: string | null, include: boolean): Expected {
  const text = new FakeTextService();
  const decode = (count: number) => {
    // A character that is still incomplete is not there yet: drop its replacement at the end.
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
    return ids
      .slice(0, count)
      .filter((id) => id !== 256)
      .map((id) => decoder.decode(text.tokenBytes(id), { stream: true }))
      .join('');
  };
  if (stopString !== null) {
    for (let count = 1; count <= ids.length; count += 1) {
      const at = decode(count).indexOf(stopString);
      if (at < 0) continue;
      const end = at + (include ? stopString.length : 0);
      return {
        text: decode(count).slice(0, end),
        reason: 'stop',
        stopReason: stopString,
        numTokens: count,
      };
    }
  }
  const whole = text.decode(ids, { skipSpecialTokens: true });
  return { text: whole, reason: 'length', stopReason: null, numTokens: ids.length };
}

t.test('stream = whole answer = decode', async (t) => {
  const { engine, post } = await makeServer(t.teardown, { logLevel: 'silent' });
  let numStopped = 0;
  await fc.assert(
    fc.asyncProperty(
      steps,
      fc.option(stop),
      fc.boolean(),
      fc.integer({ min: 1, max: 3 }),
      async (tokens, stopString, include, n) => {
        engine.streams.length = 0;
        engine.script = (stream) => {
          for (const ids of tokens) stream.tokens(ids);
          stream.finish('length');
        };
        const ask = {
          prompt: [1],
          n,
          include_stop_str_in_output: include,
          ...(stopString !== null && { stop: stopString }),
        };
        const expected = oracle(tokens.flat(), stopString, include);
        if (expected.reason === 'stop') numStopped += 1;
        const whole = (await post('/v1/completions', ask)).json();
        t.strictSame(
          whole.choices.map((choice: Record<string, unknown>) => [
            choice.index,
            choice.text,
            choice.finish_reason,
            choice.stop_reason,
          ]),
          Array.from({ length: n }, (_, index) => [
            index,
            expected.text,
            expected.reason,
            expected.stopReason,
          ]),
        );
        t.equal(whole.usage.completion_tokens, n * expected.numTokens);

        const streamed = events(
          (
            await post('/v1/completions', {
              ...ask,
              stream: true,
              stream_options: { include_usage: true },
            })
          ).body,
        ).slice(0, -1) as Array<{
          choices: Array<{ index: number; text: string; finish_reason: string | null }>;
          usage: unknown;
        }>;
        t.strictSame(streamed.at(-1)!.usage, whole.usage);
        for (let index = 0; index < n; index += 1) {
          const own = streamed
            .flatMap(({ choices }) => choices)
            .filter((choice) => choice.index === index);
          t.equal(own.map((choice) => choice.text).join(''), expected.text);
          t.strictSame(
            own.map((choice) => choice.finish_reason).filter((reason) => reason !== null),
            [expected.reason],
          );
          t.equal(own.at(-1)!.finish_reason, expected.reason);
        }
      },
    ),
    { numRuns: RUNS },
  );
  t.ok(numStopped > 10, `${numStopped} runs met their stop string`);
});
