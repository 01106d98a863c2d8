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

export const SURVIVORS: readonly Survivor[] = [
  {
    file: 'native/backend/cuda/weight_uploader.cc',
    near: 'WeightUploader::finish',
    because:
      'the page-locked buffers are released next, and to release memory waits for the device, in the ' +
      'driver as in the emulator; weights must not depend on that',
  },
];
