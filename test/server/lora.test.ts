import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

import { writeLora, type Adapted } from '../lora.ts';
import { idsOf, needleF32, needleGates, Pair, Random } from './setup.ts';

// models/needle.gguf: 6 layers of 8 heads, 4 of K and V, of 64 values; embeddings of 256
const adapted = Array.from({ length: 6 }, (_, layer): Adapted[] => [
  [`blk.${layer}.attn_q.weight`, 256, 512],
  [`blk.${layer}.attn_k.weight`, 256, 256],
  [`blk.${layer}.attn_v.weight`, 256, 256],
  [`blk.${layer}.attn_output.weight`, 512, 256],
]).flat();

describe.each([{ slots: 1 }, { slots: 3 }])('two LoRA adapters, -np $slots', ({ slots }) => {
  const folder = mkdtempSync(join(tmpdir(), 'llama-duo-lora-'));
  const files = [1, 2].map((seed) => join(folder, `${seed}.gguf`));
  let pair: Pair;
  beforeAll(async () => {
    files.forEach((file, index) => writeLora(file, adapted, { seed: index + 1 }));
    const duo = ['--duo-gates', needleGates, '--duo-sink', '16', '--duo-recent', '64', '-ub', '64'];
    const flags = ['-c', '6144', '-ctk', 'f32', '-ctv', 'f32', '-fa', 'on', ...duo, ...files.flatMap((file) => ['--lora', file])];
    // a stored prompt does not say with which adapters it was processed
    pair = await Pair.start(needleF32(), flags, ['-np', String(slots), '--cache-ram', '0']);
  });
  afterAll(async () => {
    await pair.stop();
    rmSync(folder, { recursive: true, force: true });
  });
  afterEach(() => pair.server.expectAlive());

  const random = new Random(slots);
  const prompt = random.tokens(500);
  const scaled = (...scales: number[]): Record<string, unknown> => ({ lora: scales.map((scale, id) => ({ id, scale })) });
  const all = [scaled(0, 0), scaled(1, 0), scaled(0, 1), scaled(0.5, 0.5), scaled(-1, 1)];

  test('a request says how much of each; its answer is that of a fresh context', async () => {
    const answers = new Set<string>();
    for (const more of [...all, ...all.slice().reverse()]) {
      const answer = await pair.ask(prompt, JSON.stringify(more), { slot: 0, tokens: 12, more });
      answers.add(JSON.stringify([idsOf(answer), answer.tokens[0]?.logProbability?.toFixed(2)]));
    }
    expect(answers.size).toBe(all.length);
  });

  test('a prompt that goes on with the same adapters is reused, with others it is not', async () => {
    const one = scaled(1, 0);
    const other = scaled(0, 1);
    const first = await pair.ask(prompt, 'the prompt', { slot: 0, more: one });
    const longer = [...prompt, ...idsOf(first), ...random.tokens(30)];
    expect((await pair.ask(longer, 'the prompt and more', { slot: 0, more: one })).reused).toBeGreaterThanOrEqual(prompt.length);
    expect((await pair.ask(longer, 'with another adapter', { slot: 0, more: other })).reused).toBe(0);
    await pair.ask([...longer.slice(0, 400), ...random.tokens(9)], 'an edit of it', { slot: 0, more: other });
  });

  test('requests side by side, each with adapters of its own, and clients that hang up', { timeout: 120_000 }, async () => {
    for (let round = 0; round < 3; round++) {
      const asked = all.map((more) => ({ more, own: [...prompt.slice(0, random.below(400)), ...random.tokens(1 + random.below(60))] }));
      const hangingUp = pair.server.hangUp([...prompt, ...random.tokens(5)], round);
      const answers = await Promise.all(asked.map(({ more, own }) => pair.server.complete(own, { tokens: 12, more })));
      await hangingUp;
      for (const [index, { more, own }] of asked.entries()) {
        const answer = answers[index];
        if (answer) await pair.expectFresh(own, answer, `round ${round}, ${JSON.stringify(more)}`, { more });
      }
    }
  });
});
