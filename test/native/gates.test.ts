import { readdirSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';

import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import {
  GatesError,
  GatesShapeError,
  loadModel,
  OptionError,
  parseGates,
  readGates,
  type DuoOptions,
  type GatePatternJson,
  type MemoryReport,
} from '../../src/index.ts';
import { in32Bits, patterns as anyPatterns } from '../patterns.ts';
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
  test('a TSV file, by path, URL and bytes, and its text; small negatives are clipped', async () => {
    const path = await file('gates.tsv', tsv);
    for (const read of [readGates(path), readGates(pathToFileURL(path)), readGates(new TextEncoder().encode(tsv)), parseGates(tsv)]) {
      const pattern = await read;
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
    expect((await parseGates(JSON.stringify(pattern))).toJSON()).toEqual(json);
  });
});

describe('over HTTP', () => {
  let server: Server;
  let base: string;
  beforeAll(async () => {
    server = createServer((request, response) => {
      if (request.url === '/gates.tsv') response.end(tsv);
      else if (request.url === '/never') response.write('0.5');
      else if (request.url === '/large') for (let part = 0; part < 66; part++) response.write(Buffer.alloc(1 << 20, '0'));
      else response.writeHead(404).end('nothing here');
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterAll(() => {
    server.closeAllConnections();
    server.close();
  });

  test('a pattern', async () => {
    expect((await readGates(new URL('/gates.tsv', base))).gates).toEqual(rows);
  });

  test('what is not there, what is too large, and a server that is none', async () => {
    await expect(readGates(new URL('/none', base))).rejects.toThrow(/none: the server answers 404 Not Found; expected a gate pattern/);
    await expect(readGates(new URL('/none', base))).rejects.toThrow(GatesError);
    await expect(readGates(new URL('/large', base))).rejects.toThrow(/large: it has more than 64 MiB/);
    await expect(readGates(new URL('http://127.0.0.1:1/gates.tsv'))).rejects.toThrow(
      /^http:\/\/127\.0\.0\.1:1\/gates\.tsv: it cannot be fetched/,
    );
    await expect(readGates(new URL('ftp://127.0.0.1/gates.tsv'))).rejects.toThrow(OptionError);
  });

  test('an aborted signal ends the waiting with its reason', async () => {
    const abort = new AbortController();
    const reading = readGates(new URL('/never', base), { signal: abort.signal });
    setTimeout(() => {
      abort.abort('enough');
    }, 20);
    await expect(reading).rejects.toBe('enough');
  });
});

/** Patterns whose layers may have different numbers of heads, with gates as the library keeps them. */
const patterns: fc.Arbitrary<GatePatternJson> = fc
  .record(
    {
      rows: fc.array(fc.array(fc.float({ min: 0, max: 1, noNaN: true }), { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 6 }),
      sink: fc.nat(1e6),
      recent: fc.nat(1e6),
      provenance: fc.dictionary(fc.string({ minLength: 1 }), fc.oneof(fc.string(), fc.integer(), fc.boolean())),
    },
    { requiredKeys: ['rows'] },
  )
  .map(({ rows, ...more }) => ({
    llamaDuoPattern: 1,
    layers: rows.length,
    kvHeads: Math.max(...rows.map((row) => row.length)),
    gates: rows.map((row) => row.map((gate) => gate + 0)), // + 0 makes -0 a 0
    ...more,
  }));

/** The library keeps gates in single precision, and writes them with no more digits than that takes. */
const single = (gates: readonly (readonly number[])[]): number[][] => gates.map((row) => row.map((gate) => Math.fround(gate)));
/** What can be compared: a provenance is what JSON makes of it. */
const plain = (pattern: GatePatternJson): unknown => ({ ...(JSON.parse(JSON.stringify(pattern)) as object), gates: single(pattern.gates) });

describe('round trips', () => {
  test('a pattern as JSON, as text and as bytes', async () => {
    await fc.assert(
      fc.asyncProperty(patterns, async (pattern) => {
        const read = await parseGates(JSON.stringify(pattern));
        expect(plain(read.toJSON())).toEqual(plain(pattern));
        expect((await parseGates(read.format('json'))).toJSON()).toEqual(read.toJSON());
        expect((await readGates(Buffer.from(read.format('json')))).toJSON()).toEqual(read.toJSON());
      }),
      { numRuns: 100 },
    );
  });

  test('gates as a table, where layers are alike', async () => {
    const alike = patterns.filter(({ gates, kvHeads }) => gates.every((row) => row.length === kvHeads));
    await fc.assert(
      fc.asyncProperty(alike, async (pattern) => {
        const table = await parseGates((await parseGates(JSON.stringify(pattern))).format('tsv'));
        expect(single(table.gates)).toEqual(pattern.gates);
      }),
      { numRuns: 100 },
    );
  });

  test('in a copy of a model: read from its file and its bytes, and what the model says that it has', async () => {
    const gate = fc.float({ min: 0, max: 1, noNaN: true }).map((value) => value + 0);
    const ofNeedle = fc.array(fc.array(gate, { minLength: 4, maxLength: 4 }), { minLength: 6, maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(ofNeedle, async (gates) => {
        const pattern = await parseGates(
          JSON.stringify({ llamaDuoPattern: 1, layers: 6, kvHeads: 4, gates, sink: 8, provenance: { by: 'hand' } }),
        );
        const copy = join(folder, 'copy.gguf');
        await pattern.embed(needlePath, copy);
        expect((await readGates(copy)).toJSON()).toEqual(pattern.toJSON());
        expect((await readGates(await readFile(copy))).toJSON()).toEqual(pattern.toJSON());
        await using model = await loadModel(copy, { weights: false });
        expect(model.gates?.toJSON()).toEqual(pattern.toJSON());
        await rm(copy);
      }),
      { numRuns: 3 },
    );
  });
});

describe("a model's own gates", () => {
  test('none where there are none, and a damaged side-car hinders only who asks for it', async () => {
    const path = join(folder, 'own.gguf');
    await copyFile(needlePath, path);
    await using none = await loadModel(path, { weights: false });
    expect(none.gates).toBeUndefined();
    await writeFile(join(folder, 'own.duo.json'), '{"llamaDuoPattern": 1');
    await using damaged = await loadModel(path, { weights: false });
    expect(() => damaged.gates).toThrow(GatesError);
    expect(() => damaged.gates).toThrow(/own\.duo\.json/);
    expect((await damaged.planContext({ contextSize: 512 })).supported).toBe(true);
    await expect(damaged.planContext({ contextSize: 512, duo: {} })).rejects.toThrow(GatesError);
  });

  test('they do not change', async () => {
    const { gates } = await parseGates(tsv);
    expect(() => {
      (gates as number[][])[0] = [];
    }).toThrow(TypeError);
    expect(() => {
      (gates[0] as number[])[0] = 0;
    }).toThrow(TypeError);
  });
});

describe('a pattern of another model is an error that has both shapes', () => {
  const shapes = { code: 'gates', patternShape: [2, 2, 2], modelShape: [4, 4, 4, 4, 4, 4] };

  test('in a context, wherever the pattern comes from', async () => {
    const path = await file('other.tsv', tsv);
    await using model = await loadModel(needlePath, { weights: false });
    for (const gates of [path, pathToFileURL(path), await readGates(path), (await readGates(path)).toJSON()]) {
      const planning = model.planContext({ contextSize: 512, duo: { gates } });
      await expect(planning).rejects.toThrow(GatesShapeError);
      await expect(planning).rejects.toMatchObject({
        ...shapes,
        message: expect.stringMatching(/3 layers x 2 KV heads, the model 6 x 4/) as string,
      });
    }
  });

  test('in a copy of a model', async () => {
    const embedding = (await parseGates(tsv)).embed(needlePath, join(folder, 'wrong.gguf'));
    await expect(embedding).rejects.toThrow(GatesShapeError);
    await expect(embedding).rejects.toMatchObject(shapes);
  });
});

const published = process.env['LLAMA_DUO_PATTERNS'];

describe.runIf(published !== undefined)("DuoAttention's published patterns", () => {
  const folders =
    published === undefined
      ? []
      : readdirSync(published, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('full_attention_heads.tsv'));

  test('are six', () => {
    expect(folders).toHaveLength(6);
  });

  test.each(folders)('%s', async (path) => {
    const found = join(published ?? '', path);
    const numbers = (await readFile(found, 'utf8'))
      .trim()
      .split('\n')
      .map((line) => line.split('\t').map(Number));
    const pattern = await readGates(dirname(found));
    expect(pattern).toMatchObject({ layers: 32, kvHeads: path.startsWith('Llama-2-7B') ? 32 : 8 });
    const config = JSON.parse(await readFile(join(dirname(found), 'config.json'), 'utf8')) as { sink_size: number; recent_size: number };
    expect(pattern).toMatchObject({ sink: config.sink_size, recent: config.recent_size });
    expect(single(pattern.gates)).toEqual(single(numbers.map((row) => row.map((gate) => Math.min(1, Math.max(0, gate))))));

    expect((await parseGates(pattern.format('json'))).toJSON()).toEqual(pattern.toJSON());
    expect((await readGates(Buffer.from(pattern.format('tsv')))).gates).toEqual(pattern.gates);
    const heads = pattern.layers * pattern.kvHeads;
    for (const sparsity of [0, 0.25, 0.5, 0.75, 1]) {
      const { streamingHeads, streaming } = await pattern.select({ sparsity });
      expect(streamingHeads).toBe(sparsity === 1 ? heads : Math.ceil((heads - 1) * sparsity));
      const streams = pattern.gates.flatMap((row, layer) => row.filter((_, head) => streaming[layer]?.[head]));
      const stays = pattern.gates.flatMap((row, layer) => row.filter((_, head) => !streaming[layer]?.[head]));
      expect(Math.max(0, ...streams)).toBeLessThanOrEqual(Math.min(1, ...stays));
    }
    expect((await pattern.compare(pattern, [0.5])).rankCorrelation).toBeCloseTo(1);
  });

  test('any pattern, by each way of writing it', async () => {
    await fc.assert(
      fc.asyncProperty(anyPatterns(), async (json) => {
        const pattern = await parseGates(JSON.stringify(json));
        expect(in32Bits(pattern.toJSON())).toEqual(json);
        expect((await parseGates(pattern.format('json'))).toJSON()).toEqual(pattern.toJSON());
        const selection = await pattern.select({ sparsity: 0.5 });
        expect(selection.streaming.map((row) => row.length)).toEqual(json.gates.map((row) => row.length));
      }),
      { numRuns: 50 },
    );
  });

  test('a newer version is refused by name, and what a version does not have', async () => {
    const json = { llamaDuoPattern: 1, layers: 1, kvHeads: 1, gates: [[1]] };
    await expect(parseGates(JSON.stringify({ ...json, llamaDuoPattern: 3 }))).rejects.toThrow(
      /"llamaDuoPattern" is 3; this build reads versions 1 and 2/,
    );
    await expect(parseGates(JSON.stringify({ ...json, windows: [[64]] }))).rejects.toThrow(/"windows" is one of version 2/);
    const pattern = await parseGates(JSON.stringify({ ...json, llamaDuoPattern: 2, windows: [[64]], sinks: [4] }));
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
    const error = await parseGates(text, 'gates.tsv').then(
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
    await expect(parseGates(tsv, undefined, { signal: AbortSignal.abort('no') })).rejects.toBe('no');
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
    const pattern = await parseGates(tsv);
    const { streaming, retrievalHeads, streamingHeads } = await pattern.select(choice);
    expect(streaming).toEqual(expected.map((layer) => layer.map(Boolean)));
    expect(streamingHeads).toBe(expected.flat().filter(Boolean).length);
    expect(retrievalHeads + streamingHeads).toBe(6);
  });

  test('equal gates are taken in the order of layers and heads', async () => {
    const pattern = await parseGates('0.5\t0.5\n0.5\t0.5\n');
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
    const pattern = await parseGates(tsv);
    await expect(pattern.select(choice as object)).rejects.toThrow(message);
  });
});

test('a context takes what the windows of a pattern ask for, unless it is told one for all', async () => {
  await using model = await loadModel(needlePath, { weights: false });
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
  const gates = await parseGates(JSON.stringify({ ...pattern, windows: half, sinks: gatedHeads.map(() => 4) }));
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
