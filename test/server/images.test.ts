import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import { mediaMarker, Pair, type Prompt, Random } from './setup.ts';

// Random models that see (cpp/test/image-models.cpp), through tools/mtmd.
const folder = mkdtempSync(join(tmpdir(), 'llama-duo-images-'));
const { status, stderr } = spawnSync(join(root, 'build/test-mtmd'), ['write', folder], { encoding: 'utf8' });
if (status !== 0) throw new Error(`build/test-mtmd write: ${stderr}. "npm run test:server" builds it.`);
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

const random = new Random(11);
const words = (count: number): string => Array.from({ length: count }, () => ` w${300 + random.below(200)}`).join('');

/** A picture of random colours, as a BMP file in base64. */
function picture(width: number, height: number): string {
  const row = Math.ceil((3 * width) / 4) * 4;
  const file = Buffer.alloc(54 + row * height);
  file.write('BM');
  file.writeUInt32LE(file.length, 2);
  file.writeUInt32LE(54, 10);
  file.writeUInt32LE(40, 14);
  file.writeInt32LE(width, 18);
  file.writeInt32LE(height, 22);
  file.writeUInt16LE(1, 26);
  file.writeUInt16LE(24, 28);
  for (let at = 54; at < file.length; at++) file[at] = random.below(256);
  return file.toString('base64');
}

/** Texts and pictures in turn. */
function prompt(...parts: (string | { picture: string })[]): Prompt {
  return {
    prompt_string: parts.map((part) => (typeof part === 'string' ? part : mediaMarker)).join(''),
    multimodal_data: parts.flatMap((part) => (typeof part === 'string' ? [] : [part.picture])),
  };
}

function start(name: string): Promise<Pair> {
  const gates = join(folder, `${name}.tsv`);
  writeFileSync(gates, name === 'qwen35' ? '0\t0\n0.9\t0.1\n0\t0\n0.2\t0.8\n' : '0.9\t0.1\n0.2\t0.8\n'); // two of its four layers attend
  const exact = ['-c', '4096', '-ctk', 'f32', '-ctv', 'f32', '-fa', 'on', '-ub', '64', '--mmproj', join(folder, `${name}-mmproj.gguf`)];
  return Pair.start(join(folder, `${name}.gguf`), [...exact, '--duo-gates', gates, '--duo-sink', '8', '--duo-recent', '32'], ['-np', '1']);
}

describe.each(['qwen2vl', 'qwen3vl', 'qwen35'])('%s', (name) => {
  let pair: Pair;
  beforeAll(async () => {
    pair = await start(name);
  }, 60_000);
  afterAll(async () => {
    console.log(`${name}: ${pair.toString()}`);
    await pair.stop();
  });
  afterEach(() => pair.server.expectAlive());

  const [one, two, three] = [picture(100, 60), picture(50, 130), picture(90, 90)].map((file) => ({ picture: file }));
  const [begin, middle, end] = [words(20), words(30), words(90)];
  if (!one || !two || !three) throw new Error('three pictures');

  test('prompts that share texts and pictures', { timeout: 300_000 }, async () => {
    await pair.ask(prompt(begin, one, middle, two, end), 'two pictures');
    const longer = await pair.ask(prompt(begin, one, middle, two, end, words(20)), 'and more text');
    expect(longer.reused).toBeGreaterThan(300);
    const another = prompt(begin, one, middle, two, end, words(20), three, words(9));
    expect((await pair.ask(another, 'and another picture')).reused).toBeGreaterThan(300);
    await pair.ask(another, 'the same again');
    await pair.ask(another, 'the same without reuse', { reuse: false });
    await pair.ask(prompt(begin, one, middle, three, end), 'another second picture');
    await pair.ask(prompt(begin, one, middle, three, words(12)), 'another end behind it');
    await pair.ask(prompt(begin, one, words(3)), 'one picture');
    await pair.ask(prompt(begin, one, middle), 'another text behind it');
    await pair.ask(prompt(begin, words(5)), 'none');
    await pair.ask(prompt(two, words(5)), 'a picture first');
    await pair.ask(prompt(two, one, words(5)), 'two pictures side by side');
    await pair.ask(prompt(two, one, three, words(4)), 'three');
    await pair.ask(prompt(begin, two), 'a picture last');
    await pair.ask(prompt(begin, two, words(1)), 'and a word');
  });

  test('random prompts', { timeout: 300_000 }, async () => {
    let parts: (string | { picture: string })[] = [begin];
    let reused = 0;
    for (let step = 0; step < 25; step++) {
      parts = parts.slice(0, 1 + random.below(parts.length));
      if (random.below(5) === 0) parts = [];
      for (let count = 1 + random.below(3); count > 0; count--)
        parts.push(random.below(2) ? words(1 + random.below(60)) : ([one, two, three][random.below(3)] ?? one));
      if (parts.length > 8) parts = parts.slice(4);
      if (typeof parts.at(-1) !== 'string') parts.push(words(1 + random.below(9)));
      reused += (await pair.ask(prompt(...parts), `step ${step}`, { tokens: 1 + random.below(12) })).reused;
    }
    expect(reused).toBeGreaterThan(0);
  });

  test('a slot with pictures is saved and restored', async () => {
    await pair.ask(prompt(begin, one, middle), 'the prompt');
    expect((await pair.server.slots('save', 0, 'slot')).status).toBe(200);
    await pair.ask(prompt(two, end), 'another');
    expect((await pair.server.slots('restore', 0, 'slot')).status).toBe(200);
    const answer = await pair.ask(prompt(begin, one, middle, words(5)), 'the restored prompt and more');
    if (name !== 'qwen35') expect(answer.reused).toBeGreaterThan(100); // whose recurrent states do not go back to before the first answer
  });

  test('a picture that does not fit is refused, and what comes next is as before', { timeout: 120_000 }, async () => {
    for (let round = 0; round < 2; round++) {
      const huge = { picture: picture(500, 500) };
      const refused = await pair.server.post('/completion', { prompt: prompt(begin, huge, end), n_predict: 2 });
      expect(refused.status).toBeGreaterThanOrEqual(400);
      pair.server.expectAlive();
      await pair.ask(prompt(begin, one, words(7)), 'a smaller one');
    }
  });
});

test('pictures without causal attention are refused by name, and texts go on', async () => {
  const pair = await start('gemma3');
  try {
    await pair.ask(prompt(words(30)), 'a text');
    for (let round = 0; round < 2; round++) {
      const { status, body } = await pair.server.post('/completion', {
        prompt: prompt(words(9), { picture: picture(60, 60) }, words(9)),
        n_predict: 2,
      });
      expect(status, JSON.stringify(body)).toBe(500);
      pair.server.expectAlive();
    }
    expect(pair.server.log).toContain("its attention is not causal, as that of some models' images is");
    await pair.ask(prompt(words(40)), 'another text');
  } finally {
    await pair.stop();
  }
}, 60_000);
