import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

import { idsOf, needleF32, needleGates, Pair, Random, Server, writeModel } from './setup.ts';

// What the server does beside completions, with mixed heads: embeddings, reranking, and text in a gap.

const exact = ['-c', '4096', '-ctk', 'f32', '-ctv', 'f32', '-fa', 'on'];
const small = ['--duo-gates', needleGates, '--duo-sink', '16', '--duo-recent', '64'];
const noneStreams = ['--duo-sparsity', '0'];

const distance = (a: number[], b: number[]): number => {
  expect(a.length).toBe(b.length);
  return Math.max(...a.map((value, index) => Math.abs(value - (b[index] ?? NaN))));
};

async function embed(server: Server, input: number[] | number[][]): Promise<number[][]> {
  const { status, body } = await server.post('/v1/embeddings', { input });
  expect(status, JSON.stringify(body).slice(0, 500)).toBe(200);
  return (body as { data: { embedding: number[] }[] }).data.map(({ embedding }) => embedding);
}

describe.each(['last', 'mean'])('embeddings, --pooling %s', (pooling) => {
  const flags = [...exact, '--embeddings', '--pooling', pooling];
  const random = new Random(pooling.length);
  const texts = [500, 30, 200, 3, 400].map((length) => random.tokens(length));

  test('are those of llama.cpp where no head streams, others where heads do, and the same together as alone', async () => {
    const stock = await Server.start(needleF32(), [...flags, '-np', '1']);
    const full = await Server.start(needleF32(), [...flags, ...noneStreams, '-np', '2']);
    const mixed = await Server.start(needleF32(), [...flags, ...small, '-np', '2']);
    try {
      const [theirs, ours, streaming] = [await embed(stock, texts), await embed(full, texts), await embed(mixed, texts)];
      for (const [index, text] of texts.entries()) {
        const what = `${text.length} tokens`;
        expect(distance(ours[index] ?? [], theirs[index] ?? []), what).toBeLessThan(1e-3); // llama.cpp's flash attention has K and V in f16
        const apart = distance(streaming[index] ?? [], ours[index] ?? []);
        // sinks and window hold a short text whole
        if (text.length <= 80) expect(apart, what).toBeLessThan(1e-4);
        else expect(apart, what).toBeGreaterThan(1e-3);
        const [alone] = await embed(mixed, text);
        expect(distance(alone ?? [], streaming[index] ?? []), what).toBeLessThan(1e-4);
      }
      mixed.expectAlive();
      await mixed.expectIdle();
    } finally {
      await stock.stop();
      await full.stop();
      await mixed.stop();
    }
  });
});

test('embeddings and completions in turn, in the same slots', async () => {
  const pair = await Pair.start(needleF32(), [...exact, ...small, '--embeddings', '--pooling', 'last'], ['-np', '2']);
  try {
    const random = new Random(3);
    const text = random.tokens(300);
    const [first] = await embed(pair.server, text);
    for (let round = 0; round < 4; round++) {
      const prompt = [...text, ...random.tokens(1 + random.below(200))];
      const [answer, [vector]] = await Promise.all([pair.server.complete(prompt, { tokens: 8 }), embed(pair.server, text)]);
      await pair.expectFresh(prompt, answer, `round ${round}`);
      expect(distance(vector ?? [], first ?? []), `round ${round}`).toBeLessThan(1e-4);
      await pair.ask([...prompt, ...idsOf(answer), ...random.tokens(20)], `after round ${round}`, { tokens: 4 });
    }
    pair.server.expectAlive();
  } finally {
    await pair.stop();
  }
});

test('a server without --embeddings says so', async () => {
  const server = await Server.start(needleF32(), [...exact, ...small]);
  try {
    const { status, body } = await server.post('/v1/embeddings', { input: 'some text' });
    expect(status).toBe(501);
    expect(JSON.stringify(body)).toContain('--embeddings');
  } finally {
    await server.stop();
  }
});

test('/rerank: scores are those of llama.cpp where no head streams, and the same together as alone', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'llama-duo-rerank-'));
  // its score is of the last token, which looks at all of the document
  writeModel('qwen3', 'plain', folder);
  const model = join(folder, 'model.gguf');
  const flags = [...exact, '--reranking', '-ub', '1024', '-np', '3'];
  const own = ['--duo-gates', join(folder, 'model.duo.json'), '--duo-sink', '16', '--duo-recent', '64'];
  const random = new Random(11);
  const words = ['the', 'red', 'door', 'a', 'boat', 'lamp', 'winter', 'copper', 'is', 'of'];
  const sentence = (length: number): string => Array.from({ length }, () => words[random.below(words.length)]).join(' ');
  const query = 'where is the red door';
  const documents = [60, 5, 30, 80, 20].map(sentence);
  const scores = async (server: Server, of: string[]): Promise<number[]> => {
    const { status, body } = await server.post('/v1/rerank', { query, documents: of });
    expect(status, JSON.stringify(body)).toBe(200);
    const { results } = body as { results: { index: number; relevance_score: number }[] };
    // shares of many values: as a share of what each would have alike
    return of.map((_, index) => 100 * (results.find((result) => result.index === index)?.relevance_score ?? NaN));
  };
  // llama.cpp's own scores are right one at a time: of several sequences that one batch has, some are those of a part
  const stock = await Server.start(model, [...flags, '-np', '1']);
  const full = await Server.start(model, [...flags, '--duo-sparsity', '0']);
  const mixed = await Server.start(model, [...flags, ...own]);
  try {
    const [theirs, ours, streaming] = [await scores(stock, documents), await scores(full, documents), await scores(mixed, documents)];
    expect(distance(ours, theirs)).toBeLessThan(1e-3);
    expect(distance(streaming, ours)).toBeGreaterThan(3e-3);
    for (const [index, document] of documents.entries()) {
      const [alone] = await scores(mixed, [document]);
      expect(Math.abs((alone ?? NaN) - (streaming[index] ?? NaN)), `document ${index}`).toBeLessThan(1e-4);
    }
    mixed.expectAlive();
  } finally {
    await stock.stop();
    await full.stop();
    await mixed.stop();
    rmSync(folder, { recursive: true, force: true });
  }
});

describe('/infill', () => {
  // needle.gguf has no tokens for it: three ordinary ones stand for them
  const marks = { fim_pre: 101, fim_suf: 102, fim_mid: 103 };
  const own = Object.entries(marks).map(([name, token]) => `tokenizer.ggml.${name}_token_id=int:${token}`);
  const flags = [...exact, ...small, '-ub', '64', '--override-kv', own.join(',')];
  let pair: Server;
  let fresh: Server;
  beforeAll(async () => {
    pair = await Server.start(needleF32(), [...flags, '-np', '2']);
    fresh = await Server.start(needleF32(), [...flags, '-np', '1', '--ctx-checkpoints', '0', '--cache-ram', '0']);
  });
  afterAll(async () => {
    await pair.stop();
    await fresh.stop();
  });
  afterEach(() => pair.expectAlive());

  test('a file that is written on: its answers are those of a fresh context', async () => {
    const random = new Random(12);
    const words = ['The cooper keeps a book', 'the red door', 'a violin', 'under the basket', 'If the forest is brief', 'the map'];
    const lines = (count: number): string => Array.from({ length: count }, () => `${words[random.below(words.length)]}.\n`).join('');
    let [prefix, suffix] = [lines(60), lines(40)];
    let held = 0;
    for (let step = 0; step < 8; step++) {
      const ask = { input_prefix: prefix, input_suffix: suffix, n_predict: 12, temperature: 0, return_tokens: true, id_slot: 0 };
      const { status, body } = await pair.post('/infill', ask);
      expect(status, JSON.stringify(body)).toBe(200);
      const { tokens, content, timings } = body as { tokens: number[]; content: string; timings: { cache_n: number } };
      const { body: again } = await fresh.post('/infill', { ...ask, cache_prompt: false });
      expect(tokens, `step ${step}`).toEqual((again as { tokens: number[] }).tokens);
      expect(tokens.length).toBeGreaterThan(0);
      held += timings.cache_n;
      if (step % 4 === 3) suffix = `${words[random.below(words.length)]}\n${suffix}`;
      else if (step % 4 === 2) prefix = prefix.slice(0, prefix.length - 30);
      else prefix += content + lines(1);
    }
    expect(held).toBeGreaterThan(0);
    await pair.expectIdle();
  });
});
