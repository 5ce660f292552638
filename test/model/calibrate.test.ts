import { spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { ContextError, loadModel, OptionError, readGates, type CalibrateOptions, type Model } from '../../src/index.ts';
import { comparePatterns } from '../../src/gates/compare.ts';
import { dist, modelPath, threads } from './setup.ts';

let folder: string;
let model: Model;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'llama-duo-calibrate-'));
  model = await loadModel(modelPath);
});
afterAll(async () => {
  await model.dispose();
  await rm(folder, { recursive: true });
});

/** A few seconds' work. */
const small: CalibrateOptions = { method: 'mass', contextSize: 480, samples: 1, questions: 3, sink: 16, recent: 64, threads };

describe('model.calibrate', () => {
  test('a pattern of the model, and where it comes from', async () => {
    const progress: number[] = [];
    const found = await model.calibrate({ ...small, seed: 7, onProgress: (share) => progress.push(share) });
    expect(found.pattern).toMatchObject({ layers: 30, kvHeads: 3, sink: 16, recent: 64 });
    expect(found.pattern.provenance).toMatchObject({
      modelSha256: expect.stringMatching(/^[0-9a-f]{64}$/) as string,
      method: 'mass',
      data: { text: 'generated', samples: 1, contextSize: 480, questions: 3, strict: false },
      seed: 7,
      version: expect.stringMatching(/^llama-duo \d/) as string,
    });
    expect(found.scores.flat()).toHaveLength(90);
    expect(found.scores.flat().every((mass) => mass >= 0 && mass <= 1)).toBe(true);
    expect(found.correct).toBeNull();
    expect([...progress].sort((a, b) => a - b)).toEqual(progress);
    expect(progress.at(-1)).toBeLessThanOrEqual(1);

    // The pattern works as it is, and the same seed gives the same.
    await using context = await model.createContext({ contextSize: 512, threads, duo: { gates: found.pattern, sparsity: 0.5 } });
    expect(context.memory()).toMatchObject({ retrievalHeads: 45, streamingHeads: 45, sink: 16, recent: 64 });
    expect((await model.calibrate({ ...small, seed: 7 })).pattern.gates).toEqual(found.pattern.gates);
  });

  test('other texts find much the same heads', async () => {
    const a = await model.calibrate({ ...small, seed: 1 });
    const b = await model.calibrate({ ...small, seed: 2 });
    const { rankCorrelation } = await comparePatterns(a.pattern, b.pattern, []);
    expect(rankCorrelation).toBeGreaterThan(0.8);
    expect(rankCorrelation).toBeLessThan(1);
  });

  test.each(['kvzip', 'mean-qk'] as const)('%s', async (method) => {
    const found = await model.calibrate({ ...small, method });
    expect(new Set(found.scores.flat()).size).toBeGreaterThan(80);
  });

  test('samples through the chat template, which the model has, with code in them', async () => {
    const found = await model.calibrate({ ...small, contextSize: 640, method: 'masks', masks: 2, kinds: ['numbers', 'code'] });
    expect(found.correct).toBeGreaterThan(0.5);
    expect(found.pattern.provenance).toMatchObject({ data: { kinds: ['numbers', 'code'], chat: true } });
  });

  test('samples as plain text, where they are asked for', async () => {
    const { pattern } = await model.calibrate({ ...small, method: 'mass', chat: false });
    expect(pattern.provenance).toMatchObject({ data: { chat: false } });
  });

  test('aborted before anything is done: the reason itself', async () => {
    const reason = new Error('enough');
    await expect(model.calibrate({ ...small, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    // While the file is hashed.
    const abort = new AbortController();
    const ended = model.calibrate({ ...small, signal: abort.signal });
    abort.abort(reason);
    await expect(ended).rejects.toBe(reason);
  });

  test('aborted, and gone on with', async () => {
    const partial = join(folder, 'partial');
    const options = { ...small, method: 'ablation', partial } as const;
    const abort = new AbortController();
    const reason = new Error('enough');
    const stopped = model.calibrate({
      ...options,
      signal: abort.signal,
      onProgress: (share) => {
        if (share > 0.2) abort.abort(reason);
      },
    });
    await expect(stopped).rejects.toBe(reason);
    // What was measured counts, though the texts are read again.
    let first: number | undefined;
    const again = new AbortController();
    const goneOn = model.calibrate({
      ...options,
      signal: again.signal,
      onProgress: (share) => {
        first ??= share;
        again.abort(reason);
      },
    });
    await expect(goneOn).rejects.toBe(reason);
    expect(first).toBeGreaterThan(0.05);
    expect((await readFile(partial, 'utf8')).split('\n').length).toBeGreaterThan(4);
  });

  test('what cannot be', async () => {
    await expect(model.calibrate({ ...small, contextSize: 100_000 })).rejects.toThrow(ContextError);
    await expect(model.calibrate({ recent: 8192 })).rejects.toThrow('The model was trained for');
    await expect(model.calibrate({ ...small, contextSize: 100 })).rejects.toThrow(OptionError);
    await expect(model.calibrate({ ...small, partial: '/no/such/folder/file' })).rejects.toMatchObject({ option: 'partial' });
    await expect(model.calibrate({ method: 'guess' as never })).rejects.toThrow('one of windows, combined');
    await using vocabulary = await loadModel(modelPath, { vocabOnly: true });
    await expect(vocabulary.calibrate()).rejects.toThrow(ContextError);
  });
});

describe('the command', () => {
  const cli = (...args: string[]) =>
    spawnSync(process.execPath, [join(dist, 'cli/main.js'), ...args], {
      cwd: folder,
      encoding: 'utf8',
      env: { ...process.env, INIT_CWD: folder, NO_COLOR: '1' },
    });

  test('writes a pattern, which a copy of the model takes along', async () => {
    const flags = ['-c', '480', '--samples', '1', '--questions', '3', '--duo-sink', '16', '--duo-recent', '64', '-t', '2'];
    const made = cli('calibrate', '-m', modelPath, '-o', 'gates.json', '--method', 'mass', ...flags);
    expect(made).toMatchObject({ status: 0, stdout: expect.stringContaining('Written to') as string });
    expect((await readGates(join(folder, 'gates.json'))).provenance).toMatchObject({ method: 'mass' });

    expect(cli('pattern', 'embed', 'gates.json', '-m', modelPath, '-o', 'copy.gguf').status).toBe(0);
    const run = cli(
      'run',
      '-m',
      join(folder, 'copy.gguf'),
      '--duo-gates',
      'auto',
      '-p',
      'One, two,',
      '-n',
      '2',
      '-c',
      '512',
      '--json',
      '-t',
      '2',
    );
    expect(JSON.parse(run.stdout)).toMatchObject({ heads: { retrieval: 45, streaming: 45 } });
    expect(cli('pattern', 'compare', 'gates.json', 'copy.gguf').stdout).toMatch(/Spearman\): 1\.000/);
  });

  test('mistakes are named', () => {
    expect(cli('calibrate')).toMatchObject({ status: 2, stderr: expect.stringContaining('Which model?') as string });
    expect(cli('calibrate', '-m', modelPath, '--method', 'ablatoin').stderr).toContain('Did you mean ablation?');
    expect(cli('calibrate', '-m', modelPath, '-c', '100').stderr).toMatch(/Bad value for -c: expected about \d+ tokens or more/);
  });
});
