// Many prompts at once: as many as the context has sequences are computed together, and the others wait their turn.
//   node examples/many-requests.mjs MODEL
import { loadModel } from 'llama-duo';

const model = await loadModel(process.argv[2] ?? 'model.gguf');
const context = await model.createContext({ contextSize: 1024, sequences: 4 });

const countries = ['France', 'Italy', 'Norway', 'Peru', 'Japan', 'Kenya', 'Canada', 'Greece'];
const start = performance.now();
const results = await Promise.all(
  countries.map((country) => context.generate(`The capital of ${country} is`, { maxTokens: 16, temperature: 0, stop: '\n' }).result()),
);
const seconds = (performance.now() - start) / 1000;

for (const [index, { text }] of results.entries()) console.log(`${countries[index]}:${text}`);
const tokens = results.reduce((sum, { generatedTokens }) => sum + generatedTokens, 0);
console.log(`${tokens} tokens, ${(tokens / seconds).toFixed(1)} a second`);

await context.dispose();
await model.dispose();
