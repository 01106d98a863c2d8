import t from 'tap';
import { mutate } from '../../mutation/mutants.js';

t.test('each barrier of device code becomes one that can be left out', async (t) => {
  const source = `// block_sync() in a comment stays.
template <typename C>
__device__ void f(C c) {
  // Rows are written before they are read.
  block_sync();
  if (c.wide) barrier_sync(1 + c.id(2), 64); else warp_sync();
  copy_async_wait<C::kStages - 1>();
  const char* text = "block_sync()";
  mbarrier_wait(c.bar,
                0);
}
__device__ void block_sync();
`;
  const { source: mutated, mutants } = mutate('k.cuh', source, 'device', 7);
  t.same(
    mutants.map((m) => [m.number, m.line, m.text]),
    [
      [7, 5, 'block_sync()'],
      [8, 6, 'barrier_sync(1 + c.id(2), 64)'],
      [9, 6, 'warp_sync()'],
      [10, 7, 'copy_async_wait<C::kStages - 1>()'],
      [11, 9, 'mbarrier_wait(c.bar, 0)'],
    ],
  );
  t.match(mutants[0]!.context, /Rows are written before they are read/);
  t.match(mutated, '  (longhaul_mutant(7) ? (void)0 : block_sync());\n');
  t.match(
    mutated,
    'if (c.wide) (longhaul_mutant(8) ? (void)0 : barrier_sync(1 + c.id(2), 64)); else (longhaul_mutant(9) ? (void)0 : warp_sync());',
  );
  t.match(mutated, '__device__ void block_sync();\n', 'a declaration stays');
  t.match(mutated, '// block_sync() in a comment stays.');
  t.match(mutated, '"block_sync()"');
});

t.test('events of the host keep their status', async (t) => {
  const source = `Status f() {
  LH_TRY(runtime_.record(step.done, stream_));
  if (busy) LH_TRY(runtime_->synchronize(event(1)));
  wake_.wait(lock);
  return results_.wait(ticket);
}
`;
  const { source: mutated, mutants } = mutate('b.cc', source, 'host', 1);
  t.equal(mutants.length, 2);
  t.match(
    mutated,
    'LH_TRY((longhaul_mutant(1) ? ::longhaul::Status() : runtime_.record(step.done, stream_)));',
  );
  t.match(
    mutated,
    'if (busy) LH_TRY((longhaul_mutant(2) ? ::longhaul::Status() : runtime_->synchronize(event(1))));',
  );
  t.match(mutated, 'wake_.wait(lock);');
});

t.test('a file without such calls stays as it is', async (t) => {
  const source = 'int x = f(1);\n';
  t.same(mutate('a.cc', source, 'host', 1), { source, mutants: [] });
  t.throws(() => mutate('a.cuh', 'block_sync(', 'device', 1), /a.cuh: parentheses/);
});
