import { existsSync, writeFileSync } from 'node:fs';

import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';

import { windowedTestModel } from '../../scripts/places.mjs';
import { longText } from '../model/setup.ts';
import { idsOf, inF32, Pair, Server } from './setup.ts';

// A real model in which 15 of 18 layers have sliding windows of 512 tokens, with F32 weights and cache.
if (!existsSync(windowedTestModel)) throw new Error(`${windowedTestModel} is missing. "npm run test:server" fetches it.`);
const tolerance = 1e-3;

// One of the three global heads streams. A windowed layer keeps 704 cells: 512, a batch of 128 and 64 that may be taken back.
const flags = ['-c', '4096', '-ub', '128', '-ctk', 'f32', '-ctv', 'f32', '-fa', 'on'];
const cells = 704;
const slack = 64;

let pair: Pair;
let stock: Server;
beforeAll(async () => {
  const model = inF32(windowedTestModel, 'gemma-3-270m');
  const gates = `${model}.test-server.json`;
  const rows = Array.from({ length: 18 }, (_, layer) => (layer % 6 === 5 ? [layer / 20] : []));
  writeFileSync(gates, JSON.stringify({ llamaDuoPattern: 1, layers: 18, kvHeads: 1, sink: 16, recent: 64, gates: rows }));
  pair = await Pair.start(model, [...flags, '--duo-gates', gates, '--duo-sparsity', '0.4'], ['-np', '1']);
  stock = await Server.start(model, [...flags, '-np', '1']);
}, 120_000);
afterAll(async () => {
  await pair.stop();
  await stock.stop();
});
afterEach(() => pair.server.expectAlive());

test('seven turns, some of whose answers come back shorter than they were, and an edit far behind', { timeout: 600_000 }, async () => {
  const words = await pair.server.tokenize(longText(200));
  const chat = [2, ...words.splice(0, cells)];
  const processed: Record<string, { tokens: number; 'not held': number; ours: number; stock: number }> = {};
  const ask = async (what: string, prompt: number[], held: number, compare: boolean): Promise<[answer: number[], processed: number]> => {
    const theirs = await stock.complete(prompt, { tokens: 8 });
    const answer = await pair.server.complete(prompt, { tokens: 8 });
    if (compare) await pair.expectFresh(prompt, answer, what, { tolerance });
    processed[what] = { tokens: prompt.length, 'not held': prompt.length - held, ours: answer.processed, stock: theirs.processed };
    return [idsOf(answer), answer.processed];
  };
  try {
    let held = 0; // of the chat, by the server
    for (let turn = 0; turn < 7; turn++) {
      // half of them, behind an answer that was kept and behind one that was cut: a fresh answer takes a while
      const [answer, count] = await ask(`turn ${turn}`, chat, held, [1, 2, 6].includes(turn));
      // what a window still holds is not computed again
      expect(count, `turn ${turn}`).toBe(chat.length - held);
      // each second time, as of a client that cuts an answer or leaves out what was thought
      const kept = answer.slice(0, turn % 2 === 0 ? 8 : 3);
      chat.push(...kept);
      held = chat.length - (kept.length === answer.length ? 1 : 0); // an answer's last token was never decoded
      chat.push(...words.splice(0, 40));
    }
    // further behind than may be taken back: from a checkpoint
    const place = chat.length - 300;
    const [, count] = await ask('an edit', [...chat.slice(0, place), ...words.splice(0, 60)], place, true);
    expect(count).toBeLessThan(place);
    expect(count).toBeGreaterThan(slack);
  } finally {
    console.table(processed);
    console.log(pair.toString());
  }
});
