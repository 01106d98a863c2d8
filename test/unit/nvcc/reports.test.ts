import t from 'tap';
import { compiledFunctions, judge } from '../../nvcc/checks.js';
import { EXPECTATIONS } from '../../nvcc/expectations.js';
import { parseEnums, shortName } from '../../nvcc/kernel-name.js';
import {
  type FunctionReport,
  parsePtxasReport,
  warpsByRegisters,
} from '../../nvcc/ptxas-report.js';
import {
  countAll,
  countMatching,
  functionKey,
  type Instructions,
  parseSass,
} from '../../nvcc/sass.js';

const PTXAS = `ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z1aP' for 'sm_80'
ptxas info    : Function properties for _Z1aP
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 43 registers, used 1 barriers, 456 bytes cmem[0]
ptxas info    : Compile time = 56.425 ms
ptxas info    : Compiling entry function '_Z1aP' for 'sm_90a'
ptxas info    : Function properties for _Z4slowf
    32 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for _Z1aP
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 168 registers, used 2 barriers, 16 bytes cumulative stack size, 1024 bytes smem, 456 bytes cmem[0]
ptxas info    : Compile time = 3.5 ms
seconds 7
`;

t.test(
  'registers, stack, spills and shared memory of each function and architecture',
  async (t) => {
    const reports = parsePtxasReport(PTXAS);
    t.same(
      reports.map((r) => [r.symbol, r.architecture, r.isKernel, r.registers, r.sharedBytes]),
      [
        ['_Z1aP', 'sm_80', true, 43, 0],
        ['_Z1aP', 'sm_90a', true, 168, 1024],
        ['_Z4slowf', 'sm_90a', false, 0, 0],
      ],
    );
    t.same(
      reports.map((r) => [r.stackBytes, r.spillStoreBytes, r.spillLoadBytes, r.compileMs]),
      [
        [0, 0, 0, 56.425],
        [16, 8, 12, 3.5],
        [32, 0, 0, 0],
      ],
    );
  },
);

t.test('a report that was cut off is not taken for one without spills', async (t) => {
  const cut = PTXAS.split('\n').slice(0, 3).join('\n');
  t.throws(() => parsePtxasReport(cut), /_Z1aP \(sm_80\) has no properties/);
});

t.test('warps by registers', async (t) => {
  t.equal(warpsByRegisters(32), 64);
  t.equal(warpsByRegisters(33), 51);
  t.equal(warpsByRegisters(168), 12);
  t.equal(warpsByRegisters(169), 11);
  t.equal(warpsByRegisters(255), 8);
});

const SASS = `
	code for sm_90a
		Function : _Z1aP
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;             /* 0x00000a00ff017b82 */
                                                                      /* 0x000fe20000000800 */
        /*0010*/             @!P0  LDG.E.NA.128.CONSTANT R4, [R2] ;   /* 0x00000a00ff017b82 */
        /*0020*/               @P1 HMMA.16816.F32 R4, R8, R2, R4 ;    /* 0x00000a00ff017b82 */
        /*0030*/                   HFMA2.MMA R25, -RZ, RZ, 0, 0 ;     /* 0x00000a00ff017b82 */
        /*0040*/             @UP0  LDG.E.64 R4, [R2] ;                /* 0x00000a00ff017b82 */
        /*0050*/                   HMMA.16816.F32 R4, R8, R2, R4 ;    /* 0x00000a00ff017b82 */
		Function : _Z1bP
        /*0000*/                   STL [R1], R0 ;                     /* 0x00000a00ff017b82 */
`;

t.test('instructions are counted by function, whatever their predicate', async (t) => {
  const functions = parseSass(SASS);
  t.same([...functions.keys()], [functionKey('_Z1aP', 'sm_90a'), functionKey('_Z1bP', 'sm_90a')]);
  const a = functions.get(functionKey('_Z1aP', 'sm_90a'))!;
  t.equal(countAll(a), 6);
  t.equal(a.get('HMMA.16816.F32'), 2);
  t.equal(countMatching(a, /^HMMA\./), 2, 'HFMA2.MMA is no tensor core');
  t.equal(countMatching(a, /^LDG\.E.*\.128\b/), 1);
});

t.test('readable names', async (t) => {
  const enums = parseEnums(`enum class Kind : int32_t { kA, kB,  // two
    kC };
  enum class Odd { kOne = 1, kTwo };`);
  t.same(enums.get('Kind'), ['kA', 'kB', 'kC']);
  t.notOk(enums.has('Odd'), 'numbers given by hand are not guessed');
  const space = 'longhaul::device::';
  t.equal(
    shortName(`void ${space}k<${space}C<128, (${space}Kind)2>, true>(${space}P)`, enums),
    'k<C<128, kC>, true>',
  );
  t.equal(shortName(`${space}plain(${space}P)`, enums), 'plain');
  t.equal(shortName(`void ${space}k<(unsigned int)3, (${space}Odd)1>(P)`, enums), 'k<3, (Odd)1>');
  t.equal(shortName('_Zmangled', enums), '_Zmangled');
});

// A kernel of a row of the table, as compiled well; `change` spoils it.
function kernel(name: string, change: Partial<FunctionReport> = {}, instructions: string[] = []) {
  const report: FunctionReport = {
    symbol: name,
    architecture: 'sm_80',
    isKernel: true,
    registers: 64,
    sharedBytes: 0,
    stackBytes: 0,
    spillStoreBytes: 0,
    spillLoadBytes: 0,
    compileMs: 1,
    ...change,
  };
  const counts: Instructions = new Map(instructions.map((mnemonic) => [mnemonic, 1]));
  const sass = new Map([[functionKey(name, report.architecture), counts]]);
  return { report, sass };
}

function problemsOf(name: string, change: Partial<FunctionReport>, instructions: string[] | null) {
  const { report, sass } = kernel(name, change, instructions ?? []);
  const functions = compiledFunctions([report], new Map(), instructions === null ? null : sass);
  return judge(functions, instructions !== null).find((verdict) => verdict.name === name)!.problems;
}

t.test('verdicts', async (t) => {
  const name = 'attention_decode_kernel<DecodeConfig<128, kF16>>';
  const good = ['HMMA.16816.F32', 'LDGSTS.E.BYPASS.LTC128B.128', 'LDSM.16.M88.4', 'LDG.E.128'];
  t.same(problemsOf(name, {}, good), []);
  t.same(problemsOf(name, {}, null), [], 'without a disassembler registers and spills are left');
  t.match(problemsOf(name, { spillStoreBytes: 4, stackBytes: 8 }, good), [
    /spills: 4 bytes stored, 0 loaded/,
    /a stack frame of 8 bytes/,
  ]);
  t.match(problemsOf(name, {}, good.slice(1)), [/no instruction "tensor f16"/]);
  t.match(problemsOf(name, {}, ['LDGSTS.E.64', ...good.filter((x) => !x.startsWith('LDGSTS'))]), [
    /no instruction "async copy"/,
  ]);
  t.match(problemsOf(name, {}, [...good, 'LDL.64']), [/1 instructions on local memory/]);
  t.match(problemsOf('new_kernel', {}, good), [/no row of EXPECTATIONS/]);
  t.match(problemsOf('slow_path', { isKernel: false, stackBytes: 40 }, good), [
    /called, with a stack frame of 40 bytes/,
  ]);
  t.same(problemsOf('quick_path', { isKernel: false }, good), []);
});

t.test('a row of the table that no kernel answers to is a failure', async (t) => {
  const { report, sass } = kernel('attention_decode_kernel<X>');
  const verdicts = judge(compiledFunctions([report], new Map(), sass), true);
  const rows = verdicts.filter((verdict) => verdict.name.startsWith('expectations: '));
  t.equal(rows.length, EXPECTATIONS.length);
  t.same(
    rows.filter((row) => row.problems.length === 0).map((row) => row.name),
    ['expectations: ^attention_decode_kernel<'],
  );
});
