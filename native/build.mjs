// Builds the addon with cmake-js, as npm's install step. Plain JavaScript: it runs before the
// TypeScript of the project is compiled.
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

const cuda = process.env.LONGHAUL_CUDA ?? 'auto';
if (!['auto', 'on', 'off'].includes(cuda)) {
  fail(`LONGHAUL_CUDA: expected auto, on or off, received "${cuda}".`);
}
const driver = existsSync('/proc/driver/nvidia/version') || existsSync('/dev/nvidiactl');
if (cuda === 'on') {
  fail('LONGHAUL_CUDA=on, but this version has no CUDA backend yet. Use auto or off.');
}
const why =
  cuda === 'off'
    ? 'LONGHAUL_CUDA=off'
    : driver
      ? 'this version has none yet'
      : 'no NVIDIA driver found';
console.log(`longhaul: building the CPU backend; CUDA plug-in: not built (${why}).`);

const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const args = [
  require.resolve('cmake-js/bin/cmake-js'),
  'build',
  '--directory',
  root,
  '--out',
  join(root, 'build', 'addon'),
  '--config',
  'Release',
  `--CDLONGHAUL_VERSION=${version}`,
  `--CDNODE_ADDON_API_DIR=${dirname(require.resolve('node-addon-api/package.json'))}`,
];
if (process.env.LONGHAUL_WERROR === '1' || process.env.CI) args.push('--CDLONGHAUL_WERROR=ON');
const result = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' });
if (result.status !== 0) {
  fail(
    'The compiler output above says why. Requirements: CMake >= 3.20, GCC >= 11 or Clang >= 14.\n' +
      'After fixing it, run "npm run build:native".',
  );
}
