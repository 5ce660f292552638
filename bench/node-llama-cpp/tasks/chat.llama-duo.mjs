import { loadModel } from 'llama-duo';

const model = await loadModel(process.argv[2]);
const context = await model.createContext();
const chat = context.chat({ system: 'Be brief.' });
for await (const chunk of chat.send('What is the capital of France?', { maxTokens: 32 })) {
  if (chunk.type === 'text') process.stdout.write(chunk.text);
}
await context.dispose();
await model.dispose();
