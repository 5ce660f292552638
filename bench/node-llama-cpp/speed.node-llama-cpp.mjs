// The same by node-llama-cpp's lowest interface, which spares it everything but tokens.
import { getLlama } from 'node-llama-cpp';

const [source = '', tokens = '128', threads = '2'] = process.argv.slice(2);
const maxTokens = Number(tokens);
const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error' });
const model = await llama.loadModel({ modelPath: source });
const context = await model.createContext({ contextSize: 1024, sequences: 4, threads: Number(threads) });
const sequences = Array.from({ length: 4 }, () => context.getSequence());
const prompt = model.tokenize('It was a dark and stormy night, and the rain fell on the roofs of');

/** @param {import('node-llama-cpp').LlamaContextSequence} sequence */
async function generate(sequence) {
  await sequence.clearHistory();
  let count = 0;
  for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    void token;
    if (++count === maxTokens) break;
  }
  return count;
}

/** @param {number} n */
async function rate(n) {
  const start = performance.now();
  const counts = await Promise.all(sequences.slice(0, n).map(generate));
  return (counts.reduce((sum, count) => sum + count, 0) * 1000) / (performance.now() - start);
}

await rate(1);
const one = await rate(1);
const four = await rate(4);
console.log(JSON.stringify({ one, four, residentBytes: process.memoryUsage.rss() }));
await llama.dispose();
