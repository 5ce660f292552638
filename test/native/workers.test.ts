import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';

import { expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import { loadModel } from '../../src/index.ts';
import { needlePath, sleep, threads } from './needle.ts';

// The compiled package: Node 20 cannot run the sources in a worker.
const index = join(root, 'dist/index.js');
const script = new URL('./worker-script.mjs', import.meta.url);

/** The threads of this process, JavaScript's and the library's. */
function threadCount(): number {
  return readdirSync('/proc/self/task').length;
}

function threadNames(): string {
  return readdirSync('/proc/self/task')
    .map((task) => readFileSync(`/proc/self/task/${task}/comm`, 'utf8').trim())
    .join(', ');
}

async function endedWorker(how: string): Promise<void> {
  const worker = new Worker(script, { workerData: { index: pathToFileURL(index).href, model: needlePath, how } });
  const ended = new Promise<void>((resolve, reject) => {
    worker.once('error', reject);
    worker.once('exit', () => {
      resolve();
    });
  });
  await Promise.race([ended, new Promise((resolve) => worker.once('message', resolve))]);
  if (how === 'terminate' || how === 'calibrate') await worker.terminate();
  await ended;
}

async function fallsTo(count: number, timeoutMs: number): Promise<boolean> {
  const end = performance.now() + timeoutMs;
  while (threadCount() > count && performance.now() < end) await sleep(20);
  return threadCount() <= count;
}

// Where the system tells a process's threads.
const ways = ['end', 'exit', 'terminate', 'calibrate'];
test.runIf(process.platform === 'linux').each(ways)('what a worker held ends with it: %s', { timeout: 120_000 }, async (how) => {
  expect(existsSync(index), `${index} is missing: "npm run build" makes it`).toBe(true);
  await endedWorker(how); // a runtime may keep threads of its own from the first time on that something is done
  await sleep(1000);
  const before = threadCount();
  for (let round = 0; round < 2; round++) await endedWorker(how);
  expect(await fallsTo(before, 30_000), `${before} threads, then ${threadNames()}`).toBe(true);

  // and nobody else's
  await using model = await loadModel(needlePath);
  await using context = await model.createContext({ contextSize: 512, threads });
  const generation = context.generate('Once', { ignoreEos: true, maxTokens: 100 });
  await generation.next();
  await endedWorker(how);
  expect((await generation.result()).generatedTokens).toBe(100);
});
