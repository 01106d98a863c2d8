/** The worker thread's side of text-service: renders and encodes, one job after the other. */
import { parentPort, workerData } from 'node:worker_threads';
import { loadAddon } from '../binding/addon.js';
import { toEngineError } from '../errors.js';
import { PromptEncoder } from './prompt-encoder.js';
import type { Job, JobResult, WorkerReply, WorkerSetup } from './worker-protocol.js';

const port = parentPort;
if (port === null) throw new Error('worker.js runs only as a worker thread of text-service');

const { tokenizerId, profile } = workerData as WorkerSetup;
const encoder = new PromptEncoder(loadAddon().openTokenizer(tokenizerId), profile);

function reply(message: WorkerReply, transfer: ArrayBuffer[] = []): void {
  port!.postMessage(message, transfer);
}

function run(job: Job): JobResult {
  if (job.type === 'chat') {
    return encoder.encodeChat(job.request, () => reply({ type: 'rendered' }));
  }
  return { text: '', tokens: encoder.encode(job.text, job.addSpecialTokens) };
}

port.on('message', (job: Job) => {
  try {
    const result = run(job);
    reply({ type: 'done', result }, [result.tokens.buffer as ArrayBuffer]);
  } catch (thrown) {
    const { code, message, param } = toEngineError(thrown);
    reply({ type: 'failed', code, message, param });
  }
});
reply({ type: 'ready' });
