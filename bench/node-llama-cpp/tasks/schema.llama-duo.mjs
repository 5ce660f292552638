import { z } from 'zod';
import { loadModel } from 'llama-duo';

const schema = z.object({ city: z.string(), country: z.string() });
const model = await loadModel(process.argv[2]);
const context = await model.createContext();
const { city, country } = await context.chat().send('Name a city.', { schema, maxTokens: 64, temperature: 0 }).value();
console.log(city, country);
await context.dispose();
await model.dispose();
