/**
 * Facts that lead to facts. `vt` is RULER's variable tracking (arXiv 2404.06654, §3.2): which
 * variables hold a value, when each is a copy of the one before. `threading` follows keys whose
 * values are keys (needle threading: Roberts et al., 2024, arXiv 2411.05000). Answers write down
 * every link, so that they are rows of look-ups rather than one guess.
 */
import { contextTokens, type EvalTask, knob, type TaskRequest } from '../eval-task.js';
import type { TaskContext, TaskItem } from '../eval-types.js';
import { gridDepths, hideInProse, type Needle } from '../haystack.js';

/** What stands before a link's end, given its start. */
type Lead = (from: string) => string;

interface ChainTask {
  header: string;
  lead: Lead;
  /** Each of hops + 1 nodes; the last ones are worked examples. */
  chains: readonly string[][];
  numExamples: number;
  /** A chain's links stand in their order in the text. */
  isOrdered: boolean;
  /** Links that belong to no chain. */
  others: ReadonlyArray<readonly [string, string]>;
}

async function buildChains(
  what: string,
  request: TaskRequest,
  { header, lead, chains, numExamples, isOrdered, others }: ChainTask,
): Promise<TaskContext> {
  const { random } = request;
  const numHops = chains[0]!.length - 1;
  const depths = random.shuffle(gridDepths(chains.length * numHops + others.length));
  const needles: Needle[] = [];
  const hideLink = (from: string, to: string, depth: number): void => {
    needles.push({ text: `${lead(from)} ${to}.`, depth });
  };
  const firstDepths = chains.map((chain, c) => {
    const own = depths.slice(c * numHops, (c + 1) * numHops);
    if (isOrdered) own.sort((left, right) => left - right);
    for (const [i, depth] of own.entries()) hideLink(chain[i]!, chain[i + 1]!, depth);
    return own[0]!;
  });
  for (const [i, [from, to]] of others.entries()) {
    hideLink(from, to, depths[chains.length * numHops + i]!);
  }
  const ask = (chain: readonly string[]): string => `\n\n${lead(chain[0]!)}`;
  const walk = (chain: readonly string[]): string =>
    chain
      .slice(1)
      .map((node, i) => `${i === 0 ? '' : `\n${lead(chain[i]!)}`} ${node}.`)
      .join('');
  const numItems = chains.length - numExamples;
  const examples = chains
    .slice(numItems)
    .map((chain) => ask(chain) + walk(chain))
    .join('');
  const items = chains.slice(0, numItems).map(
    (chain, i): TaskItem => ({
      question: examples + ask(chain),
      answer: walk(chain),
      expected: chain.slice(1),
      depth: firstDepths[i]!,
      isMultiline: true,
    }),
  );
  const text = await hideInProse({
    header,
    needles,
    maxTokens: await contextTokens(request, items),
    corpus: request.corpus,
    random: random.fork('prose'),
    count: request.count,
    what,
  });
  return { text, items };
}

/** `values` in rows of `size`. */
function rows<T>(values: readonly T[], size: number): T[][] {
  return Array.from({ length: values.length / size }, (_, i) =>
    values.slice(i * size, (i + 1) * size),
  );
}

export const VARIABLE_TRACKING: EvalTask = {
  name: 'vt',
  group: 'retrieval',
  about: 'all variables of a chain of copies that begins with a value',
  knobs: { hops: 4, digits: 5, examples: 1 },
  itemsMax: 48,
  build(request) {
    const { random, numItems, knobs } = request;
    const numHops = knob(knobs, 'hops');
    const numExamples = knob(knobs, 'examples');
    const numChains = numItems + numExamples;
    const names = random.distinct(numChains * numHops, () => `X${random.digits(3)}`);
    const values = random.distinct(numChains, () => random.digits(knob(knobs, 'digits')));
    return buildChains('vt', request, {
      header: 'The text below says which variables are copies of which values and variables.\n\n',
      lead: (from) => `Copy of ${from}:`,
      chains: rows(names, numHops).map((own, i) => [values[i]!, ...own]),
      numExamples,
      isOrdered: true,
      others: [],
    });
  },
};

export const THREADING: EvalTask = {
  name: 'threading',
  group: 'retrieval',
  about: 'a chain of keys, each the value of the one before',
  knobs: { hops: 4, digits: 5, distractors: 24, examples: 1 },
  itemsMax: 48,
  build(request) {
    const { random, numItems, knobs } = request;
    const numNodes = knob(knobs, 'hops') + 1;
    const numExamples = knob(knobs, 'examples');
    const numInChains = (numItems + numExamples) * numNodes;
    const nodes = random.distinct(numInChains + 2 * knob(knobs, 'distractors'), () =>
      random.digits(knob(knobs, 'digits')),
    );
    return buildChains('threading', request, {
      header: 'The text below mentions roads between numbered places.\n\n',
      lead: (from) => `Road from ${from}:`,
      chains: rows(nodes.slice(0, numInChains), numNodes),
      numExamples,
      isOrdered: false,
      others: rows(nodes.slice(numInChains), 2).map(([from, to]) => [from!, to!] as const),
    });
  },
};
