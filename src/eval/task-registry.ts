/** All tasks by name, groups of names, and how difficult each is for a model of which size. */
import { ConfigError } from '../config.js';
import type { EvalTask } from './eval-task.js';
import type { Knobs } from './eval-types.js';
import { THREADING, VARIABLE_TRACKING } from './tasks/chains.js';
import { LM_CODE, LM_PROSE } from './tasks/continuation.js';
import { NIAH_MULTIKEY, NIAH_MULTIQUERY, NIAH_MULTIVALUE, NIAH_SINGLE } from './tasks/niah.js';
import { PREFIX_QA } from './tasks/prefix-qa.js';
import { COMMON_WORDS, FREQUENT_WORDS } from './tasks/word-counts.js';

export const TASKS: readonly EvalTask[] = [
  NIAH_SINGLE,
  NIAH_MULTIKEY,
  NIAH_MULTIVALUE,
  NIAH_MULTIQUERY,
  VARIABLE_TRACKING,
  COMMON_WORDS,
  FREQUENT_WORDS,
  THREADING,
  PREFIX_QA,
  LM_PROSE,
  LM_CODE,
];

const GROUPS: Readonly<Record<string, readonly string[]>> = {
  all: TASKS.map(({ name }) => name),
  niah: ['niah_single', 'niah_multikey', 'niah_multivalue', 'niah_multiquery'],
  ruler: ['niah_single', 'niah_multikey', 'niah_multivalue', 'niah_multiquery', 'vt', 'cwe', 'fwe'],
  lm: ['lm_prose', 'lm_code'],
};

export const TASK_GROUPS: readonly string[] = Object.keys(GROUPS);

/** Tasks of a comma-separated list of names and groups, each once. Throws ConfigError. */
export function parseTasks(text: string): EvalTask[] {
  const names = text.split(',').flatMap((part) => {
    const name = part.trim();
    return Object.hasOwn(GROUPS, name) ? GROUPS[name]! : [name];
  });
  return [...new Set(names)].map((name) => {
    const task = TASKS.find((entry) => entry.name === name);
    if (task) return task;
    const known = [...TASKS.map((entry) => entry.name), ...TASK_GROUPS].join(', ');
    throw new ConfigError('--tasks', `some of ${known}`, name);
  });
}

/** Named for the largest model each is meant for, in weights. */
export const PRESETS = ['135m', '270m', 'full'] as const;
export type Preset = (typeof PRESETS)[number];

/**
 * Knobs that leave an exact model of the size between 40 and 90 points on most tasks, found by
 * measuring (docs/hacking.md says how). 'full' is each task's own definition.
 */
const PRESET_KNOBS: Readonly<Record<Preset, Readonly<Record<string, Knobs>>>> = {
  '135m': {
    niah_multikey: { distractors: 24 },
    niah_multivalue: { digits: 5, values: 2 },
    niah_multiquery: { digits: 5, queries: 2 },
    vt: { hops: 2 },
    cwe: { common: 3, times: 60, rare_times: 1 },
    fwe: { letters: 4 },
    threading: { hops: 2, digits: 4, distractors: 0 },
  },
  '270m': {
    niah_multikey: { distractors: 24 },
    niah_multivalue: { digits: 5, values: 2 },
    niah_multiquery: { digits: 5, queries: 2 },
    vt: { hops: 2 },
    cwe: { common: 3, times: 60, rare_times: 1 },
    fwe: { letters: 4 },
    threading: { hops: 2, digits: 4, distractors: 0 },
  },
  full: {},
};

const WEIGHTS_135M_MAX = 200e6;
const WEIGHTS_270M_MAX = 600e6;

export function presetFor(numWeights: number): Preset {
  if (numWeights <= WEIGHTS_135M_MAX) return '135m';
  return numWeights <= WEIGHTS_270M_MAX ? '270m' : 'full';
}

/** Largest knob a user may set. */
const KNOB_MAX = 100_000;

/**
 * A task's knobs: its own, the preset's over them, the user's over those. `settings` are texts
 * TASK.KNOB=N. Throws ConfigError for one that names no task, no knob or no number.
 */
export function knobsOf(task: EvalTask, preset: Preset, settings: readonly string[]): Knobs {
  const knobs: Record<string, number> = { ...task.knobs, ...PRESET_KNOBS[preset][task.name] };
  for (const setting of settings) {
    const { taskName, name, value } = parseSetting(setting);
    if (taskName === task.name) knobs[name] = value;
  }
  return knobs;
}

function parseSetting(setting: string): { taskName: string; name: string; value: number } {
  const match = /^(\w+)\.(\w+)=(\d+)$/.exec(setting.trim());
  const task = TASKS.find(({ name }) => name === match?.[1]);
  if (!match || !task) throw new ConfigError('--set', 'TASK.KNOB=N', setting);
  const name = match[2]!;
  if (!Object.hasOwn(task.knobs, name)) {
    const known = Object.keys(task.knobs).map((key) => `${task.name}.${key}`);
    throw new ConfigError('--set', `one of ${known.join(', ')}`, setting);
  }
  const value = Number(match[3]);
  if (value > KNOB_MAX) throw new ConfigError('--set', `at most ${KNOB_MAX}`, setting);
  return { taskName: task.name, name, value };
}
