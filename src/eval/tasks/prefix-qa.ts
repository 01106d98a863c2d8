/**
 * Many questions about one long document, as the squeezed-attention paper's PreFixQA asks them
 * (Hooper et al., 2024, arXiv 2411.09688; its set is not public): a real text in which invented
 * people are described in passing, each in one of several ways, and questions whose answers are
 * spans of those descriptions.
 */
import { contextTokens, type EvalTask, knob } from '../eval-task.js';
import type { TaskItem } from '../eval-types.js';
import { gridDepths, hideInProse, type Needle } from '../haystack.js';
import { COLORS, FIRST_NAMES, LAST_NAMES, THINGS, TOWNS, TRADES } from '../words.js';

interface Person {
  name: string;
  /** With its article, as the thing. */
  trade: string;
  town: string;
  year: string;
  thing: string;
  depth: number;
}

/** Ways to tell of a person; every one says all that can be asked, in an order of its own. */
const DESCRIPTIONS: ReadonlyArray<(person: Person) => string> = [
  ({ name, trade, town, year, thing }) =>
    `${name} came from ${town}, was born in ${year}, worked as ${trade} and carried ${thing}.`,
  ({ name, trade, town, year, thing }) =>
    `In those days ${name} worked as ${trade}; ${name} was born in ${year}, came from ${town}, and carried ${thing}.`,
  ({ name, trade, town, year, thing }) =>
    `And there was ${name}, who carried ${thing}, came from ${town}, was born in ${year} and worked as ${trade}.`,
  ({ name, trade, town, year, thing }) =>
    `Of ${name} it was known that ${name} was born in ${year}, carried ${thing}, worked as ${trade} and came from ${town}.`,
];

interface Question {
  ask: (name: string) => string;
  /** How an answer begins, after the name. */
  lead: string;
  answer: (person: Person) => string;
}

const QUESTIONS: readonly Question[] = [
  {
    ask: (name) => `What was the trade of ${name}?`,
    lead: 'worked as',
    answer: ({ trade }) => trade,
  },
  {
    ask: (name) => `From which town was ${name}?`,
    lead: 'came from',
    answer: ({ town }) => town,
  },
  {
    ask: (name) => `In which year was ${name} born?`,
    lead: 'was born in',
    answer: ({ year }) => year,
  },
  { ask: (name) => `What did ${name} carry?`, lead: 'carried', answer: ({ thing }) => thing },
];

const withArticle = (words: string): string => `${/^[aeiou]/.test(words) ? 'an' : 'a'} ${words}`;

export const PREFIX_QA: EvalTask = {
  name: 'prefixqa',
  group: 'retrieval',
  about: 'many questions about people described in one long document',
  knobs: { asked: 2, strangers: 0, examples: 2 },
  itemsMax: 64,
  async build(request) {
    const { random, numItems, knobs } = request;
    const perPerson = Math.min(knob(knobs, 'asked'), QUESTIONS.length);
    const numAsked = Math.ceil(numItems / perPerson);
    const numExamples = knob(knobs, 'examples');
    const numPeople = numAsked + numExamples + knob(knobs, 'strangers');
    const lastNames = random.shuffle(LAST_NAMES);
    const firstNames = random.shuffle(FIRST_NAMES);
    const depths = random.shuffle(gridDepths(numPeople));
    const people = Array.from({ length: numPeople }, (_, i): Person => {
      return {
        // The second round pairs names that the first did not.
        name: `${firstNames[i % firstNames.length]} ${lastNames[(i + Math.floor(i / firstNames.length)) % lastNames.length]}`,
        trade: withArticle(random.pick(TRADES)),
        town: random.pick(TOWNS),
        year: String(1780 + random.below(90)),
        thing: withArticle(`${random.pick(COLORS)} ${random.pick(THINGS)}`),
        depth: depths[i]!,
      };
    });
    const needles = people.map(
      (person): Needle => ({ text: random.pick(DESCRIPTIONS)(person), depth: person.depth }),
    );
    const write = (question: Question, person: Person): string =>
      `\nQuestion: ${question.ask(person.name)}\nAnswer: ${person.name} ${question.lead}`;
    const examples = people
      .slice(numAsked, numAsked + numExamples)
      .map((person, i) => {
        const question = QUESTIONS[i % QUESTIONS.length]!;
        return `${write(question, person)} ${question.answer(person)}.`;
      })
      .join('');
    const items = people
      .slice(0, numAsked)
      .flatMap((person) =>
        random.sample(QUESTIONS, perPerson).map(
          (question): TaskItem => ({
            question: `${examples}${write(question, person)}`,
            answer: ` ${question.answer(person)}.`,
            expected: [question.answer(person)],
            depth: person.depth,
          }),
        ),
      )
      .slice(0, numItems);
    const text = await hideInProse({
      header: '',
      needles,
      maxTokens: await contextTokens(request, items),
      corpus: request.corpus,
      random: random.fork('prose'),
      count: request.count,
      what: 'prefixqa',
    });
    return { text, items };
  },
};
