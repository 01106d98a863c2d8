/** `longhaul eval`, tiny: the command, its report, its refusals. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { EvalReport } from '../../src/eval/eval-report.js';
import { run, start } from '../unit/cli/run-cli.js';

t.setTimeout(180_000);

const TINY = ['eval', '--synthetic', 'tiny', '--threads', '1', '--lengths', '1000'];
const TASKS = ['--tasks', 'niah_single,niah_multivalue,prefixqa,lm_prose', '--items', '2'];

t.test('a report: the same for the same seed', async (t) => {
  const folder = t.testdir();
  const file = join(folder, 'report.json');
  const set = '--set=niah_multivalue.values=2,prefixqa.asked=4';
  const args = [...TINY, ...TASKS, '--contexts', '2', set];
  const first = run([...args, '--json', file]);
  t.equal(first.code, 0, first.stderr);
  t.match(first.stdout, /CANNOT TELL: exact attention scores 40 to 90 on 0 of 3 tasks/);
  t.match(first.stdout, /^niah_single +1000 +exact +1\.000 +2 × 2 /m);
  const report = JSON.parse(readFileSync(file, 'utf8')) as EvalReport;
  t.match(report, {
    model: 'tiny',
    seed: 0,
    complete: true,
    resolution: { can_tell: false, tasks_in_range: [] },
    knobs: { niah_multivalue: { values: 2 } },
  });
  t.equal(report.items.length, 2 * (2 + 2 + 2 + 1));
  for (const item of report.items) {
    t.ok(item.nll > 0 && Number.isFinite(item.nll));
    t.ok(item.num_context_tokens <= 1000 && item.num_context_tokens > 400);
    t.equal(item.score === null, item.task === 'lm_prose');
    t.equal(item.budget_measured, 1);
  }
  t.strictSame(
    report.summary.map(({ task }) => task),
    ['niah_single', 'niah_multivalue', 'prefixqa', 'lm_prose', 'retrieval', 'all'],
  );
  // Going on with a report runs what it lacks, and gives what one run gives.
  const half = { ...report, complete: false, items: report.items.slice(0, 7) };
  writeFileSync(file, JSON.stringify(half));
  const resumed = run([...args, '--json', file, '--resume']);
  t.equal(resumed.code, 0, resumed.stderr);
  const whole = JSON.parse(readFileSync(file, 'utf8')) as EvalReport;
  t.strictSame([whole.items, whole.complete], [report.items, true]);
  const foreign = run([...args, '--json', file, '--resume', '--seed', '1']);
  t.equal(foreign.code, 2);
  t.match(foreign.stderr, /--resume: expected a report with seed 1, received "0"/);
  // Alone on stdout; threads and order of work do not show in it.
  const second = run([...args, '--threads', '2', '--json', '-']);
  t.equal(second.code, 0, second.stderr);
  const again = JSON.parse(second.stdout) as EvalReport;
  t.strictSame(again.items, report.items);
  t.strictSame(again.summary, report.summary);
});

t.test('an interrupt ends the run and keeps what is done', async (t) => {
  const file = join(t.testdir(), 'report.json');
  const running = start([...TINY, ...TASKS, '--contexts', '100000', '--json', file]);
  // Long enough to have begun; whether a context is done by then does not matter.
  await new Promise((resolve) => setTimeout(resolve, 4000));
  running.kill('SIGINT');
  const { code, stdout, stderr } = await running.ended;
  t.equal(code, 1, stderr);
  t.match(stdout, /INTERRUPTED/);
  t.equal((JSON.parse(readFileSync(file, 'utf8')) as EvalReport).complete, false);
});

t.test('refusals name the flag', async (t) => {
  const refuse = (args: string[], message: RegExp): void => {
    const { code, stderr } = run(['eval', ...args]);
    t.equal(code, 2, args.join(' '));
    t.match(stderr, message);
  };
  refuse(
    ['--attention', 'squeezed'],
    /--attention squeezed: this engine knows exact only \(ERR_UNSUPPORTED\)/,
  );
  refuse(['--tasks', 'nope'], /--tasks: expected some of niah_single/);
  refuse(['--resume'], /--resume: expected --json FILE beside it/);
  refuse(['--preset', 'huge'], /--preset: expected one of 135m, 270m, full/);
  refuse(['--set', 'vt.nope=1'], /--set: expected one of vt\.hops/);
  refuse(['--lengths', '12'], /--lengths: expected a whole number from 64/);
  refuse(['--text', '/no/such'], /\/no\/such: expected a readable text/);
  refuse(
    ['--synthetic', 'tiny', '--tasks', 'vt', '--lengths', '300'],
    /vt: needs a context of at least \d+ tokens, there is room for/,
  );
});

t.test('--list-tasks', async (t) => {
  const { code, stdout } = run(['eval', '--list-tasks']);
  t.equal(code, 0);
  t.match(stdout, /^vt +retrieval +hops=4 digits=5 examples=1 +all variables/m);
  t.match(stdout, /^Groups: all, niah, ruler, lm$/m);
});
