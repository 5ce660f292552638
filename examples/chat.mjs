// A conversation in the terminal.
//   node examples/chat.mjs MODEL
import { createInterface } from 'node:readline/promises';

import { loadModel } from 'llama-duo';

const model = await loadModel(process.argv[2] ?? 'model.gguf');
const context = await model.createContext();
const chat = context.chat({ system: 'You are a helpful assistant. Answer in one sentence.' });

const terminal = createInterface({ input: process.stdin, output: process.stdout });
terminal.setPrompt('> ');
terminal.prompt();
for await (const line of terminal) {
  for await (const chunk of chat.send(line, { maxTokens: 200 })) {
    if (chunk.type === 'text') process.stdout.write(chunk.text);
  }
  process.stdout.write('\n');
  terminal.prompt();
}

await context.dispose();
await model.dispose();
