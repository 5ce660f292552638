// Finds the text that is nearest in meaning. A model made for embeddings does it best; any other does it somehow.
//   node examples/embeddings-search.mjs MODEL
import { loadModel } from 'llama-duo';

const texts = [
  'The cat sleeps on the warm roof.',
  'Stock markets fell sharply on Monday.',
  'Add two eggs and a cup of flour.',
  'The spacecraft will reach Mars in seven months.',
];
const query = 'The rocket flies to another planet.';

const model = await loadModel(process.argv[2] ?? 'model.gguf');
const embedder = await model.createEmbedder();

const [asked, ...known] = await embedder.embed([query, ...texts]);
const cosine = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0); // they have length 1
const found = known.map((embedding, index) => ({ text: texts[index], likeness: cosine(asked, embedding) }));
found.sort((a, b) => b.likeness - a.likeness);
for (const { text, likeness } of found) console.log(likeness.toFixed(3), text);

await embedder.dispose();
await model.dispose();
