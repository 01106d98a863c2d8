// Builds the addon with cmake-js, as npm's install step. Plain JavaScript: it runs before the
// TypeScript of the project is compiled.
//
// The CUDA plug-in is built beside it where LONGHAUL_CUDA says so: on; off; auto (the default) =
// where a driver is present and nvcc is found. `--emulated` builds the same backend over the
// emulator (needs Boost.Context), for machines without a GPU.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);

function fail(message) {
  console.error(`\nlonghaul: the native addon was not built.\n${message}\n`);
  process.exit(1);
}

function has(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;
}

const missing = [];
if (!has(process.env.CMAKE ?? 'cmake')) missing.push('CMake 3.20 or newer (package "cmake")');
const compilers = [process.env.CXX, 'c++', 'g++', 'clang++'].filter(Boolean);
if (!compilers.some(has))
  missing.push('a C++20 compiler (package "g++", GCC 11 or newer, or Clang 14)');
if (!has('make') && !has('ninja')) missing.push('Make or Ninja (package "make" or "ninja-build")');
if (missing.length > 0) {
  fail(
    `Missing: ${missing.join('; ')}.\n` +
      'On Debian or Ubuntu: apt-get install build-essential cmake\n' +
      'On Fedora: dnf install gcc-c++ make cmake\nOn macOS: xcode-select --install; brew install cmake',
  );
}

const emulated = process.argv.includes('--emulated');

/** nvcc where CMake will look for it, too. */
function findNvcc() {
  const toolkits = [process.env.CUDA_HOME, process.env.CUDA_PATH, '/usr/local/cuda'];
  const paths = toolkits.filter(Boolean).map((toolkit) => join(toolkit, 'bin', 'nvcc'));
  return ['nvcc', ...paths].find(has);
}

/** Whether to build the plug-in for real devices, and why not. */
function cudaChoice() {
  const wanted = process.env.LONGHAUL_CUDA ?? 'auto';
  if (!['auto', 'on', 'off'].includes(wanted)) {
    fail(`LONGHAUL_CUDA: expected auto, on or off, received "${wanted}".`);
  }
  if (wanted === 'off') return { wanted, build: false, why: 'LONGHAUL_CUDA=off' };
  const driver = existsSync('/proc/driver/nvidia/version') || existsSync('/dev/nvidiactl');
  if (wanted === 'auto' && !driver) return { wanted, build: false, why: 'no NVIDIA driver found' };
  if (findNvcc()) return { wanted, build: true };
  if (wanted === 'auto') {
    return {
      wanted,
      build: false,
      why: 'there is a driver, but nvcc (CUDA toolkit) was not found',
    };
  }
  return fail(
    'LONGHAUL_CUDA=on, but nvcc was not found. Install the CUDA toolkit (12.4 or newer) and put nvcc\n' +
      'on the PATH or set CUDA_HOME. LONGHAUL_CUDA=off builds without.',
  );
}

const cuda = cudaChoice();
console.log(
  `longhaul: building the CPU backend${emulated ? ' and the emulated CUDA plug-in' : ''}; ` +
    `CUDA plug-in: ${cuda.build ? 'built by nvcc' : `not built (${cuda.why})`}.`,
);

const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
/** Exit status of cmake-js. */
function build(withCuda) {
  const options = [
    '--directory',
    root,
    '--out',
    join(root, 'build', 'addon'),
    '--config',
    'Release',
    `--CDLONGHAUL_VERSION=${version}`,
    `--CDLONGHAUL_CUDA=${withCuda ? 'ON' : 'OFF'}`,
    `--CDLONGHAUL_CUDA_EMULATED=${emulated ? 'ON' : 'OFF'}`,
    `--CDNODE_ADDON_API_DIR=${dirname(require.resolve('node-addon-api/package.json'))}`,
  ];
  if (process.env.LONGHAUL_WERROR === '1' || process.env.CI) options.push('--CDLONGHAUL_WERROR=ON');
  // "build" alone would keep the options of an earlier configuration.
  for (const command of ['configure', 'build']) {
    const args = [require.resolve('cmake-js/bin/cmake-js'), command, ...options];
    const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' });
    if (status !== 0) return status;
  }
  return 0;
}

let status = build(cuda.build);
if (status !== 0 && cuda.build && cuda.wanted === 'auto') {
  // Nobody asked for the plug-in in so many words: a toolkit that does not work must not cost the
  // CPU backend. Asking the server for --backend cuda will say that there is no plug-in.
  console.error(
    '\nlonghaul: the CUDA plug-in could not be built (see above); building without it.',
  );
  status = build(false);
}
if (status !== 0) {
  fail(
    'The compiler output above says why. Requirements: CMake >= 3.20, GCC >= 11 or Clang >= 14' +
      `${cuda.build ? ', CUDA toolkit >= 12.4' : ''}${emulated ? ', Boost.Context' : ''}.\n` +
      `After fixing it, run "npm run build:${emulated ? 'emulated' : 'native'}".`,
  );
}
