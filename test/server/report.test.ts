import { join } from 'node:path';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import { needleF32, needleGates, Random, Server } from './setup.ts';

// What the server says of mixed heads: in its log, at /props and at /metrics.

interface Props {
  duo?: {
    pattern: { name: string | null; provenance: Record<string, unknown> | null };
    heads: Record<'retrieval' | 'streaming' | 'windowed', number>;
    window: Record<'sink' | 'recent' | 'chunk', number>;
    slot_cells: Record<'retrieval' | 'streaming' | 'windowed', number>;
    kv_bytes: Record<'retrieval' | 'streaming' | 'windowed' | 'recurrent' | 'total' | 'full', number>;
  };
}

const flags = ['-c', '4096', '-ctk', 'f32', '-ctv', 'f32', '-fa', 'on', '-ub', '64', '-np', '2', '--metrics', '--cache-ram', '0'];
const mixed = ['--duo-gates', needleGates, '--duo-sparsity', '0.75', '--duo-sink', '16', '--duo-recent', '64'];

// needle.gguf: 24 KV heads whose K and V have 64 values each
const heads = { retrieval: 6, streaming: 18, windowed: 0 };
const bytesOfCell = 2 * 64 * 4;

let server: Server;
let props: NonNullable<Props['duo']>;
beforeAll(async () => {
  server = await Server.start(needleF32(), [...flags, ...mixed]);
  const { duo } = (await server.get('/props')) as Props;
  if (!duo) throw new Error('/props has no "duo"');
  props = duo;
});
afterAll(() => server.stop());

test('/props has the pattern, the heads, their windows and their bytes', () => {
  expect(props.pattern.name).toBe(needleGates);
  expect(props.pattern.provenance).toMatchObject({ model: 'needle.gguf' });
  expect(props.heads).toEqual(heads);
  expect(props.window).toEqual({ sink: 16, recent: 64, chunk: 1 });
  expect(props.slot_cells.retrieval).toBe(2048);
  // what a window sees, a ubatch and 64 tokens that may be taken back, in whole blocks of 64
  expect(props.slot_cells.streaming).toBe(Math.ceil((16 + 64 + 1 + 64 + 64) / 64) * 64);
  const slots = 2;
  const retrieval = slots * heads.retrieval * props.slot_cells.retrieval * bytesOfCell;
  const streaming = slots * heads.streaming * props.slot_cells.streaming * bytesOfCell;
  const full = (retrieval / heads.retrieval) * 24;
  expect(props.kv_bytes).toEqual({ retrieval, streaming, windowed: 0, recurrent: 0, total: retrieval + streaming, full });
});

test('the log says the same', () => {
  const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(2);
  expect(server.log).toContain(`mixed heads: the pattern is ${needleGates}, of {`);
  expect(server.log).toContain('mixed heads: 6 KV heads keep every token, 18 stream (sink 16, recent 64, chunk 1)');
  expect(server.log).toContain(
    `mixed heads: the KV cache takes ${mib(props.kv_bytes.total)} MiB (retrieval ${mib(props.kv_bytes.retrieval)}, ` +
      `streaming ${mib(props.kv_bytes.streaming)}, windowed 0.00), of ${mib(props.kv_bytes.full)} MiB with every head full`,
  );
});

test('/metrics counts cells, what is processed again, and checkpoints', async () => {
  const expectCells = async (held: number[]): Promise<void> => {
    const metrics = await server.metrics();
    const cells = (of: number): number => held.reduce((sum, tokens) => sum + Math.min(tokens, of), 0);
    expect(metrics['duo_cells_held{heads="retrieval"}']).toBe(heads.retrieval * cells(props.slot_cells.retrieval));
    expect(metrics['duo_cells_held{heads="streaming"}']).toBe(heads.streaming * cells(props.slot_cells.streaming));
    expect(metrics['duo_cells_held{heads="windowed"}']).toBe(0);
  };
  await expectCells([]);
  expect(await server.metrics()).toMatchObject({ duo_prompt_tokens_again_total: 0, duo_checkpoint_bytes: 0 });

  const random = new Random(4);
  const prompt = random.tokens(1000);
  await server.complete(prompt, { slot: 0, tokens: 4 });
  await expectCells([1003]); // the last token of an answer is never decoded
  await server.complete(random.tokens(100), { slot: 1, tokens: 4 });
  await expectCells([1003, 103]);
  const before = await server.metrics();
  expect(before['duo_prompt_tokens_again_total']).toBe(0);
  expect(before['duo_checkpoint_bytes']).toBeGreaterThan(0);

  // further back than streaming heads go, so from a checkpoint, or from the beginning
  const edited = await server.complete([...prompt.slice(0, 600), ...random.tokens(50)], { slot: 0, tokens: 4 });
  const again = (await server.metrics())['duo_prompt_tokens_again_total'];
  expect(again).toBe(600 - edited.reused);
  expect(again).toBeGreaterThan(1);
  expect(server.log).toContain(`${again} of the prompt's 600 tokens that are held are processed again, from position ${edited.reused} on`);
  await expectCells([653, 103]);

  for (const slot of [0, 1]) expect((await server.slots('erase', slot)).status).toBe(200);
  await expectCells([]);
  expect(await server.metrics()).toMatchObject({ duo_prompt_tokens_again_total: again, duo_checkpoint_bytes: 0 });
});

test('all heads alike have no pattern; a server that sleeps has no cells', async () => {
  const sleepy = await Server.start(needleF32(), [...flags, '--duo-sparsity', '1', '--sleep-idle-seconds', '1']);
  try {
    const { duo } = (await sleepy.get('/props')) as Props;
    expect(duo?.pattern).toEqual({ name: null, provenance: null });
    expect(duo?.heads).toEqual({ retrieval: 0, streaming: 24, windowed: 0 });
    await sleepy.complete(new Random(5).tokens(50), { tokens: 2 });
    while (!((await sleepy.get('/props')) as { is_sleeping: boolean }).is_sleeping)
      await new Promise((resolve) => setTimeout(resolve, 200));
    expect((await sleepy.metrics())['duo_cells_held{heads="streaming"}']).toBe(0);
    expect(((await sleepy.get('/props')) as Props).duo?.heads).toEqual(duo?.heads);
  } finally {
    await sleepy.stop();
  }
});

test('without the flags nothing is said', async () => {
  const stock = await Server.start(join(root, 'models/needle.gguf'), flags);
  try {
    expect(await stock.get('/props')).not.toHaveProperty('duo');
    await stock.complete(new Random(6).tokens(50), { tokens: 2 });
    expect(Object.keys(await stock.metrics()).filter((name) => name.startsWith('duo'))).toEqual([]);
    expect(stock.log).not.toMatch(/mixed heads|duo/i);
  } finally {
    await stock.stop();
  }
});
