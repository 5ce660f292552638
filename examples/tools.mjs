// The model calls a function of the program's, and answers with what came of it.
// A model that was trained to call tools has a template that tells of them. Others refuse, unless they get one, such as tools.jinja for ChatML models.
//   node examples/tools.mjs MODEL [TEMPLATE]
import { readFile } from 'node:fs/promises';

import { z } from 'zod';

import { loadModel, tool } from 'llama-duo';

const temperatures = { Rome: 31, Oslo: 14, Lima: 19 };

const weather = tool({
  name: 'temperature',
  description: 'How warm it is in a city now, in degrees Celsius.',
  parameters: z.object({ city: z.enum(['Rome', 'Oslo', 'Lima']) }),
  run: ({ city }) => ({ city, degrees: temperatures[city] }),
});

const [source = 'model.gguf', file] = process.argv.slice(2);
const template = file && (await readFile(file, 'utf8'));
const model = await loadModel(source);
const context = await model.createContext();
const chat = context.chat({ tools: [weather], maxToolRounds: 1, template });

// A model that knows of tools calls one by itself; 'required' makes any model do so.
for await (const chunk of chat.send('How warm is it in Oslo?', { toolChoice: 'required', maxTokens: 100 })) {
  if (chunk.type === 'text') process.stdout.write(chunk.text);
  if (chunk.type === 'toolCall') console.log('\ncalls', chunk.call.name, chunk.call.arguments);
  if (chunk.type === 'toolResult') console.log('gets', chunk.result);
}
process.stdout.write('\n');

await context.dispose();
await model.dispose();
