/** The `eval` command's flags; what it runs is imported when it runs. */
import type { Command } from 'commander';
import { addServeOptions, givenFlags } from './serve-options.js';

/** Settings of the model and the engine that a measurement shares with `serve`. */
const ENGINE_FLAGS = ['model', 'synthetic', 'backend', 'threads', 'isa', 'kv-dtype'];

/** Adds `eval` to the program. */
export function addEvalCommand(program: Command): void {
  const evaluate = program
    .command('eval')
    .description('measure the quality of ways of attending, on long contexts asked many questions')
    .option('--tasks <list>', 'tasks or groups of tasks, comma-separated (--list-tasks)', 'all')
    .option('--lengths <list>', 'tokens of context, question and answer together', '4096')
    .option('--contexts <n>', 'contexts of each task and length', '4')
    .option('--items <n>', 'questions a context; some tasks have fewer', '24')
    .option('--attention <list>', 'ways of attending to compare', 'exact')
    .option('--sparsity <list>', 'shares of the keys to leave out, for ways other than exact')
    .option('--kept-tokens <list>', 'numbers of keys to keep, for ways other than exact')
    .option('--paired', 'run exact attention on the same items too')
    .option('--preset <name>', 'difficulty: 135m, 270m, full (default: by the size of the model)')
    .option('--set <list>', 'single knobs of difficulty: TASK.KNOB=N, comma-separated')
    .option('--text <file>', 'real text to hide facts in and to continue (default: our own)')
    .option('--seed <n>', 'seed of the tasks', '0')
    .option('--json <file>', 'write the report as JSON; - writes it to stdout and nothing else')
    .option('--resume', 'go on with the report that --json names, if there is one')
    .option('--list-tasks', 'print the tasks, their knobs and groups, and stop');
  addServeOptions(evaluate, ENGINE_FLAGS);
  evaluate.action(async () => {
    const { runEvalCommand } = await import('./eval.js');
    process.exitCode = await runEvalCommand(evaluate.opts(), givenFlags(evaluate));
  });
}
