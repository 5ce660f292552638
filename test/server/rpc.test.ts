import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { freePort, idsOf, llama, needleF32, needleGates, Pair, Random } from './setup.ts';

// Two machines on this one: each has the weights and the cache of its own layers.

const program = join(dirname(llama), 'ggml-rpc-server');
if (!existsSync(program)) throw new Error(`${program} is missing. "npm run test:server" builds it.`);

const peers: ChildProcess[] = [];
const endpoints: string[] = [];
let pair: Pair;

/** Starts an RPC server and waits until it listens. */
async function startPeer(): Promise<void> {
  const port = await freePort();
  const peer = spawn(program, ['-d', 'CPU', '-t', '1', '-p', String(port)], { stdio: 'ignore' });
  peers.push(peer);
  endpoints.push(`127.0.0.1:${port}`);
  for (;;) {
    if (peer.exitCode !== null) throw new Error(`ggml-rpc-server has ended with code ${peer.exitCode}`);
    const listens = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => {
        socket.end();
        resolve(true);
      });
      socket.on('error', () => {
        resolve(false);
      });
    });
    if (listens) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

beforeAll(async () => {
  await startPeer();
  await startPeer();
  const duo = ['--duo-gates', needleGates, '--duo-sink', '16', '--duo-recent', '64', '-ub', '64'];
  // a context is to be as large as it is said to be, whatever memory the peers say is free
  const flags = ['-c', '4096', '-ctk', 'f32', '-ctv', 'f32', '-fit', 'off', '-lv', '4', ...duo];
  pair = await Pair.start(needleF32(), flags, ['--rpc', endpoints.join(','), '-ts', '3,4', '-ngl', '99', '-np', '2']);
});
afterAll(async () => {
  await pair.stop();
  for (const peer of peers) peer.kill('SIGKILL');
});

test('each of two RPC servers holds its layers', () => {
  for (const endpoint of endpoints) {
    expect(pair.server.log).toMatch(new RegExp(`${endpoint.replaceAll('.', '\\.')}\\] model buffer size = +[1-9]`));
  }
  expect(pair.server.log).toContain('12 retrieval heads');
  expect(pair.server.log).not.toContain('host memory');
});

test('their answers are those of one process: prompts, reused ones, edited ones, and slots side by side', async () => {
  const random = new Random(1);
  const first = random.tokens(700);
  const answer = await pair.ask(first, 'a prompt', { tokens: 8 });
  const longer = [...first, ...idsOf(answer), ...random.tokens(150)];
  expect((await pair.ask(longer, 'the same, and more', { tokens: 8 })).reused).toBeGreaterThan(600);
  await pair.ask([...first.slice(0, 500), ...random.tokens(200)], 'another end', { tokens: 8 });
  const prompts = [random.tokens(300), random.tokens(450)];
  const both = await Promise.all(prompts.map((prompt) => pair.server.complete(prompt, { tokens: 8 })));
  for (const [index, one] of both.entries()) await pair.expectFresh(prompts[index] ?? [], one, `one of two at once: ${index}`);
  console.log(`two RPC servers: ${pair.toString()}`);
});

test('a saved slot is restored', async () => {
  const prompt = new Random(2).tokens(600);
  const answer = await pair.server.complete(prompt, { tokens: 4, slot: 0 });
  expect((await pair.server.slots('save', 0, 'slot.bin')).status).toBe(200);
  await pair.server.complete(new Random(3).tokens(300), { slot: 0 });
  expect((await pair.server.slots('restore', 0, 'slot.bin')).status).toBe(200);
  const again = await pair.ask([...prompt, ...idsOf(answer), 300, 301], 'after a restore', { tokens: 4, slot: 0 });
  expect(again.reused).toBeGreaterThan(500);
});
