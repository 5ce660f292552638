import { getLlama, LlamaCompletion } from 'node-llama-cpp';

const llama = await getLlama();
const model = await llama.loadModel({ modelPath: process.argv[2] });
const context = await model.createContext({ contextSize: 512, sequences: 4 });
const prompts = ['One', 'Two', 'Three', 'Four'];
const texts = await Promise.all(
  prompts.map((prompt) => {
    const completion = new LlamaCompletion({ contextSequence: context.getSequence() });
    return completion.generateCompletion(prompt, { maxTokens: 16 });
  }),
);
console.log(texts);
await llama.dispose();
