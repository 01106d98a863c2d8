import t from 'tap';
import {
  mean,
  median,
  percentile,
  seededRandom,
  spread,
  standardDeviation,
} from '../../../src/bench/statistics.js';
import { markdownTable, percentText, shortNumber, textTable } from '../../../src/bench/table.js';

t.test("NumPy's definitions", async (t) => {
  t.equal(mean([1, 2, 6]), 3);
  t.equal(median([4, 1, 3, 2]), 2.5);
  // numpy.percentile([10, 20, 30, 40, 50], 99) and (..., 25)
  t.equal(percentile([50, 10, 40, 20, 30], 99), 49.6);
  t.equal(percentile([10, 20, 30, 40, 50], 25), 20);
  t.equal(percentile([7], 99), 7);
  t.equal(standardDeviation([2, 4, 4, 4, 5, 5, 7, 9]), 2, 'of the population');
  t.same([mean([]), median([]), standardDeviation([])], [0, 0, 0]);
  t.same(spread([3, 1, 2]), { median: 2, min: 1, max: 3 });
});

t.test('random numbers repeat by seed and stay in range', async (t) => {
  const draw = (seed: number): number[] => {
    const random = seededRandom(seed);
    return Array.from({ length: 1000 }, random);
  };
  t.same(draw(7), draw(7));
  t.notSame(draw(7), draw(8));
  t.ok(draw(7).every((value) => value >= 0 && value < 1));
  t.ok(Math.abs(mean(draw(7)) - 0.5) < 0.05);
});

t.test('tables', async (t) => {
  t.equal(
    textTable([
      ['work', 'n'],
      ['a', '100'],
    ]),
    'work    n\na     100',
  );
  t.equal(
    markdownTable([
      ['a', 'b'],
      ['1', '2'],
    ]),
    '| a | b |\n| --- | ---: |\n| 1 | 2 |',
  );
  t.same([1234.6, 99.95, 12.34, 0.5].map(shortNumber), ['1,235', '100.0', '12.3', '0.50']);
  t.equal(percentText(0.756), '76 %');
  t.equal(percentText(null), 'unknown');
});
