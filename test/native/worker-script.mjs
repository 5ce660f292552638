// Works in a worker until it is ended in one of several ways, with all that it made still in its hands.

import { parentPort, workerData } from 'node:worker_threads';

// eslint-disable-next-line @typescript-eslint/no-unsafe-assignment -- the rule does not see the type
const { index, model: path, how } = /** @type {{ index: string, model: string, how: string }} */ (workerData);
// eslint-disable-next-line @typescript-eslint/no-unsafe-assignment -- the rule does not see the type
const { loadModel } = /** @type {typeof import('../../src/index.ts')} */ (await import(index));

const model = await loadModel(path);
if (how === 'calibrate') {
  const ready = () => parentPort?.postMessage('ready');
  // Of 100,000 short passes: hours, each of them soon over.
  const options = { samples: 1, questions: 2, contextSize: 512, sink: 4, recent: 32, threads: 1 };
  await model.calibrate({ ...options, method: 'masks', masks: 100_000, onProgress: ready });
} else {
  const context = await model.createContext({ contextSize: 4096, threads: 1 });
  const generation = context.generate('Once upon a time', { ignoreEos: true });
  await generation.next();
  parentPort?.postMessage('ready');
  if (how === 'exit') process.exit(0);
  if (how === 'terminate') await generation.result();
  // how === 'end': nothing is awaited any more, so the worker ends by itself
}
