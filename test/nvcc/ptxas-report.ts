/**
 * What `nvcc -Xptxas -v` prints: for each function and architecture its registers, stack and
 * spills. Kernels, and device functions that were not inlined into them.
 */
export interface FunctionReport {
  /** Mangled. */
  symbol: string;
  /** "sm_80". */
  architecture: string;
  /** False: a function that kernels call; its registers are counted with theirs. */
  isKernel: boolean;
  registers: number;
  /** Static shared memory; what a launch asks for comes on top. */
  sharedBytes: number;
  stackBytes: number;
  spillStoreBytes: number;
  spillLoadBytes: number;
  compileMs: number;
}

const COMPILING = /^ptxas info\s*: Compiling entry function '([^']+)' for '([^']+)'/;
const PROPERTIES = /^ptxas info\s*: Function properties for (\S+)/;
const STACK = /^\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/;
const USED = /^ptxas info\s*: Used (\d+) registers/;
const SHARED = /(\d+) bytes smem/;
const TIME = /^ptxas info\s*: Compile time = ([\d.]+) ms/;

/** Every function of the text, in its order. Throws on text that has a kernel without its properties. */
export function parsePtxasReport(text: string): FunctionReport[] {
  const reports: FunctionReport[] = [];
  let kernel: FunctionReport | null = null;
  let current: FunctionReport | null = null;
  const begin = (symbol: string, architecture: string, isKernel: boolean): FunctionReport => {
    const report: FunctionReport = {
      symbol,
      architecture,
      isKernel,
      registers: 0,
      sharedBytes: 0,
      stackBytes: -1,
      spillStoreBytes: 0,
      spillLoadBytes: 0,
      compileMs: 0,
    };
    reports.push(report);
    return report;
  };
  for (const line of text.split('\n')) {
    const compiling = COMPILING.exec(line);
    if (compiling) {
      kernel = current = begin(compiling[1]!, compiling[2]!, true);
      continue;
    }
    if (kernel === null) continue;
    const properties = PROPERTIES.exec(line);
    if (properties) {
      const symbol = properties[1]!;
      current = symbol === kernel.symbol ? kernel : begin(symbol, kernel.architecture, false);
      continue;
    }
    const stack = STACK.exec(line);
    if (stack && current !== null) {
      current.stackBytes = Number(stack[1]);
      current.spillStoreBytes = Number(stack[2]);
      current.spillLoadBytes = Number(stack[3]);
      continue;
    }
    const used = USED.exec(line);
    if (used) {
      kernel.registers = Number(used[1]);
      kernel.sharedBytes = Number(SHARED.exec(line)?.[1] ?? 0);
      continue;
    }
    const time = TIME.exec(line);
    if (time) kernel.compileMs = Number(time[1]);
  }
  for (const report of reports) {
    if (report.stackBytes < 0 || (report.isKernel && report.registers === 0)) {
      throw new Error(`ptxas report: ${report.symbol} (${report.architecture}) has no properties`);
    }
  }
  return reports;
}

/** Warps of 32 threads that the 65,536 registers of a multiprocessor have room for, 64 at most. */
export function warpsByRegisters(registers: number): number {
  // Registers are handed out to a warp in units of 256: eight a thread.
  const perWarp = Math.ceil(registers / 8) * 8 * 32;
  return Math.min(64, Math.floor(65_536 / perWarp));
}
