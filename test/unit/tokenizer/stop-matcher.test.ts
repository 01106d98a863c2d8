import fc from 'fast-check';
import t from 'tap';
import { createStopMatcher } from '../../../src/tokenizer/stop-matcher.js';

interface Outcome {
  text: string;
  matched: string | null;
}

function run(stops: string[], pieces: string[], includeStop = false): Outcome {
  const matcher = createStopMatcher(stops, includeStop);
  let text = '';
  let matched: string | null = null;
  for (const piece of pieces) {
    const out = matcher.push(piece);
    text += out.text;
    matched = out.matched;
  }
  return { text: text + matcher.flush(), matched };
}

/** The definition, by trying every end in turn. */
function oracle(stops: string[], text: string, includeStop: boolean): Outcome {
  for (let end = 1; end <= text.length; end++) {
    const found = stops
      .filter((stop) => stop !== '' && text.slice(0, end).endsWith(stop))
      .sort((a, b) => b.length - a.length)[0];
    if (found === undefined) continue;
    return { text: text.slice(0, includeStop ? end : end - found.length), matched: found };
  }
  return { text, matched: null };
}

t.test('a stop within one piece', async (t) => {
  t.same(run(['END'], ['one END two']), { text: 'one ', matched: 'END' });
  t.same(run(['END'], ['one END two'], true), { text: 'one END', matched: 'END' });
  t.same(run(['END'], ['one two']), { text: 'one two', matched: null });
  t.same(run([], ['one']), { text: 'one', matched: null });
  t.same(run([''], ['one']), { text: 'one', matched: null }, 'an empty stop never matches');
});

t.test('a stop across pieces, and only its possible beginning is held back', async (t) => {
  const matcher = createStopMatcher(['\n\nUser:'], false);
  t.same(matcher.push('Hi\n'), { text: 'Hi', matched: null });
  t.same(matcher.push('\n'), { text: '', matched: null });
  t.same(matcher.push('\nUs'), { text: '\n', matched: null });
  t.same(matcher.push('er'), { text: '', matched: null });
  t.same(matcher.push('x'), { text: '\n\nUserx', matched: null });
  t.same(matcher.push('\n\nUser:tail'), { text: '', matched: '\n\nUser:' });
  t.same(matcher.push('more'), { text: '', matched: '\n\nUser:' });
  t.equal(matcher.flush(), '');
});

t.test('the stop complete first wins, then the one that began first', async (t) => {
  t.same(run(['abcd', 'bc'], ['xabcd']), { text: 'xa', matched: 'bc' });
  t.same(run(['bc', 'abc'], ['xabc']), { text: 'x', matched: 'abc' });
  t.same(run(['ab', 'abc'], ['abc']), { text: '', matched: 'ab' });
});

t.test('what was held back comes out at the end', async (t) => {
  const matcher = createStopMatcher(['stop'], true);
  t.same(matcher.push('a sto'), { text: 'a ', matched: null });
  t.equal(matcher.flush(), 'sto');
  t.equal(matcher.flush(), '');
});

t.test('self-overlapping stops over every split', async (t) => {
  const text = 'aabaabaaab';
  for (const stop of ['aabaaa', 'aaab', 'abaab', 'aab', 'aaaa']) {
    for (let i = 0; i <= text.length; i++) {
      for (let j = i; j <= text.length; j++) {
        const pieces = [text.slice(0, i), text.slice(i, j), text.slice(j)];
        t.same(run([stop], pieces), oracle([stop], text, false), `${stop} in ${pieces.join('|')}`);
      }
    }
  }
});

t.test('any stops, any text, any split: as the oracle says', async () => {
  const letters = fc.string({ unit: fc.constantFrom('a', 'b', '\n', 'é'), maxLength: 5 });
  fc.assert(
    fc.property(
      fc.array(letters, { maxLength: 4 }),
      fc.array(letters, { maxLength: 12 }),
      fc.boolean(),
      (stops, pieces, includeStop) => {
        const expected = oracle(stops, pieces.join(''), includeStop);
        const found = run(stops, pieces, includeStop);
        return found.text === expected.text && found.matched === expected.matched;
      },
    ),
    { numRuns: 3000 },
  );
});

t.test('never holds back more than a proper beginning of a stop', async () => {
  const letters = fc.string({ unit: fc.constantFrom('a', 'b'), minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(fc.array(letters, { minLength: 1, maxLength: 3 }), letters, (stops, text) => {
      const matcher = createStopMatcher(stops, false);
      const out = matcher.push(text);
      if (out.matched !== null) return true;
      const held = text.slice(out.text.length);
      return held === '' || stops.some((stop) => stop.startsWith(held) && held !== stop);
    }),
    { numRuns: 2000 },
  );
});
