import { loadModel } from 'llama-duo';

const model = await loadModel(process.argv[2]);
const context = await model.createContext({ contextSize: 512, sequences: 4 });
const prompts = ['One', 'Two', 'Three', 'Four'];
const texts = await Promise.all(prompts.map((prompt) => context.generate(prompt, { maxTokens: 16 }).text()));
console.log(texts);
await context.dispose();
await model.dispose();
