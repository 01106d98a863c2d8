import t from 'tap';
import { replay } from '../../../bench/scheduler-replay.js';

t.test('the replay bench runs, tiny', async (t) => {
  const rows = replay({ numSequences: 3, numSteps: 20, contextTokens: 70 });
  t.strictSame(
    rows.map(({ work, sequences, steps }) => ({ work, sequences, steps })),
    [
      { work: 'decode', sequences: 3, steps: 20 },
      { work: 'mixed', sequences: 3, steps: 20 },
    ],
  );
  for (const { micros } of rows) t.ok(micros.median > 0 && micros.median <= micros.max);
});
