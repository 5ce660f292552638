import { getLlama, LlamaCompletion } from 'node-llama-cpp';

const llama = await getLlama();
const model = await llama.loadModel({ modelPath: process.argv[2] });
const context = await model.createContext();
const completion = new LlamaCompletion({ contextSequence: context.getSequence() });
try {
  await completion.generateCompletion('Count: 1, 2, 3,', { signal: AbortSignal.timeout(500) });
} catch (error) {
  console.log(error.name);
}
await llama.dispose();
