import { loadModel } from 'llama-duo';

const model = await loadModel(process.argv[2]);
const embedder = await model.createEmbedder();
const texts = Array.from({ length: 100 }, (_, index) => `Text number ${index}.`);
const embeddings = await embedder.embed(texts);
console.log(embeddings.length, embeddings[0].length);
await embedder.dispose();
await model.dispose();
