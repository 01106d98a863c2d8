/** The verdicts on compiled kernels: reports and instructions against the table of expectations. */
import {
  CALLED_FUNCTIONS,
  EXPECTATIONS,
  type Expectation,
  expectationOf,
  INSTRUCTIONS,
  LOCAL_MEMORY,
} from './expectations.js';
import { type FunctionReport, warpsByRegisters } from './ptxas-report.js';
import { countMatching, functionKey, type Instructions } from './sass.js';

export interface CompiledFunction {
  /** Readable. */
  name: string;
  report: FunctionReport;
  /** Null where there is no disassembler, and of functions that are not kernels. */
  instructions: Instructions | null;
}

export interface Verdict {
  name: string;
  architecture: string;
  /** Empty: as expected. */
  problems: string[];
}

/** Joins reports and instructions; the same instantiation of two objects is one entry. */
export function compiledFunctions(
  reports: readonly FunctionReport[],
  names: ReadonlyMap<string, string>,
  sass: ReadonlyMap<string, Instructions> | null,
): CompiledFunction[] {
  const functions = new Map<string, CompiledFunction>();
  for (const report of reports) {
    const key = functionKey(report.symbol, report.architecture);
    const instructions = report.isKernel ? (sass?.get(key) ?? null) : null;
    functions.set(key, { name: names.get(report.symbol) ?? report.symbol, report, instructions });
  }
  return [...functions.values()].sort(
    (a, b) =>
      a.name.localeCompare(b.name, 'en', { numeric: true }) ||
      a.report.architecture.localeCompare(b.report.architecture),
  );
}

export function judge(functions: readonly CompiledFunction[], disassembled: boolean): Verdict[] {
  const verdicts = functions.map((item) => ({
    name: item.name,
    architecture: item.report.architecture,
    problems: item.report.isKernel ? kernelProblems(item, disassembled) : calledProblems(item),
  }));
  for (const row of EXPECTATIONS) {
    const used = functions.some((item) => item.report.isKernel && expectationOf(item.name) === row);
    verdicts.push({
      name: `expectations: ${row.kernel.source}`,
      architecture: 'any',
      problems: used ? [] : ['no kernel has a name like this'],
    });
  }
  return verdicts;
}

function kernelProblems(item: CompiledFunction, disassembled: boolean): string[] {
  const expected = expectationOf(item.name);
  if (expected === undefined) return ['no row of EXPECTATIONS is about it'];
  const problems = memoryProblems(item.report, expected);
  const warps = warpsByRegisters(item.report.registers);
  if (expected.warps !== undefined && warps < expected.warps) {
    problems.push(
      `${item.report.registers} registers leave room for ${warps} warps, expected ${expected.warps}`,
    );
  }
  if (!disassembled) return problems;
  if (item.instructions === null) return [...problems, 'not in the disassembly'];
  for (const need of expected.needs) {
    if (countMatching(item.instructions, INSTRUCTIONS[need]) === 0) {
      problems.push(`no instruction "${need}" (${INSTRUCTIONS[need].source}): ${expected.because}`);
    }
  }
  const local = countMatching(item.instructions, LOCAL_MEMORY);
  if (local > 0 && expected.allows === undefined) {
    problems.push(`${local} instructions on local memory`);
  }
  return problems;
}

function memoryProblems(report: FunctionReport, expected: Expectation): string[] {
  const problems: string[] = [];
  const spilled = report.spillStoreBytes + report.spillLoadBytes;
  if (spilled > 0) {
    problems.push(
      `spills: ${report.spillStoreBytes} bytes stored, ${report.spillLoadBytes} loaded`,
    );
  }
  if (report.stackBytes > (expected.allows?.stackBytes ?? 0)) {
    problems.push(`a stack frame of ${report.stackBytes} bytes`);
  }
  return problems;
}

function calledProblems(item: CompiledFunction): string[] {
  if (item.report.stackBytes === 0) return [];
  if (CALLED_FUNCTIONS.some((row) => row.name.test(item.name))) return [];
  return [`called, with a stack frame of ${item.report.stackBytes} bytes`];
}
