import { getLlama } from 'node-llama-cpp';

const llama = await getLlama();
const model = await llama.loadModel({ modelPath: process.argv[2] });
const context = await model.createEmbeddingContext();
const texts = Array.from({ length: 100 }, (_, index) => `Text number ${index}.`);
const embeddings = await Promise.all(texts.map((text) => context.getEmbeddingFor(text)));
console.log(embeddings.length, embeddings[0].vector.length);
await llama.dispose();
