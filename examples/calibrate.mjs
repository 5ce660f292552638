// Finds the retrieval heads of a model, and compares what it finds to say with half of its heads streaming and with none.
//   node examples/calibrate.mjs MODEL
import { loadModel } from 'llama-duo';

const model = await loadModel(process.argv[2] ?? 'model.gguf');

// The default method takes minutes and is better; "mass" reads each sample once.
const { pattern } = await model.calibrate({
  method: 'mass',
  samples: 1,
  onProgress: (done) => process.stderr.write(`\r${Math.round(100 * done)}%`),
});
process.stderr.write('\n');
console.log(`${pattern.layers} layers of ${pattern.kvHeads} KV heads`);

const text = 'The key to the shed hangs behind the blue door. Whoever looks for it should look behind the blue door.';
for (const duo of [undefined, { gates: pattern, sparsity: 0.5, sink: 4, recent: 8 }]) {
  const context = await model.createContext({ contextSize: 4096, duo });
  const { logProbabilities } = await context.score(text);
  const mean = logProbabilities.reduce((sum, value) => sum + value, 0) / logProbabilities.length;
  const { retrievalHeads, streamingHeads, totalBytes } = context.memory();
  const heads = `${retrievalHeads} heads keep everything, ${streamingHeads} stream`;
  console.log(`${heads}: ${(totalBytes / 2 ** 20).toFixed(1)} MiB, ${mean.toFixed(3)} a token`);
  await context.dispose();
}

await model.dispose();
