import { spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { GatesError, parseGates, readGates, type GatePatternJson } from '../../src/index.ts';
import { root } from '../../scripts/places.mjs';

const pattern: GatePatternJson = {
  llamaDuoPattern: 1,
  layers: 3,
  kvHeads: 2,
  gates: [
    [0, 0.1],
    [0.3, 1],
    [0.875, 0.5],
  ],
  sink: 4,
  recent: 16,
  provenance: { method: 'by hand', data: { samples: 2 } },
};

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'llama-duo-pattern-'));
  await writeFile(join(folder, 'gates.json'), JSON.stringify(pattern));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

function cli(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'dist/cli/main.js'), 'pattern', ...args], {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, INIT_CWD: folder, NO_COLOR: '1' },
  });
  return { status, stdout, stderr };
}

describe('formats', () => {
  test('JSON and TSV give the same gates again; TSV has nothing else', async () => {
    const read = await parseGates(JSON.stringify(pattern));
    expect((await parseGates(read.format('json'))).toJSON()).toEqual(pattern);
    const table = await parseGates(read.format('tsv'));
    expect(table.gates).toEqual(pattern.gates);
    expect(table.provenance).toBeUndefined();
    expect(read.format('tsv').split('\n')[0]).toBe('0.000000000000000000e+00\t1.000000000000000056e-01');
  });

  test('convert, there and back', async () => {
    expect(cli('convert', 'gates.json', 'gates.tsv')).toEqual({ status: 0, stdout: '', stderr: '' });
    expect(cli('convert', 'gates.tsv', 'again.json')).toEqual({ status: 0, stdout: '', stderr: '' });
    const again = JSON.parse(await readFile(join(folder, 'again.json'), 'utf8')) as GatePatternJson;
    expect(again).toEqual({ llamaDuoPattern: 1, layers: 3, kvHeads: 2, gates: pattern.gates });
  });

  test.each([
    [['convert', 'gates.json', 'gates.gguf'], 2, 'pattern embed'],
    [['convert', 'gates.json', 'gates'], 2, '.json or .tsv'],
    [['convert', 'gates.json'], 2, 'takes FROM and TO, got gates.json'],
    [['convert', 'none.json', 'x.tsv'], 1, 'none.json: no such file'],
    [['shwo', 'gates.json'], 2, 'show, convert, compare, embed'],
    [[], 2, 'show, convert, compare, embed'],
    [['embed', 'gates.json'], 2, 'Which model?'],
    [['embed', 'gates.json', '-m', 'gates.json', '-o', 'copy.gguf'], 1, 'not a GGUF file'],
  ])('%j is refused', (args, status, message) => {
    const ended = cli(...args);
    expect(ended).toMatchObject({ status, stdout: '' });
    expect(ended.stderr).toContain(message);
  });
});

describe('show', () => {
  test('facts and a map', () => {
    const { status, stdout } = cli('show', 'gates.json', '--duo-sparsity', '0.5,1');
    expect(status).toBe(0);
    expect(stdout).toContain('3 layers x 2 KV heads');
    expect(stdout).toContain('4 first and 16 recent keys');
    expect(stdout).toContain('by hand');
    expect(stdout).toContain('Sparsity 0.5: 3 heads keep everything, 3 stream');
    expect(stdout).toContain('Sparsity 1: 0 heads keep everything, 6 stream');
    expect(stdout).toContain('  0 ·░█\n  1 ·█▒\n');
  });

  test('--json and --plot', async () => {
    const { stdout } = cli('show', 'gates.json', '--json', '--plot', 'pictures');
    expect(JSON.parse(stdout)).toMatchObject({ ...pattern, selections: [{ sparsity: 0.5, retrievalHeads: 3 }] });
    expect(await readFile(join(folder, 'pictures/gates.svg'), 'utf8')).toContain('<svg');
  });
});

describe('compare', () => {
  const other = { ...pattern, gates: [...pattern.gates].reverse().map((row) => [...row].reverse()) };

  test('overlap at a sparsity, against what chance gives', async () => {
    const [a, b] = await Promise.all([pattern, other].map((json) => parseGates(JSON.stringify(json))));
    if (!a || !b) throw new Error('two patterns');
    const same = await a.compare(a, [0.5]);
    expect(same.rankCorrelation).toBeCloseTo(1);
    expect(same.overlaps).toMatchObject([{ jaccard: 1, shared: 3, retrievalHeads: 3 }]);
    // Of 6 heads 3 keep everything: the gates 1, 0.875, 0.5 here; there these stand in the places of 0.3, 0.1, 0.
    const { overlaps } = await a.compare(b, [0.5, 0]);
    expect(overlaps[0]).toMatchObject({ jaccard: 0, shared: 0 });
    expect(overlaps[0]?.chance).toBeCloseTo(1.5 / 4.5);
    expect(overlaps[1]).toMatchObject({ jaccard: 1, chance: 1 });
  });

  test('patterns of other shapes are not compared', async () => {
    await writeFile(join(folder, 'small.json'), JSON.stringify({ ...pattern, layers: 1, gates: [[0, 1]] }));
    expect(cli('compare', 'gates.json', 'small.json')).toMatchObject({ status: 1, stdout: '' });
    const [a, b] = await Promise.all(['gates.json', 'small.json'].map((name) => readGates(join(folder, name))));
    if (!a || !b) throw new Error('two patterns');
    await expect(a.compare(b)).rejects.toThrow(GatesError);
  });

  test('a table', () => {
    const { stdout } = cli('compare', 'gates.json', 'gates.json');
    expect(stdout).toMatch(/Spearman\): 1\.000/);
    expect(stdout).toMatch(/0\.5 +3 of 3 +1\.00 +0\.33/);
  });
});
