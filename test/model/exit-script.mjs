// Ends its process in one of several ways while a generation is under way: node exit-script.mjs DIST MODEL HOW

import { argv, exit } from 'node:process';
import { pathToFileURL } from 'node:url';

const [, , dist = '', modelPath = '', how] = argv;
// eslint-disable-next-line @typescript-eslint/no-unsafe-assignment -- the rule does not see the type
const { loadModel } = /** @type {typeof import('../../src/index.ts')} */ (await import(pathToFileURL(`${dist}/index.js`).href));

const model = await loadModel(modelPath);
const context = await model.createContext({ contextSize: 4096, threads: 2, duo: { sparsity: 1 } });
const generation = context.generate('Once upon a time', { ignoreEos: true, temperature: 0, readAhead: 100000 });
await generation.next();
console.log('decoding');

if (how === 'exit') exit(7);
if (how === 'Deno.exit') globalThis.Deno.exit(7);
if (how === 'throw') throw new Error('thrown on purpose');
if (how === 'load') {
  void loadModel(modelPath);
  exit(7);
}
// how === 'end': nothing is awaited any more, so the process ends by itself, with the engine at work.
