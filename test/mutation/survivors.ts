/**
 * Calls whose removal no test can notice, each with the reason. A reason that no longer applies (its
 * mutant is caught, or gone) fails the run.
 */
export interface Survivor {
  file: string;
  /** Part of the call's line or of the five lines up to it. */
  near: string;
  because: string;
}

const ONE_MEMORY =
  'a fence between blocks, which the emulator cannot miss: its global memory is one, without caches ' +
  'and reordering (PTX ISA 8, causality order)';

export const SURVIVORS: readonly Survivor[] = [
  {
    file: 'native/backend/cuda/weight_uploader.cc',
    near: 'WeightUploader::finish',
    because:
      'the page-locked buffers are released next, and to release memory waits for the device, in the ' +
      'driver as in the emulator; weights must not depend on that',
  },
  {
    file: 'kernels/matmul_quant.cuh',
    near: "this thread's sums before the count",
    because: `${ONE_MEMORY}: the sums of a block are seen by others before its count`,
  },
  {
    file: 'kernels/matmul_quant.cuh',
    near: "the count before other blocks' sums",
    because: `${ONE_MEMORY}: other blocks' sums are read after their counts`,
  },
  {
    file: 'kernels/matmul_quant.cuh',
    near: "all threads' sums and fences",
    because:
      'the emulator runs one block after the other, and within the block the next barrier orders the ' +
      'same; on a device another block could add sums that are not written yet',
  },
  {
    file: 'kernels/sample_block.cuh',
    near: 'they are visible before the arrival is',
    because: `${ONE_MEMORY}: what a block wrote is seen by others before its arrival`,
  },
  {
    file: 'kernels/sample_block.cuh',
    near: 'what other blocks wrote is read after their arrivals',
    because: `${ONE_MEMORY}: other blocks' results are read after their arrivals`,
  },
];
