import { getLlama, LlamaChatSession } from 'node-llama-cpp';

const llama = await getLlama();
const grammar = await llama.createGrammarForJsonSchema({
  type: 'object',
  properties: { city: { type: 'string' }, country: { type: 'string' } },
});
const model = await llama.loadModel({ modelPath: process.argv[2] });
const context = await model.createContext();
const session = new LlamaChatSession({ contextSequence: context.getSequence() });
const answer = await session.prompt('Name a city.', { grammar, maxTokens: 64, temperature: 0 });
const { city, country } = grammar.parse(answer);
console.log(city, country);
await llama.dispose();
