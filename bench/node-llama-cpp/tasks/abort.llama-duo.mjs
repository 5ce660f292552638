import { loadModel } from 'llama-duo';

const model = await loadModel(process.argv[2]);
const context = await model.createContext();
try {
  await context.generate('Count: 1, 2, 3,', { signal: AbortSignal.timeout(500) }).text();
} catch (error) {
  console.log(error.name);
}
await context.dispose();
await model.dispose();
