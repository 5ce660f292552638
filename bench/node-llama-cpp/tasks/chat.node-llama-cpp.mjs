import { getLlama, LlamaChatSession } from 'node-llama-cpp';

const llama = await getLlama();
const model = await llama.loadModel({ modelPath: process.argv[2] });
const context = await model.createContext();
const session = new LlamaChatSession({ contextSequence: context.getSequence(), systemPrompt: 'Be brief.' });
await session.prompt('What is the capital of France?', {
  maxTokens: 32,
  onTextChunk: (text) => process.stdout.write(text),
});
await llama.dispose();
