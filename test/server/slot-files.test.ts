import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import { idsOf, inF32, needleF32, needleGates, Pair, Random, Server } from './setup.ts';
import { root } from '../../scripts/places.mjs';

// Files that slots are saved to: whole or as they were, and refused with a reason where they are not what was saved.

const flags = ['-c', '4096', '-ctk', 'f32', '-ctv', 'f32', '-fa', 'on', '-np', '1', '-ub', '64'];
const mixed = ['--duo-gates', needleGates, '--duo-sink', '16', '--duo-recent', '64'];

/** What a slot's file would be called until it is whole. */
const parts = (folder: string): string[] => readdirSync(folder).filter((name) => name.startsWith('slot.part'));

test.each([
  { heads: 'mixed heads', own: mixed },
  { heads: 'full heads', own: [] },
])('a server that is killed while it saves leaves the old file or the new one, $heads', { timeout: 300_000 }, async ({ own }) => {
  const random = new Random(7);
  const [first, second] = [random.tokens(2500), random.tokens(2800)];
  const start = (folder?: string): Promise<Server> => Server.start(needleF32(), [...flags, ...own], folder === undefined ? {} : { folder });
  let server = await start();
  const { folder } = server;
  const slot = join(folder, 'slot');
  const saved: Record<'old' | 'new', Buffer> = { old: Buffer.alloc(0), new: Buffer.alloc(0) };
  const found = { old: 0, new: 0, 'while it was written': 0 };
  try {
    for (const [name, prompt] of [
      ['new', second],
      ['old', first],
    ] as const) {
      await server.complete(prompt, { tokens: 1 });
      expect((await server.slots('save', 0, name)).status).toBe(200);
      saved[name] = readFileSync(join(folder, name));
    }
    for (let round = 0; round < 4; round++) {
      writeFileSync(slot, saved.old);
      expect((await server.slots('restore', 0, 'new')).status).toBe(200);
      const saving = server.slots('save', 0, 'slot').catch(() => undefined);
      // as soon as something is written, and later and later
      const end = Date.now() + 10_000;
      while (parts(folder).length === 0 && readFileSync(slot).equals(saved.old) && Date.now() < end) await new Promise(setImmediate);
      await new Promise((resolve) => setTimeout(resolve, round * 4));
      await server.kill();
      await saving;
      const left = readFileSync(slot);
      const is = left.equals(saved.old) ? 'old' : 'new';
      expect(
        left.equals(saved[is]),
        `round ${round}: ${left.length} bytes, which are neither ${saved.old.length} old ones nor ${saved.new.length} new ones`,
      ).toBe(true);
      found[is]++;
      const unfinished = parts(folder);
      if (unfinished.length > 0) found['while it was written']++;
      server = await start(folder);
      // what was begun is refused, where it is asked for by its name
      for (const part of unfinished) {
        const whole = readFileSync(join(folder, part)).equals(saved.new); // all was written, and the name not yet changed
        if (!whole) expect((await server.slots('restore', 0, part)).status, part).toBe(400);
        rmSync(join(folder, part));
      }
      expect((await server.slots('restore', 0, 'slot')).status).toBe(200);
      const answer = await server.complete([...(is === 'old' ? first : second), 100], { tokens: 1 });
      expect(answer.processed).toBeLessThan(5);
    }
    console.log(`killed while saving: ${JSON.stringify(found)}`);

    // and where it is surely in the middle of it: at half of the file's size
    writeFileSync(slot, saved.old);
    await server.kill();
    server = await Server.start(needleF32(), [...flags, ...own], { folder, fileSize: saved.new.length >> 1 });
    expect((await server.slots('restore', 0, 'new')).status).toBe(200);
    await expect(server.slots('save', 0, 'slot')).rejects.toThrow();
    expect(readFileSync(slot).equals(saved.old)).toBe(true);
    const [part] = parts(folder);
    expect(part).toBeDefined();
    server = await start(folder);
    expect((await server.slots('restore', 0, part)).status).toBe(400);
    expect((await server.slots('restore', 0, 'slot')).status).toBe(200);
  } finally {
    await server.stop();
  }
});

/** Restores what is no slot of this server, which says why and goes on. */
async function expectRefused(pair: Pair, name: string, reason: RegExp): Promise<void> {
  const { server } = pair;
  const before = server.log.length;
  const { status, body } = await server.slots('restore', 0, name);
  expect(status, name).toBe(400);
  const { message } = (body as { error: { message: string } }).error;
  expect(message, name).toMatch(reason);
  await expect.poll(() => server.log.slice(before), { message: `the log of ${name}`, timeout: 10_000 }).toMatch(reason);
  server.expectAlive();
  await server.expectIdle();
}

test('files that are damaged, cut or foreign are refused with a reason, and the slot can be used', { timeout: 300_000 }, async () => {
  const random = new Random(8);
  const prompt = random.tokens(700);
  const pair = await Pair.start(needleF32(), [...flags, ...mixed]);
  const { server } = pair;
  const foreign: Record<string, { model?: string; own: string[]; reason: RegExp }> = {
    'without mixed heads': { own: [], reason: /saved without mixed heads/ },
    'other windows': { own: [...mixed, '--duo-recent', '65'], reason: /other layers, heads, windows or types/ },
    'other heads': { own: [...mixed, '--duo-sparsity', '0.25'], reason: /other layers, heads, windows or types/ },
    'other types': { own: [...mixed, '-ctk', 'f16'], reason: /other layers, heads, windows or types/ },
    'another model': {
      model: inF32(join(root, 'models/needle-hybrid.gguf'), 'needle-hybrid'),
      own: ['--duo-gates', join(root, 'models/needle-hybrid.duo.json'), '--duo-sink', '16', '--duo-recent', '64'],
      reason: /other layers, heads, windows or types|not one of a mixed-head cache/,
    },
  };
  try {
    const answer = await pair.ask(prompt, 'the prompt', { tokens: 4 });
    expect((await server.slots('save', 0, 'slot')).status).toBe(200);
    const whole = readFileSync(join(server.folder, 'slot'));
    const asBefore = async (what: string): Promise<void> => {
      await pair.ask([...prompt.slice(0, 300), ...random.tokens(5)], `after ${what}`, { tokens: 2 });
      expect((await server.slots('restore', 0, 'slot')).status).toBe(200);
      const again = await pair.ask([...prompt, ...idsOf(answer), 100], `the slot after ${what}`, { tokens: 2 });
      expect(again.reused).toBeGreaterThanOrEqual(prompt.length);
    };
    for (const length of [0, 3, 11, 12, 100, 12 + 4 * prompt.length, whole.length >> 1, whole.length - 17, whole.length - 1]) {
      writeFileSync(join(server.folder, 'cut'), whole.subarray(0, length));
      await expectRefused(pair, 'cut', length < 12 ? /not the state of a sequence/ : /cut off/);
    }
    await asBefore('files that were cut');
    // one bit, anywhere: what is said, tokens, rows of K and V, the checksum
    for (const at of [
      0,
      9,
      20,
      12 + 4 * prompt.length + 4,
      ...Array.from({ length: 12 }, () => random.below(whole.length)),
      whole.length - 1,
    ]) {
      const damaged = Buffer.from(whole);
      damaged[at] = (damaged[at] ?? 0) ^ (1 << random.below(8));
      writeFileSync(join(server.folder, 'damaged'), damaged);
      await expectRefused(pair, 'damaged', /damaged|checksum|state of a sequence|version/);
    }
    writeFileSync(join(server.folder, 'longer'), Buffer.concat([whole, Buffer.alloc(16)]));
    await expectRefused(pair, 'longer', /checksum/);
    writeFileSync(join(server.folder, 'noise'), Buffer.from(random.tokens(5000)));
    await expectRefused(pair, 'noise', /not the state of a sequence/);
    await expectRefused(pair, 'missing', /cannot be opened/);
    await asBefore('files that were damaged');
    for (const [what, { model = needleF32(), own, reason }] of Object.entries(foreign)) {
      const other = await Server.start(model, [...flags, ...own]);
      try {
        await other.complete(prompt, { tokens: 2 });
        expect((await other.slots('save', 0, 'slot')).status).toBe(200);
        writeFileSync(join(server.folder, 'foreign'), readFileSync(join(other.folder, 'slot')));
        await expectRefused(pair, 'foreign', reason);
        // and the other way round
        writeFileSync(join(other.folder, 'foreign'), whole);
        expect((await other.slots('restore', 0, 'foreign')).status, what).toBe(400);
        other.expectAlive();
        expect((await other.complete(prompt, { tokens: 2 })).tokens.length).toBe(2);
      } finally {
        await other.stop();
      }
    }
    await asBefore('foreign files');
  } finally {
    await pair.stop();
  }
});

test('a file that cannot be written is an error with a reason, and the old one stays', async () => {
  const server = await Server.start(needleF32(), [...flags, ...mixed]);
  try {
    await server.complete(new Random(9).tokens(100), { tokens: 1 });
    expect((await server.slots('save', 0, 'slot')).status).toBe(200);
    rmSync(server.folder, { recursive: true });
    const { status, body } = await server.slots('save', 0, 'slot');
    expect(status).toBe(500);
    expect(JSON.stringify(body)).toMatch(/Unable to save slot: .*No such file or directory/);
    expect(existsSync(server.folder)).toBe(false);
    server.expectAlive();
    expect((await server.complete(new Random(9).tokens(100), { tokens: 1 })).tokens.length).toBe(1);
  } finally {
    await server.stop();
  }
});
