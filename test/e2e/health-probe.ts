/**
 * Runs in a worker thread beside a load test: asks `workerData.url` again and again over one
 * connection and measures each answer, away from the event loop that reads the load's streams.
 * Posts the latencies in milliseconds when told to stop.
 */
import { Agent, get } from 'node:http';
import { parentPort, workerData } from 'node:worker_threads';

const PAUSE_MS = 20;
const { url } = workerData as { url: string };
const agent = new Agent({ keepAlive: true, maxSockets: 1 });
const latencies: number[] = [];
let running = true;

function ask(): Promise<number> {
  return new Promise((resolve, reject) => {
    const start = performance.now();
    get(url, { agent }, (response) => {
      response.resume();
      response.on('end', () => {
        if (response.statusCode === 200) resolve(performance.now() - start);
        else reject(new Error(`${url} answered ${response.statusCode}`));
      });
    }).on('error', reject);
  });
}

parentPort?.on('message', () => {
  running = false;
});
while (running) {
  latencies.push(await ask());
  await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
}
parentPort?.postMessage(latencies);
parentPort?.close();
agent.destroy();
