/**
 * Finds the calls that order memory, and rewrites a source so that each can be left out at run
 * time (mutant.h). Comments are left alone; a call is found by name and balanced parentheses.
 */
export interface Mutant {
  /** From 1, over all files. */
  number: number;
  /** Relative to the repository's root. */
  file: string;
  line: number;
  /** The call, on one line. */
  text: string;
  /** The call's line and those above it, comments included: what a reason refers to. */
  context: string;
}

export interface Mutated {
  source: string;
  mutants: Mutant[];
}

/** Of kernels: barriers, waits and commits of asynchronous copies, fences. They return nothing. */
const DEVICE_CALL =
  /\b(?:block_sync|warp_sync|barrier_sync|barrier_arrive|copy_async_commit|copy_async_wait<[^<>;]*>|mbarrier_\w+|fence_\w+|global_fence)\s*\(/g;
/** Of the backend: events and waiting. They return a Status. */
const HOST_CALL = /\bruntime(?:_|\(\))?(?:\.|->)(?:record|wait|synchronize)\(/g;
const CONTEXT_LINES = 5;

export type Language = 'device' | 'host';

/** `first`: number of the first mutant. Throws on text whose parentheses do not balance. */
export function mutate(file: string, source: string, language: Language, first: number): Mutated {
  const code = withoutComments(source);
  const mutants: Mutant[] = [];
  let out = '';
  let done = 0;
  for (const match of code.matchAll(language === 'device' ? DEVICE_CALL : HOST_CALL)) {
    const begin = match.index;
    if (isDeclaration(code, begin)) continue;
    const end = closing(file, code, begin + match[0].length - 1) + 1;
    const number = first + mutants.length;
    const nothing = language === 'device' ? '(void)0' : '::longhaul::Status()';
    out += source.slice(done, begin);
    out += `(longhaul_mutant(${number}) ? ${nothing} : ${source.slice(begin, end)})`;
    done = end;
    const before = source.slice(0, begin).split('\n');
    const line = before.length;
    mutants.push({
      number,
      file,
      line,
      text: source.slice(begin, end).replace(/\s+/g, ' '),
      context: source
        .split('\n')
        .slice(Math.max(0, line - CONTEXT_LINES), line)
        .join('\n'),
    });
  }
  return { source: out + source.slice(done), mutants };
}

/** Comments and strings become spaces, so that offsets stay. */
function withoutComments(source: string): string {
  return source.replace(/\/\/[^\n]*|\/\*[\s\S]*?\*\/|"(?:\\.|[^"\\\n])*"/g, (text) =>
    text.replace(/[^\n]/g, ' '),
  );
}

/** `void block_sync(`: a type stands before it. */
function isDeclaration(code: string, begin: number): boolean {
  const word = /(\w+)\s*$/.exec(code.slice(0, begin))?.[1];
  return word !== undefined && word !== 'return' && word !== 'else' && word !== 'do';
}

function closing(file: string, code: string, open: number): number {
  let depth = 0;
  for (let at = open; at < code.length; at++) {
    if (code[at] === '(') depth++;
    else if (code[at] === ')' && --depth === 0) return at;
  }
  throw new Error(`${file}: parentheses do not balance`);
}
