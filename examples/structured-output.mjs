// Text becomes data: the answer follows a schema, token by token, and is validated by it.
//   node examples/structured-output.mjs MODEL
import { z } from 'zod';

import { loadModel } from 'llama-duo';

const schema = z.object({
  name: z.string().max(40),
  year: z.int().min(1000).max(2100),
  genres: z.array(z.enum(['drama', 'comedy', 'crime', 'science fiction'])).max(2),
});

const model = await loadModel(process.argv[2] ?? 'model.gguf');
const context = await model.createContext();
const chat = context.chat();

const film = await chat.send('Which film should I see tonight? Answer with its name, year and genres.', { schema, maxTokens: 200 }).value();
console.log(`${film.name} (${film.year}): ${film.genres.join(', ')}`);

const sure = await chat.send('Is it any good?', { choices: ['yes', 'no', 'I do not know'] }).value();
console.log(sure);

await context.dispose();
await model.dispose();
