// node silent-script.mjs DIST BROKEN-MODEL: everything that llama.cpp has printed something about. The test that starts this looks at what is printed.
import { fileURLToPath, pathToFileURL } from 'node:url';

const [dist = '', broken = ''] = process.argv.slice(2);
// eslint-disable-next-line @typescript-eslint/no-unsafe-assignment -- the rule does not see the type
const { loadModel, readGates } = /** @type {typeof import('../../src/index.ts')} */ (await import(pathToFileURL(`${dist}/index.js`).href));

/** @param {string} path */
const file = (path) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
/** @type {string[]} */
const refused = [];
/** @type {(name: string, promise: Promise<unknown>) => Promise<unknown>} */
const refuse = (name, promise) =>
  promise.then(
    () => {},
    () => refused.push(name),
  );

// Before a model is loaded: nothing else has set up the log then.
await refuse('gates of no model', readGates(file('package.json')));
await refuse('no model', loadModel(file('package.json')));
await refuse('gates of a broken model', readGates(broken));
await refuse('a broken model', loadModel(broken));

const model = await loadModel(file('models/needle.gguf'));
await refuse('a context', model.createContext({ contextSize: 256, flashAttention: 'off', typeV: 'q8_0' }));
await refuse('mixed heads', model.createContext({ contextSize: 256, duo: { gates: file('package.json') } }));
const context = await model.createContext({ contextSize: 4096, threads: 1 });
for (const grammar of ['root ::= (', 'rot ::= "a"', 'root ::= root "a"', 'root ::= "\\x00"', 'root ::= what']) {
  await refuse(grammar, context.generate('one', { grammar }).result());
}
await context.generate('one', { grammar: 'root ::= "yes"', ignoreEos: true }).result();
await context.dispose();
await model.dispose();
process.stdout.write(`${refused.length} refused\n`);
