// Prints { one, four, residentBytes }: tokens a second of one generation and of four at once, and what the process takes.
import { loadModel } from 'llama-duo';

const [source = '', tokens = '128', threads = '2'] = process.argv.slice(2);
const maxTokens = Number(tokens);
const model = await loadModel(source);
const context = await model.createContext({ contextSize: 1024, sequences: 4, threads: Number(threads) });
const prompt = model.tokenize('It was a dark and stormy night, and the rain fell on the roofs of');

/** @param {number} n */
async function rate(n) {
  const start = performance.now();
  const options = { maxTokens, temperature: 0, ignoreEos: true, reuse: false };
  await Promise.all(Array.from({ length: n }, () => context.generate(prompt, options).result()));
  return (n * maxTokens * 1000) / (performance.now() - start);
}

await rate(1);
const one = await rate(1);
const four = await rate(4);
console.log(JSON.stringify({ one, four, residentBytes: process.memoryUsage.rss() }));
await context.dispose();
await model.dispose();
