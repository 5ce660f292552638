// A long document is read once, with mixed heads, and asked twice; what was read is kept in a file, which a later run goes on from.
//   node examples/long-document.mjs MODEL [DOCUMENT [STATE]]
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';

import { loadModel } from 'llama-duo';

const [source = 'model.gguf', document = new URL('../README.md', import.meta.url), state = 'document.state'] = process.argv.slice(2);
const questions = ['\n\nIn one sentence, this document is about', '\n\nThe most important word of it is'];

const model = await loadModel(source);
// With gates of the model's own `duo: 'auto'` is all that is needed; here every head streams, since that needs none.
const duo = model.gates ? 'auto' : { sparsity: 1, sink: 64, recent: 1024 };
const context = await model.createContext({ contextSize: 8192, sequences: 2, duo });
const { totalBytes, fullBytes } = context.memory();
console.log(
  `The cache takes ${(totalBytes / 2 ** 20).toFixed(1)} MiB, and would take ${(fullBytes / 2 ** 20).toFixed(1)} with full heads.`,
);

const sequence = await context.sequence();
if (existsSync(state)) {
  await sequence.load(state);
  console.log(`${sequence.length} tokens come from ${state}.`);
} else {
  const text = await readFile(document, 'utf8');
  const read = await sequence.append(text.slice(0, 12_000), { addSpecial: true });
  const bytes = await sequence.saveFile(state);
  console.log(`${read} tokens were read; their state takes ${(bytes / 2 ** 20).toFixed(1)} MiB in ${state}.`);
}

// Each question is asked of a copy, and nothing is read again.
for (const question of questions) {
  const copy = await sequence.fork();
  const { text, promptTokens, reusedTokens } = await copy.generate(question, { maxTokens: 24, temperature: 0, stop: '\n' }).result();
  console.log(`${question.trim()}${text} (${promptTokens - reusedTokens} tokens were read for it)`);
  await copy.dispose();
}

await sequence.dispose();
await context.dispose();
await model.dispose();
