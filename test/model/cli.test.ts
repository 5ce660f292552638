import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import { loadModel } from '../../src/index.ts';
import { chequered, dist, longText, modelPath, patternOf } from './setup.ts';

const main = join(dist, 'cli/main.js');
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'llama-duo-cli-'));
  await writeFile(join(folder, 'gates.json'), patternOf(chequered(30, 3)));
  await writeFile(join(folder, 'prompt.txt'), 'The capital of France is\n');
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

type Ended = { status: number | null; stdout: string; stderr: string };

function cli(...args: string[]): Ended {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, INIT_CWD: folder, NO_COLOR: '1' },
  });
  return { status, stdout, stderr };
}

// The model has a chat template, so it would talk.
const common = ['-m', modelPath, '-t', '2', '-c', '512', '-no-cnv'];
const run = (...args: string[]): Ended => cli('run', ...common, '-p', 'The capital of France is', '-n', '8', '--temp', '0', ...args);

describe('run', () => {
  test('streams the text, after the prompt or without it', () => {
    const { status, stdout, stderr } = run('--no-display-prompt');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(/Paris/);
    expect(stdout).not.toContain('The capital of France is');
    expect(run().stdout).toBe(`The capital of France is${stdout}`);
  });

  test('--json prints one object and nothing else', async () => {
    const { status, stdout, stderr } = run('--json', '--duo-gates', 'gates.json', '--duo-sparsity', '0.5');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const answer = JSON.parse(stdout) as Record<string, unknown> & { tokens: number[]; kv: Record<string, number> };
    await using model = await loadModel(modelPath, { vocabOnly: true });
    expect(answer).toMatchObject({
      text: model.detokenize(answer.tokens),
      promptTokens: [...model.tokenize('The capital of France is')],
      heads: { retrieval: 45, streaming: 45 },
    });
    expect(answer.tokens).toHaveLength(8);
    expect(answer['prefillTokensPerSecond']).toBeGreaterThan(0);
    expect(answer['decodeTokensPerSecond']).toBeGreaterThan(0);
    const { retrievalBytes = 0, streamingBytes = 0, totalBytes, fullBytes } = answer.kv;
    expect(totalBytes).toBe(retrievalBytes + streamingBytes);
    expect(fullBytes).toBe(90 * 512 * 2 * 64 * 2);
  });

  test('takes the prompt from a file, from the user’s folder', () => {
    const { stdout, status } = cli('run', ...common, '-f', 'prompt.txt', '-n', '8', '--temp', '0');
    expect(status).toBe(0);
    expect(stdout).toBe(run().stdout);
  });

  test('sparsity 0 and 1 need no gates', () => {
    expect(run('--duo-sparsity', '0').stdout).toBe(run().stdout);
    expect(run('--duo-sparsity', '1').stdout).toMatch(/Paris/);
  });

  test('--ignore-eos goes on to the last token', () => {
    const { stdout } = cli('run', ...common, '-p', 'Hi<|im_end|>', '-n', '40', '--temp', '0', '--ignore-eos', '--json');
    expect((JSON.parse(stdout) as { tokens: number[] }).tokens).toHaveLength(40);
  });

  test.each([
    [['--duo-sparsity', '0.5'], 1, /the gates are "auto", but the model has none/],
    [['--duo-gates', 'none.tsv'], 1, /none\.tsv/],
    [['--duo-gates', 'auto'], 1, /auto|metadata|duo\.json/],
    [['--tmep', '0'], 2, /Did you mean --temp/],
    [['-ctk', 'f15'], 2, /-ctk/],
    [['-n', '-5'], 2, /^llama-duo: -n needs an integer of at least -1, got "-5"/],
  ])('%j ends with %i', (args, code, message) => {
    const { status, stdout, stderr } = run(...args);
    expect({ status, stdout }).toEqual({ status: code, stdout: '' });
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/\n {4}at /);
  });

  test('a model that is not there ends with 1', () => {
    const { status, stderr } = cli('run', '-m', 'none.gguf', '-p', 'x');
    expect(status).toBe(1);
    expect(stderr).toContain(join(folder, 'none.gguf'));
  });

  test.skipIf(process.platform === 'win32')('an interrupt ends it with 130', { timeout: 60_000 }, async () => {
    const child = spawn(process.execPath, [main, 'run', ...common, '-c', '8192', '-p', 'Once', '--ignore-eos'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    child.stdout.once('data', () => child.kill('SIGINT'));
    const [code, signal] = await new Promise<[number | null, string | null]>((resolve) => {
      child.once('exit', (...ended) => {
        resolve(ended);
      });
    });
    expect([code, signal]).toEqual([130, null]);
  });

  test('a reader who leaves ends it without fuss', { timeout: 60_000 }, async () => {
    const child = spawn(process.execPath, [main, 'run', ...common, '-p', 'Once', '-n', '400', '--ignore-eos'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stderr = '';
    child.stderr.on('data', (data) => (stderr += String(data)));
    child.stdout.once('data', () => child.stdout.destroy());
    const code = await new Promise((resolve) => child.once('exit', resolve));
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  });
});

describe('run, in a conversation', () => {
  const talk = (input: string, ...args: string[]): Ended => {
    const all = [main, 'run', '-m', modelPath, '-t', '2', '-c', '1024', '-n', '24', '--temp', '0', ...args];
    const { status, stdout, stderr } = spawnSync(process.execPath, all, { encoding: 'utf8', input });
    return { status, stdout, stderr };
  };

  test('applies the template, tells the system prompt and goes on with stdin', () => {
    const { status, stdout, stderr } = talk('And of Italy?\n', '-sys', 'Be brief.', '-p', 'What is the capital of France?');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(
      /^system\nBe brief\.\nuser\nWhat is the capital of France\?\nassistant\nThe capital of France is Paris\.\n.*Italy.*\n$/,
    );
  });

  test('--json tells the tokens of one answer', async () => {
    const { status, stdout } = talk('', '-p', 'Hi', '-sys', 'Be brief.', '--json');
    expect(status).toBe(0);
    const { promptTokens, text } = JSON.parse(stdout) as { promptTokens: number[]; text: string };
    await using model = await loadModel(modelPath, { vocabOnly: true });
    const prompt = '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n';
    expect(promptTokens).toEqual([...model.tokenize(prompt, { parseSpecial: true })]);
    expect(`${text}\n`).toBe(talk('', '-p', 'Hi', '-sys', 'Be brief.', '--no-display-prompt').stdout);
  });
});

describe('inspect', () => {
  test('--json tells what contexts and rings cost', () => {
    const { status, stdout } = cli('inspect', '-m', modelPath, '--duo-gates', 'gates.json', '--json');
    expect(status).toBe(0);
    const report = JSON.parse(stdout) as {
      contexts: { contextSize: number; fullBytes: number; mixedBytes: number }[];
      rings: { ubatchSize: number; cells: number }[];
    };
    expect(report).toMatchObject({
      model: { layers: 30, kvHeads: '3', headSizeK: 64, trainedContextSize: 8192 },
      mixedHeads: { supported: true, reason: null },
      heads: { retrieval: 45, streaming: 45 },
      window: { sink: 16, recent: 64, windowStep: 1 },
    });
    const largest = report.contexts.at(-1);
    expect(largest).toMatchObject({ contextSize: 1048576, fullBytes: 90 * 1048576 * 256 });
    expect((largest?.mixedBytes ?? 0) / (largest?.fullBytes ?? 1)).toBeCloseTo(0.5, 2);
    const cells = report.rings.map((ring) => ring.cells);
    expect(cells).toEqual([...cells].sort((a, b) => a - b));
    expect(cells.at(-1)).toBeGreaterThan(2048);
  });

  test('prints tables', () => {
    const { status, stdout, stderr } = cli('inspect', '-m', modelPath);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(/mixed heads +yes/);
    expect(stdout).toMatch(/1,048,576 +22\.5 GiB/);
    // eslint-disable-next-line no-control-regex -- no colours where stdout is no terminal
    expect(stdout).not.toMatch(/\u001b/);
  });
});

describe('demo', () => {
  const demo = (...args: string[]): Ended =>
    cli(
      'demo',
      '-m',
      modelPath,
      '-t',
      '2',
      '--lengths',
      '256',
      '--duo-sink',
      '16',
      '--duo-recent',
      '64',
      '-ub',
      '64',
      '--plot',
      'demo',
      ...args,
    );

  test('--json prints one object: accuracy, bytes and speed of full, mixed and streaming heads', { timeout: 180_000 }, () => {
    const { status, stdout } = demo('--duo-gates', 'gates.json', '--json');
    expect(status).toBe(0);
    const answer = JSON.parse(stdout) as Record<string, Record<string, number>>;
    expect(Object.keys(answer)).toEqual(['full', 'duo', 'streaming']);
    const { full, duo, streaming } = answer;
    expect(full?.['kvBytes']).toBe(90 * 256 * 2 * 64 * 2);
    expect(duo?.['kvBytes']).toBe(((full?.['kvBytes'] ?? 0) + (streaming?.['kvBytes'] ?? 0)) / 2);
    for (const { accuracy = -1, decodeTokensPerSecond } of Object.values(answer)) {
      expect([0, 1, 2, 3].map((found) => found / 3)).toContain(accuracy);
      expect(decodeTokensPerSecond).toBeGreaterThan(0);
    }
    // The model is small, but not so small that full heads would find nothing, and what streaming heads cannot see they do not find.
    expect(full?.['accuracy']).toBeGreaterThan(0);
    expect(streaming?.['accuracy']).toBe(0);
    expect(existsSync(join(folder, 'demo/heat-map-needle.svg'))).toBe(true);
  });

  test('on the needle model: what README says of it', { timeout: 600_000 }, () => {
    const { status, stdout } = cli('demo', '-t', '2');
    expect(status).toBe(0);
    // found, heads that stream, and bytes of the cache, as in README's table
    expect(stdout).toMatch(
      /full +15 of 15 +0 +24\.0 MiB .*\n.*mixed \(duo\) +15 of 15 +18 +10\.2 MiB .*\n.*all stream +0 of 15 +24 +5\.6 MiB /,
    );
    expect(stdout).toContain('KV cache at 4,096');
    const readme = readFileSync(join(root, 'README.md'), 'utf8');
    for (const line of [
      'full +\\| 15 of 15 +\\| 24\\.0 MiB',
      '18 of 24 stream +\\| 15 of 15 +\\| 10\\.2 MiB',
      'all 24 stream +\\| 0 of 15 +\\| 5\\.6 MiB',
    ])
      expect(readme).toMatch(new RegExp(line));
    expect(readdirSync(folder)).not.toContain('build'); // pictures are drawn where --plot says, and nowhere else
  });

  test('a model without gates is told what its mixed heads are', { timeout: 180_000 }, () => {
    const { status, stdout } = demo();
    expect(status).toBe(0);
    expect(stdout).toMatch(/Gates: every other head.*\n.*arbitrary.*\n.*llama-duo calibrate -m /);
    expect(stdout).toMatch(/full +\d of 3 +0 .*\n.*mixed \(duo\) +\d of 3 +45 .*\n.*all stream +\d of 3 +90 /);
    expect(stdout).toContain('Heat map: demo/heat-map-needle.svg');
  });
});

test('half of the heads stream through a prompt of 4,000 tokens', { timeout: 180_000 }, async () => {
  await writeFile(join(folder, 'long.txt'), longText(350));
  const { status, stdout } = cli(
    'run',
    '-m',
    modelPath,
    '-t',
    '2',
    '-f',
    'long.txt',
    '-no-cnv',
    '-n',
    '16',
    '--temp',
    '0',
    '--duo-gates',
    'gates.json',
    '--json',
  );
  expect(status).toBe(0);
  const { promptTokens, tokens, kv, heads } = JSON.parse(stdout) as {
    promptTokens: number[];
    tokens: number[];
    kv: { totalBytes: number; fullBytes: number };
    heads: object;
  };
  expect(promptTokens.length).toBeGreaterThan(4000);
  expect(tokens).toHaveLength(16);
  expect(heads).toEqual({ retrieval: 45, streaming: 45 });
  expect(kv.totalBytes / kv.fullBytes).toBeLessThan(0.6);
});
