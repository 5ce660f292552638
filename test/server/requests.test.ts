import { closeSync, openSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

import { all } from '../extent.ts';
import { idsOf, needleF32, needleGates, Pair, Random, Server } from './setup.ts';

const exact = ['-c', '8192', '-ctk', 'f32', '-ctv', 'f32', '-fa', 'on', '--duo-gates', needleGates];
const small = ['--duo-sink', '16', '--duo-recent', '64'];

describe('four requests of which one is short', () => {
  // A checkpoint of one token, made while a short prompt is processed, must not outlive the token.
  let pair: Pair;
  beforeAll(async () => {
    pair = await Pair.start(needleF32(), exact);
  });
  afterAll(() => pair.stop());
  afterEach(() => pair.server.expectAlive());

  const random = new Random(1);
  const [short, five, six, long, others] = [random.tokens(8), random.tokens(5), random.tokens(6), random.tokens(3000), random.tokens(100)];

  test('with a five-token prompt that may not reuse', async () => {
    await pair.ask(short, 'the short prompt');
    await pair.ask(five, 'five tokens', { reuse: false });
    await pair.ask(long, 'an unrelated prompt');
    await pair.ask([...long.slice(0, 1000), ...others], 'an edit of it');
  });

  test('with a first token that all begin with', async () => {
    await pair.ask([1, ...short], 'the short prompt');
    await pair.ask([1, ...six.slice(1)], 'six tokens');
    await pair.ask([1, ...long], 'an unrelated prompt');
    await pair.ask([1, ...long.slice(0, 1000), ...others], 'an edit of it');
  });

  test('with a checkpoint of one token after a hundred', async () => {
    const begin = long.slice(0, 100);
    await pair.ask([...begin, ...short], 'the prompt');
    await pair.ask([...begin, ...five], 'one that parts from it five tokens before its end');
    await pair.ask([...begin, ...others, ...long], 'an unrelated continuation');
    await pair.ask([...begin, ...others, ...long.slice(0, 1000), ...five], 'an edit of it');
  });
});

describe.each([
  { slots: 1, ubatch: 512 },
  { slots: 4, ubatch: 64 },
  ...(all
    ? [
        { slots: 1, ubatch: 64 },
        { slots: 4, ubatch: 512 },
      ]
    : []),
])('-np $slots -ub $ubatch', ({ slots, ubatch }) => {
  let pair: Pair;
  beforeAll(async () => {
    pair = await Pair.start(needleF32(), [...exact, ...small, '-ub', String(ubatch)], ['-np', String(slots)]);
  });
  afterAll(async () => {
    console.log(`-np ${slots} -ub ${ubatch}: ${pair.toString()}`);
    await pair.stop();
  });
  afterEach(() => pair.server.expectAlive());

  const random = new Random(slots * 1000 + ubatch);
  // a streaming head's cells: sinks, the window, a ubatch and what may be taken back, in whole blocks of 64
  const ring = Math.ceil((16 + 64 + 1 + ubatch + 64) / 64) * 64;
  const prompt = random.tokens(2 * ring + 100);

  test('a prompt that goes on is reused', async () => {
    const first = await pair.ask(prompt, 'the prompt', { slot: 0 });
    const longer = [...prompt, ...idsOf(first), ...random.tokens(30)];
    const second = await pair.ask(longer, 'the prompt and more', { slot: 0 });
    expect(second.reused).toBeGreaterThanOrEqual(prompt.length);
    await pair.ask(longer, 'the same again', { slot: 0 });
    const third = await pair.ask(longer, 'the same without reuse', { slot: 0, reuse: false });
    expect(third.reused).toBe(0);
  });

  test('prompts that part at any place', { timeout: 600_000 }, async () => {
    const around = (place: number): number[] => [-2, -1, 0, 1, 2].map((step) => place + step);
    const first = Array.from({ length: 21 }, (_, place) => place);
    const places = new Set([...first, ...around(16), ...around(16 + 64), ...around(ring), ...around(2 * ring), prompt.length - 1]);
    let reused = 0;
    for (const place of places) {
      await pair.server.complete(prompt, { slot: 0 });
      const other = [...prompt.slice(0, place), ...random.tokens(1 + random.below(40))];
      reused += (await pair.ask(other, `parting at ${place}`, { slot: 0, tokens: 2 })).reused;
    }
    expect(reused).toBeGreaterThan(0);
  });

  test('edits in the middle, shorter and longer prompts', { timeout: 300_000 }, async () => {
    const text = [...prompt];
    for (let edit = 0; edit < 12; edit++) {
      const at = random.below(text.length);
      text.splice(at, random.below(4), ...random.tokens(random.below(6)));
      await pair.ask(text, `edit ${edit} at ${at}`, { slot: 0, tokens: 2 });
      await pair.ask(text.slice(0, 1 + random.below(text.length)), `cut after edit ${edit}`, { slot: 0, tokens: 2 });
    }
  });

  test('slots are saved and restored; what is no slot is refused and changes nothing else', async () => {
    const { server } = pair;
    await pair.ask(prompt, 'the prompt', { slot: 0 });
    expect((await server.slots('save', 0, 'slot')).status).toBe(200);
    await pair.ask(random.tokens(200), 'another prompt', { slot: 0 });
    expect((await server.slots('restore', slots - 1, 'slot')).status).toBe(200);
    const edited = [...prompt, ...random.tokens(20)];
    const answer = await pair.ask(edited, 'the restored prompt and more', { slot: slots - 1 });
    expect(answer.reused).toBeGreaterThanOrEqual(prompt.length - 1);

    const file = join(server.folder, 'slot');
    for (const [name, bytes] of Object.entries({
      empty: 0,
      head: 10,
      tokens: 200,
      half: statSync(file).size >> 1,
      nearly: statSync(file).size - 1,
    })) {
      writeFileSync(join(server.folder, name), readFileSync(file));
      truncateSync(join(server.folder, name), bytes);
      expect((await server.slots('restore', 0, name)).status, name).toBe(400);
      server.expectAlive();
      await pair.ask([...prompt.slice(0, 300), ...random.tokens(5)], `after ${name}`, { slot: 0, tokens: 2 });
    }
    const forged = readFileSync(file);
    forged.writeUInt32LE(forged.readUInt32LE(8) - 1, 8); // one token fewer, and what follows a token late
    writeFileSync(join(server.folder, 'forged'), forged);
    expect((await server.slots('restore', 0, 'forged')).status).toBe(400);
    closeSync(openSync(join(server.folder, 'touched'), 'w'));
    expect((await server.slots('restore', 0, 'touched')).status).toBe(400);
    expect((await server.slots('restore', 0, 'missing')).status).toBe(400);
    expect((await server.slots('erase', 0)).status).toBe(200);
    await pair.ask(prompt, 'after all of them', { slot: 0 });
  });

  test('clients that hang up', async () => {
    for (let call = 0; call < 8; call++) {
      await pair.server.hangUp([...prompt.slice(0, random.below(prompt.length)), ...random.tokens(3)], call % 4, call % slots);
      await pair.ask([...prompt.slice(0, random.below(prompt.length)), ...random.tokens(3)], `after call ${call}`, {
        slot: call % slots,
        tokens: 2,
      });
    }
  });

  test('requests side by side, and several answers to one', { timeout: 120_000 }, async () => {
    for (let round = 0; round < 3; round++) {
      const prompts = Array.from({ length: 6 }, () => [
        ...prompt.slice(0, random.below(prompt.length)),
        ...random.tokens(1 + random.below(100)),
      ]);
      const answers = await Promise.all(prompts.map((one) => pair.server.complete(one)));
      for (const [index, answer] of answers.entries()) await pair.expectFresh(prompts[index] ?? [], answer, `one of six in round ${round}`);
    }
    const alike = await pair.server.completeAll(prompt, { more: { n_cmpl: slots } });
    expect(alike.length).toBe(slots);
    for (const answer of alike) await pair.expectFresh(prompt, answer, 'one of several answers');
    await pair.ask([...prompt, ...random.tokens(3)], 'after several answers');
  });

  test('what mixed heads have no part in', async () => {
    const { server } = pair;
    const text = prompt.slice(0, 50);
    for (const [path, body] of [
      ['/infill', { input_prefix: 'a', input_suffix: 'b', n_predict: 2 }],
      ['/embeddings', { input: 'some text' }],
      ['/rerank', { query: 'a', documents: ['b'] }],
      ['/completion', { prompt: text, n_predict: 2, n_cache_reuse: 16 }],
      ['/completion', { prompt: text, n_predict: 2, n_keep: 5, n_discard: 3 }],
      ['/completion', { prompt: [], n_predict: 2 }],
      ['/completion', { prompt: [...prompt, ...random.tokens(9000)], n_predict: 2 }],
      ['/lora-adapters', []],
    ] as const) {
      const { status } = await server.post(path, body);
      expect([200, 400, 501], path).toContain(status);
    }
    // to the end of the slot's context, which is not shifted
    const full = random.tokens(8192 / slots - 20);
    const answer = await server.complete(full, { tokens: 100, slot: 0 });
    expect(answer.tokens.length).toBeLessThanOrEqual(20);
    await pair.ask(text, 'after all of them', { slot: 0 });
  });
});

test('a slot saved without mixed heads is refused, and the other way round', async () => {
  const prompt = new Random(9).tokens(600);
  const stock = await Server.start(needleF32(), ['-c', '2048', '-ctk', 'f32', '-ctv', 'f32', '-fa', 'on', '-np', '1']);
  const mixed = await Server.start(needleF32(), [...exact, '-np', '1']);
  try {
    for (const [from, to] of [
      [stock, mixed],
      [mixed, stock],
    ] as const) {
      await from.complete(prompt);
      expect((await from.slots('save', 0, 'slot')).status).toBe(200);
      writeFileSync(join(to.folder, 'foreign'), readFileSync(join(from.folder, 'slot')));
      expect((await to.slots('restore', 0, 'foreign')).status).toBe(400);
      to.expectAlive();
      expect((await to.complete(prompt)).tokens.length).toBe(4);
    }
  } finally {
    await stock.stop();
    await mixed.stop();
  }
});

test('drafts longer than what may be taken back', async () => {
  // n-grams of the prompt are proposed, more of them than the 64 positions of a rollback
  const speculative = ['--spec-type', 'ngram-simple', '--spec-ngram-simple-size-m', '200'];
  const pair = await Pair.start(needleF32(), [...exact, ...small], [...speculative, '-np', '1']);
  try {
    // one beginning that goes on in two ways, in both orders: what is proposed is right in one and wrong in the other
    const random = new Random(5);
    const [begin, one, other] = [random.tokens(40), random.tokens(220), random.tokens(220)];
    const first = [...begin, ...one];
    const second = [...begin, ...other];
    let taken = 0;
    let refused = 0;
    for (const parts of [
      [first, first],
      [first, second],
      [second, first],
      [first, second, first],
      [second, second, first, second],
    ]) {
      const prompt = [...parts.flat(), ...begin];
      const { drafted, accepted } = await pair.ask(prompt, `${prompt.length} tokens that repeat themselves`, { tokens: 250 });
      console.log(`${accepted} of ${drafted} drafted tokens accepted`);
      taken += accepted;
      refused += drafted - accepted;
    }
    expect(taken).toBeGreaterThan(64);
    expect(refused).toBeGreaterThan(64);
    pair.server.expectAlive();
  } finally {
    await pair.stop();
  }
});

test.each([
  { flags: ['-fa', 'off'], says: '-fa off' },
  { flags: ['-sm', 'tensor'], says: '-sm tensor' },
  { flags: ['-np', '8', '-b', '4'], says: '8 sequences (-np) in batches of 4 tokens' },
])('$flags is refused with a sentence', async ({ flags, says }) => {
  const start = Server.start(needleF32(), [...exact, ...flags]);
  await expect(start).rejects.toThrow(`ended (code 1)`);
  await expect(start).rejects.toThrow(`mixed heads (--duo-*) cannot be used with ${says}`);
});

test('what is left out is said once', async () => {
  const server = await Server.start(needleF32(), [...exact, '-c', '4096', '-np', '4', '-kvu', '--context-shift', '--cache-reuse', '64']);
  try {
    for (const option of ['-kvu', '--context-shift', '--cache-reuse'])
      expect(server.log.split(`mixed heads (--duo-*) go without ${option}: `).length, server.log).toBe(2);
    expect(server.log).toContain('n_ctx_slot = 1024');
    expect((await server.complete(new Random(3).tokens(50), { tokens: 2 })).tokens.length).toBe(2);
  } finally {
    await server.stop();
  }
});
