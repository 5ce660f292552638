import { writeFileSync } from 'node:fs';

import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';

import { chequered, modelPath, patternOf } from '../model/setup.ts';
import { idsOf, Pair, Random } from './setup.ts';

// A model of everyday make at the defaults. Its weights are quantised, so log-probabilities vary with how tokens are batched; where a wrong token or a lost
// one is seen they are whole units apart.
const tolerance = 0.3;

let pair: Pair;
beforeAll(async () => {
  const gates = `${modelPath}.test-server.json`;
  writeFileSync(gates, patternOf(chequered(30, 3)));
  pair = await Pair.start(modelPath, ['-c', '8192', '--duo-gates', gates, '--duo-sparsity', '0.5'], ['-np', '1']);
}, 120_000);
afterAll(() => pair.stop());
afterEach(() => pair.server.expectAlive());

const random = new Random(7);

test('four requests of which one is short', { timeout: 600_000 }, async () => {
  const long = random.tokens(2000);
  await pair.ask(random.tokens(8), 'a short prompt', {}, tolerance);
  await pair.ask(random.tokens(5), 'five tokens', { reuse: false }, tolerance);
  await pair.ask(long, 'an unrelated prompt', {}, tolerance);
  await pair.ask([...long.slice(0, 1000), ...random.tokens(100)], 'an edit of it', {}, tolerance);
});

test('a chat that goes on, is edited and is taken up again', { timeout: 600_000 }, async () => {
  const chat = random.tokens(700);
  for (let turn = 0; turn < 4; turn++) {
    const answer = await pair.ask(chat, `turn ${turn}`, { tokens: 8 }, tolerance);
    if (turn > 0) expect(answer.reused).toBeGreaterThan(600);
    chat.push(...idsOf(answer), ...random.tokens(20));
  }
  await pair.ask([...chat.slice(0, 350), ...random.tokens(50)], 'an edit in the middle', {}, tolerance);
  await pair.ask(chat, 'the chat as it was', {}, tolerance);
});
