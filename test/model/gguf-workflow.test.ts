// What llama.cpp's own tools do to a model leaves its gates in it, and wherever they are, the tools find the same as the API.

import { spawn, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { llamaCpp } from '../../scripts/places.mjs';
import { pythonWith } from '../../scripts/python-packages.mjs';
import { loadModel, readGates, type GatePatternJson } from '../../src/index.ts';
import { writeInF32 } from '../gguf.ts';
import { writeLora } from '../lora.ts';
import { Hub } from '../native/hub.ts';
import { needlePath } from '../native/needle-model.ts';
import { llama, Server } from '../server/setup.ts';
import { dist } from './setup.ts';

const threshold = 0.5;
const window = ['--duo-sink', '16', '--duo-recent', '64'];
const prompt = Array.from({ length: 400 }, (_, index) => 300 + ((index * 37) % 2000));

let folder: string;
/** The gates that calibration found. */
let gates: GatePatternJson;
let retrieval: number;
const path = (name: string): string => join(folder, name);
/** models/needle.gguf with those gates in it, in F32 and as it was quantised. */
const embedded = (): string => path('embedded.gguf');
const quantized = (): string => path('quantized.gguf');

function run(command: string, args: string[], env: NodeJS.ProcessEnv = {}): string {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: folder, encoding: 'utf8', env: { ...process.env, ...env } });
  expect(status, `${command} ${args.join(' ')}\n${stdout}${stderr}`).toBe(0);
  return stdout + stderr;
}
const cli = (...args: string[]): string => run(process.execPath, [join(dist, 'cli/main.js'), ...args], { INIT_CWD: folder, NO_COLOR: '1' });
const tool = (name: string, ...args: string[]): string => run(join(dirname(llama), `llama-${name}`), args);

/** A script of llama.cpp's gguf package. */
function ggufScript(name: string, ...args: string[]): string {
  const { PYTHONPATH = '', ...env } = pythonWith('python-gguf', ['numpy', 'tqdm', 'pyyaml']);
  return run('python3', ['-m', `gguf.scripts.${name}`, ...args], {
    ...env,
    PYTHONPATH: `${PYTHONPATH}:${join(llamaCpp.target, 'gguf-py')}`,
  });
}

/** A completion whose log says which heads its gates choose. */
const completionOf = (flag: string, model: string): string[] => [
  ...['completion', flag, model, '--duo-threshold', String(threshold)],
  ...'--duo-gates auto -p one -n 1 -c 512 -t 2 -no-cnv -v --no-warmup'.split(' '),
];

/** What `--duo-gates auto` finds, in the tools and in the API: as many heads with a gate of at least 0.5. */
async function expectGates(file: string, expected = gates, heads = retrieval): Promise<void> {
  await using model = await loadModel(file, { weights: false });
  expect(model.gates?.toJSON()).toEqual(expected);
  expect(run(llama, completionOf('-m', file))).toContain(`${heads} retrieval heads x 512 cells`);
}

const countOf = (pattern: GatePatternJson): number => pattern.gates.flat().filter((gate) => gate >= threshold).length;
const parts = (prefix: string): string[] => readdirSync(folder).filter((name) => name.startsWith(`${prefix}-0`));

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'llama-duo-workflow-'));
  writeInF32(needlePath, path('plain.gguf'));
  const small = ['--method', 'mass', '-c', '480', '--samples', '1', '--questions', '3', '--duo-sink', '16', '--duo-recent', '64'];
  cli('calibrate', '-m', 'plain.gguf', '-o', 'gates.json', '-t', '2', ...small);
  gates = (await readGates(path('gates.json'))).toJSON();
  retrieval = countOf(gates);
  cli('pattern', 'embed', 'gates.json', '-m', 'plain.gguf', '-o', 'embedded.gguf');
  run(llama, ['quantize', embedded(), quantized(), 'Q8_0', '2']);
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

test('calibration finds some heads that retrieve and some that stream', () => {
  expect(retrieval).toBeGreaterThan(0);
  expect(retrieval).toBeLessThan(24);
});

describe('from F32 weights to a server', () => {
  test('calibrated, embedded, quantised, split: the server answers as the API does, and as with the gates by name', async () => {
    tool('gguf-split', '--split', '--split-max-tensors', '20', quantized(), path('served'));
    const [first = ''] = parts('served');
    expect(first).toBe('served-00001-of-00003.gguf');
    const flags = [
      '--duo-threshold',
      String(threshold),
      ...window,
      '-c',
      '512',
      '-ub',
      '64',
      '-np',
      '1',
      '-ctk',
      'f32',
      '-ctv',
      'f32',
      '-lv',
      '4',
    ];
    const answers = [];
    for (const [model, name] of [
      [path(first), 'auto'],
      [quantized(), path('gates.json')],
    ] as const) {
      const server = await Server.start(model, ['--duo-gates', name, ...flags]);
      answers.push((await server.complete(prompt, { tokens: 12 })).tokens.map(({ id }) => id));
      expect(server.log).toContain(`${retrieval} retrieval heads x 512 cells, ${24 - retrieval} streaming heads`);
      await server.stop();
    }
    expect(answers[0]).toEqual(answers[1]);

    await using model = await loadModel(path(first));
    const cache = { contextSize: 512, ubatchSize: 64, typeK: 'f32', typeV: 'f32', threads: 2 } as const;
    await using context = await model.createContext({ ...cache, duo: { gates: 'auto', threshold, sink: 16, recent: 64 } });
    expect(context.memory()).toMatchObject({ retrievalHeads: retrieval, streamingHeads: 24 - retrieval });
    const { tokens } = await context.generate(prompt, { maxTokens: 12, temperature: 0, ignoreEos: true }).result();
    expect([...tokens]).toEqual(answers[0]);
  });
});

describe('gates stay in a model that is', () => {
  test('embedded', () => expectGates(embedded()));

  test.each(['Q8_0', 'Q4_K_M', 'F16', 'COPY'])('quantised: %s', async (type) => {
    run(llama, ['quantize', embedded(), path(`${type}.gguf`), type, '2']);
    await expectGates(path(`${type}.gguf`));
  });

  test('split, quantised part by part, and merged', async () => {
    tool('gguf-split', '--split', '--split-max-size', '2M', quantized(), path('parts'));
    const [first = '', ...others] = parts('parts');
    expect(others.length).toBeGreaterThan(1);
    await expectGates(path(first));
    run(llama, ['quantize', '--keep-split', '--allow-requantize', path(first), path('small.gguf'), 'Q4_0', '2']);
    const [small = '', ...more] = parts('small');
    expect(more).toHaveLength(others.length);
    await expectGates(path(small));
    tool('gguf-split', '--merge', path(small), path('merged.gguf'));
    await expectGates(path('merged.gguf'));
  });

  test('split, and embedded then: in a copy of all files, by the name of the first', async () => {
    tool('gguf-split', '--split', '--split-max-tensors', '20', path('plain.gguf'), path('bare'));
    cli('pattern', 'embed', 'gates.json', '-m', 'bare-00001-of-00003.gguf', '-o', 'copied-00001-of-00003.gguf');
    expect(parts('copied')).toHaveLength(3);
    await expectGates(path('copied-00001-of-00003.gguf'));
    tool('gguf-split', '--merge', path('copied-00001-of-00003.gguf'), path('one.gguf'));
    await expectGates(path('one.gguf'));

    await using model = await loadModel(path('copied-00001-of-00003.gguf'));
    await using context = await model.createContext({ contextSize: 512, threads: 2 });
    await using whole = await loadModel(path('plain.gguf'));
    await using other = await whole.createContext({ contextSize: 512, threads: 2 });
    const ask = { maxTokens: 8, temperature: 0, ignoreEos: true };
    expect((await context.generate(prompt, ask).result()).tokens).toEqual((await other.generate(prompt, ask).result()).tokens);
  });

  test('merged with a LoRA adapter', async () => {
    writeLora(path('adapter.gguf'), [['blk.0.attn_q.weight', 256, 512]]);
    tool('export-lora', '-m', embedded(), '--lora', path('adapter.gguf'), '-o', path('with-lora.gguf'), '-t', '2');
    await expectGates(path('with-lora.gguf'));
  });

  test('given other metadata, in place and in a copy', async () => {
    copyFileSync(quantized(), path('changed.gguf'));
    ggufScript('gguf_set_metadata', '--force', path('changed.gguf'), 'llama.context_length', '2048');
    ggufScript('gguf_new_metadata', '--force', '--general-name', 'Renamed', path('changed.gguf'), path('renamed.gguf'));
    await using model = await loadModel(path('renamed.gguf'), { weights: false });
    expect(model.info).toMatchObject({ trainedContextSize: 2048, metadata: { 'general.name': 'Renamed' } });
    await expectGates(path('changed.gguf'));
    await expectGates(path('renamed.gguf'));
  });
});

describe('gates beside a model', () => {
  const other = (): GatePatternJson => ({ ...gates, gates: gates.gates.map((row, layer) => row.map(() => (layer < 2 ? 1 : 0))) });
  const writeOther = (file: string): void => {
    writeFileSync(file, JSON.stringify(other()));
  };

  test('are found, for a whole model and for a split one, and come second to those in it', async () => {
    run(llama, ['quantize', path('plain.gguf'), path('beside.gguf'), 'Q8_0', '2']);
    writeOther(path('beside.duo.json'));
    await expectGates(path('beside.gguf'), other(), 8);
    tool('gguf-split', '--split', '--split-max-tensors', '20', path('beside.gguf'), path('beside'));
    await expectGates(path('beside-00001-of-00003.gguf'), other(), 8);

    writeOther(path('quantized.duo.json'));
    await expectGates(quantized());
    rmSync(path('quantized.duo.json'));
  });

  test('calibrate puts those of a split model where they are found', async () => {
    tool('gguf-split', '--split', '--split-max-tensors', '20', path('plain.gguf'), path('calibrated'));
    cli(
      'calibrate',
      '-m',
      'calibrated-00001-of-00003.gguf',
      '--method',
      'mass',
      '-c',
      '480',
      '--samples',
      '1',
      '--questions',
      '3',
      '-t',
      '2',
      ...window,
    );
    expect(existsSync(path('calibrated.duo.json'))).toBe(true);
    await expectGates(path('calibrated-00001-of-00003.gguf'), (await readGates(path('calibrated.duo.json'))).toJSON());
  });
});

describe('from a hub', () => {
  let hub: Hub;
  beforeAll(async () => {
    hub = await Hub.start();
    Object.assign(process.env, { HF_TOKEN: '', MODEL_ENDPOINT: hub.url, LLAMA_CACHE: path('cache') });
  });
  afterAll(() => hub.close());

  /** `llama completion -hf`, which needs this process to go on serving. */
  async function complete(repository: string): Promise<string> {
    const child = spawn(llama, completionOf('-hf', repository), { stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (said += chunk.toString()));
    expect(await new Promise((resolve) => child.once('close', resolve)), said).toBe(0);
    return said;
  }

  test('gates in a model, whole and split, and gates beside one in the cache', async () => {
    run(llama, ['quantize', path('plain.gguf'), path('bare-Q8_0.gguf'), 'Q8_0', '2']);
    tool('gguf-split', '--split', '--split-max-tensors', '20', quantized(), path('hub-F16'));
    hub.files.set('needle-Q8_0.gguf', readFileSync(quantized()));
    for (const part of parts('hub-F16')) hub.files.set(part, readFileSync(path(part)));
    hub.files.set('bare-Q4_0.gguf', readFileSync(path('bare-Q8_0.gguf')));

    for (const tag of ['Q8_0', 'F16']) {
      expect(await complete(`user/repo:${tag}`)).toContain(`${retrieval} retrieval heads x 512 cells`);
      await using model = await loadModel(`hf:user/repo:${tag}`, { weights: false });
      expect(model.gates?.toJSON()).toEqual(gates);
    }

    await using bare = await loadModel('hf:user/repo:Q4_0', { weights: false });
    expect(bare.gates).toBeUndefined();
    expect(basename(bare.info.path)).toBe('bare-Q4_0.gguf');
    renameSync(path('gates.json'), bare.info.path.replace('.gguf', '.duo.json'));
    expect(await complete('user/repo:Q4_0')).toContain(`${retrieval} retrieval heads x 512 cells`);
    await using again = await loadModel('hf:user/repo:Q4_0', { weights: false });
    expect(again.gates?.toJSON()).toEqual(gates);
  });
});
