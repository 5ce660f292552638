import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { GatesError, loadModel, OptionError, readGates, type DuoOptions, type MemoryReport } from '../../src/index.ts';
import { in32Bits, patterns } from '../patterns.ts';
import { needlePath } from './needle-model.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'llama-duo-gates-'));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

const tsv = '1.000000000000000000e+00\t2.500000000000000000e-01\n-1.0e-03\t5e-1\n0.75\t0.125\n';
const rows = [
  [1, 0.25],
  [0, 0.5],
  [0.75, 0.125],
];

async function file(name: string, content: string | Uint8Array): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, content);
  return path;
}

describe('reading', () => {
  test('a TSV file, by path and by URL; small negatives are clipped', async () => {
    const path = await file('gates.tsv', tsv);
    for (const source of [path, pathToFileURL(path), tsv, { text: tsv, source: 'here' }]) {
      const pattern = await readGates(source);
      expect(pattern).toMatchObject({ layers: 3, kvHeads: 2, sink: undefined, recent: undefined });
      expect(pattern.gates).toEqual(rows);
    }
  });

  test('a DuoAttention folder, with its sizes', async () => {
    const path = join(folder, 'duo');
    await mkdir(path);
    await writeFile(join(path, 'full_attention_heads.tsv'), tsv);
    await writeFile(join(path, 'config.json'), JSON.stringify({ sink_size: 64, recent_size: 256 }));
    const pattern = await readGates(path);
    expect(pattern).toMatchObject({ layers: 3, kvHeads: 2, sink: 64, recent: 256 });
  });

  test('JSON, and back', async () => {
    const json = {
      llamaDuoPattern: 1,
      layers: 3,
      kvHeads: 2,
      sink: 4,
      recent: 32,
      gates: rows,
      provenance: { method: 'by hand', seed: 7 },
    };
    const pattern = await readGates(await file('gates.json', JSON.stringify(json)));
    expect(pattern.toJSON()).toEqual(json);
    expect(pattern.provenance).toEqual({ method: 'by hand', seed: 7 });
    expect((await readGates(JSON.stringify(pattern))).toJSON()).toEqual(json);
  });

  test('any pattern, by each way of writing it', async () => {
    await fc.assert(
      fc.asyncProperty(patterns(), async (json) => {
        const pattern = await readGates({ text: JSON.stringify(json) });
        expect(in32Bits(pattern.toJSON())).toEqual(json);
        expect((await readGates({ text: pattern.format('json') })).toJSON()).toEqual(pattern.toJSON());
        const selection = await pattern.select({ sparsity: 0.5 });
        expect(selection.streaming.map((row) => row.length)).toEqual(json.gates.map((row) => row.length));
      }),
      { numRuns: 50 },
    );
  });

  test('a newer version is refused by name, and what a version does not have', async () => {
    const json = { llamaDuoPattern: 1, layers: 1, kvHeads: 1, gates: [[1]] };
    await expect(readGates(JSON.stringify({ ...json, llamaDuoPattern: 3 }))).rejects.toThrow(
      /"llamaDuoPattern" is 3; this build reads versions 1 and 2/,
    );
    await expect(readGates(JSON.stringify({ ...json, windows: [[64]] }))).rejects.toThrow(/"windows" is one of version 2/);
    const pattern = await readGates(JSON.stringify({ ...json, llamaDuoPattern: 2, windows: [[64]], sinks: [4] }));
    expect(pattern).toMatchObject({ windows: [[64]], sinks: [4], losses: undefined });
    expect(pattern.format('tsv')).toBe('1.000000000000000000e+00\n');
  });
});

describe('what cannot be read is a GatesError that says where', () => {
  test.each([
    ['a word', '0.5\t0.5\n0.5\tmany\n', /2.*many/s],
    ['NaN', '0.5\tnan\n', /nan/i],
    ['a gate above 1', '0.5\t1.5\n', /1\.5/],
    ['rows that differ', '0.5\t0.5\n0.5\n', /2/],
    ['nothing', '\n', /there is no text; expected a gate pattern/],
    ['JSON that ends early', '{"llamaDuoPattern": 1, "layers"', /line 1, column \d+: .*unexpected end of input/],
    ['JSON of another kind', '{"layers": 1}', /llamaDuoPattern/],
    ['JSON whose shape is wrong', JSON.stringify({ llamaDuoPattern: 1, layers: 2, kvHeads: 1, gates: [[0.5]] }), /2/],
  ])('%s', async (_, text, message) => {
    const error = await readGates({ text, source: 'gates.tsv' }).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(GatesError);
    expect(error).toMatchObject({ code: 'gates', message: expect.stringMatching(message) as string });
  });

  test('bytes that are no text', async () => {
    const path = await file('binary.tsv', Uint8Array.of(0xff, 0xfe, 0, 1, 2, 3));
    await expect(readGates(path)).rejects.toThrow(GatesError);
  });

  test('a file that is not there is named', async () => {
    await expect(readGates('/nowhere/gates.tsv')).rejects.toThrow(/\/nowhere\/gates\.tsv/);
  });

  test.each([5, null, '', {}])('%o is no source', async (source) => {
    await expect(readGates(source as string)).rejects.toThrow(OptionError);
  });

  test('an aborted signal', async () => {
    await expect(readGates(tsv, { signal: AbortSignal.abort('no') })).rejects.toBe('no');
  });
});

describe('selecting', () => {
  test.each([
    [
      { sparsity: 0 },
      [
        [0, 0],
        [0, 0],
        [0, 0],
      ],
    ],
    [
      { sparsity: 1 },
      [
        [1, 1],
        [1, 1],
        [1, 1],
      ],
    ],
    // ceil(5 * 0.5) = 3 of 6: the lowest gates are 0, 0.125 and 0.25
    [
      { sparsity: 0.5 },
      [
        [0, 1],
        [1, 0],
        [0, 1],
      ],
    ],
    [
      {},
      [
        [0, 1],
        [1, 0],
        [0, 1],
      ],
    ],
    [
      { threshold: 0.5 },
      [
        [0, 1],
        [1, 0],
        [0, 1],
      ],
    ],
    [
      { threshold: 0.125 },
      [
        [0, 0],
        [1, 0],
        [0, 0],
      ],
    ],
  ])('%o', async (choice, expected) => {
    const pattern = await readGates(tsv);
    const { streaming, retrievalHeads, streamingHeads } = await pattern.select(choice);
    expect(streaming).toEqual(expected.map((layer) => layer.map(Boolean)));
    expect(streamingHeads).toBe(expected.flat().filter(Boolean).length);
    expect(retrievalHeads + streamingHeads).toBe(6);
  });

  test('equal gates are taken in the order of layers and heads', async () => {
    const pattern = await readGates('0.5\t0.5\n0.5\t0.5\n');
    expect((await pattern.select({ sparsity: 0.5 })).streaming).toEqual([
      [true, true],
      [false, false],
    ]);
  });

  test.each([
    [{ sparsity: 1.5 }, /sparsity: expected a number from 0 to 1, got 1.5/],
    [{ sparsity: NaN }, /got NaN/],
    [{ sparsity: 0.5, threshold: 0.5 }, /no threshold beside a sparsity/],
    [{ sparcity: 0.5 }, /Did you mean sparsity/],
  ])('%o is refused', async (choice, message) => {
    const pattern = await readGates(tsv);
    await expect(pattern.select(choice as object)).rejects.toThrow(message);
  });
});

test('a context takes what the windows of a pattern ask for, unless it is told one for all', async () => {
  await using model = await loadModel({ path: needlePath, weights: false });
  const { layers, gatedHeads } = model.info;
  expect(gatedHeads).toEqual(model.info.kvHeads);
  const all = <T>(value: (head: number) => T): T[][] =>
    gatedHeads.map((count, layer) => Array.from({ length: count }, (_, head) => value(count * layer + head)));
  const pattern = { llamaDuoPattern: 2 as const, layers, kvHeads: Math.max(...gatedHeads), gates: all((head) => head / 100) };
  const bytes = async (duo: Pick<DuoOptions, 'gates' | 'sink' | 'recent'>): Promise<MemoryReport> => {
    const { kv } = await model.planContext({ contextSize: 4096, duo: { sparsity: 1, ...duo } });
    if (!kv) throw new Error('no plan');
    return kv;
  };
  const [narrow, wide] = [await bytes({ sink: 4, recent: 64 }), await bytes({ sink: 4, recent: 1024 })];
  const half = all((head) => (head % 2 === 0 ? 64 : 1024));
  const gates = await readGates(JSON.stringify({ ...pattern, windows: half, sinks: gatedHeads.map(() => 4) }));
  expect(await bytes({ gates })).toEqual({
    ...wide,
    streamingBytes: (narrow.streamingBytes + wide.streamingBytes) / 2,
    totalBytes: (narrow.totalBytes + wide.totalBytes) / 2,
  });
  expect(await bytes({ gates, recent: 64 })).toEqual(narrow);
  expect(await bytes({ gates: { ...pattern, windows: all(() => 64) }, sink: 4 })).toEqual(narrow);
  const wrong = { ...pattern, windows: [[64]] };
  await expect(bytes({ gates: wrong })).rejects.toThrow(/windows is an array of 1; expected an array of \d+ rows/);
});
