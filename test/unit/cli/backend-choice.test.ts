import t from 'tap';
import {
  automaticBackend,
  backendVerdicts,
  chooseBackend,
  hasNvidiaDriver,
} from '../../../src/cli/backend-choice.js';

/** An addon whose backends are usable where a reason is not an excuse. */
function probe(usable: string[]): {
  probeBackend(name: string): { usable: boolean; reason: string };
} {
  return {
    probeBackend: (name) =>
      usable.includes(name)
        ? { usable: true, reason: `the ${name} of a test` }
        : { usable: false, reason: `backend ${name}: its plug-in was not built` },
  };
}

t.test('verdicts name every backend with a reason', async (t) => {
  const driver = hasNvidiaDriver() ? 'an NVIDIA driver is present' : 'no NVIDIA driver is present';
  t.same(backendVerdicts(probe(['cpu', 'cuda-emulated']), null), [
    { name: 'cpu', usable: true, reason: 'the cpu of a test' },
    {
      name: 'cuda',
      usable: false,
      reason: `backend cuda: its plug-in was not built (${driver})`,
    },
    { name: 'cuda-emulated', usable: true, reason: 'the cuda-emulated of a test' },
  ]);
  t.same(
    backendVerdicts(null, 'not built'),
    ['cpu', 'cuda', 'cuda-emulated'].map((name) => ({
      name,
      usable: false,
      reason: 'not built',
    })),
  );
});

t.test('auto takes the GPU, else the CPU, never the emulator', async (t) => {
  const of = (usable: string[]) => automaticBackend(backendVerdicts(probe(usable), null));
  t.equal(of(['cpu', 'cuda', 'cuda-emulated']), 'cuda');
  t.equal(of(['cpu', 'cuda-emulated']), 'cpu');
  t.equal(of(['cuda-emulated']), null);
  t.equal(of([]), null);
});

t.test('a device that was asked for is taken or refused', async (t) => {
  t.equal(chooseBackend('auto', probe([])), 'auto');
  t.equal(chooseBackend('cpu', probe([])), 'cpu');
  t.equal(chooseBackend('cuda', probe(['cuda'])), 'cuda');
  t.equal(chooseBackend('cuda-emulated', probe(['cuda-emulated'])), 'cuda-emulated');
  for (const name of ['cuda', 'cuda-emulated'] as const) {
    t.throws(() => chooseBackend(name, probe(['cpu'])), {
      code: 'ERR_DEVICE',
      message: `--backend ${name} cannot be used: backend ${name}: its plug-in was not built`,
    });
  }
});
