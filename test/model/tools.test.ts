import { spawn, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { describe, expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import { run, variables } from '../../src/cli/run.ts';
import { dist, modelPath } from './setup.ts';

// llama.cpp's tool, as llama-duo runs it, and llama-duo's own `run` beside `completion`.

const main = join(dist, 'cli/main.js');
const tool = join(root, 'build/bin/llama');
const needle = join(root, 'models/needle.gguf');
if (!existsSync(tool)) throw new Error(`${tool} is missing. "npm run test:model" builds it.`);

type Ended = { status: number | null; stdout: string; stderr: string };

function llamaDuo(args: readonly string[], env: Record<string, string> = {}): Ended {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], {
    encoding: 'utf8',
    env: { ...process.env, NO_COLOR: '1', ...env },
    input: '',
  });
  return { status, stdout, stderr };
}

const duo = { gates: needle.replace('.gguf', '.duo.json'), sparsity: '0.5', sink: '5', recent: '33', chunk: '3' };
const duoFlags = Object.entries(duo).flatMap(([name, value]) => [`--duo-${name}`, value]);
const duoVariables = Object.fromEntries(Object.entries(duo).map(([name, value]) => [`LLAMA_ARG_DUO_${name.toUpperCase()}`, value]));
/** What the log says of a cache that those have made. */
const mixedCache = /12 streaming heads x \d+ cells \(sink 5, recent 33, chunk 3\)/;

describe('every tool', () => {
  test.each(['serve', 'cli', 'completion', 'bench', 'batched-bench', 'perplexity', 'fit-params'])(
    '%s --help tells of mixed heads',
    (word) => {
      const { status, stdout } = llamaDuo([word, '--help']);
      expect(status).toBe(0);
      for (const name of ['gates', 'sparsity', 'threshold', 'sink', 'recent', 'chunk']) {
        expect(stdout).toMatch(new RegExp(`--duo-${name} `));
        expect(stdout).toContain(`(env: LLAMA_ARG_DUO_${name.toUpperCase()})`);
      }
    },
  );

  // cpp/test/test-tool-commands.cpp has the others.
  test.each([
    ['flags', duoFlags, {}],
    ['variables', [], duoVariables],
  ])('cli has mixed heads by %s', (_, flags, variables) => {
    const { status, stdout, stderr } = llamaDuo(
      ['cli', '-m', needle, '-c', '512', '-n', '2', '-t', '1', '-p', 'one', '-st', '-lv', '5', ...flags],
      variables,
    );
    expect(status).toBe(0);
    expect(stdout + stderr).toMatch(mixedCache);
  });

  test('bench finds the gates that a file carries', () => {
    const folder = mkdtempSync(join(tmpdir(), 'llama-duo-tools-'));
    try {
      const carrying = join(folder, 'carrying.gguf');
      expect(llamaDuo(['pattern', 'embed', duo.gates, '-m', needle, '-o', carrying]).status).toBe(0);
      const bench = (...args: string[]): Ended => llamaDuo(['bench', '-p', '8', '-n', '0', '-r', '1', '-t', '1', '-v', ...args]);
      for (const flags of [
        ['--duo-gates', 'auto'],
        ['--duo-recent', '33'],
      ]) {
        const { status, stdout, stderr } = bench('-m', carrying, ...flags);
        expect(status).toBe(0);
        expect(stdout + stderr).toContain('12 streaming heads');
      }
      const none = join(folder, 'none.gguf');
      copyFileSync(needle, none);
      const { status, stderr } = bench('-m', none, '--duo-recent', '33');
      expect(status).toBe(1);
      expect(stderr).toContain('the gates are "auto", but the model has none');
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test.skipIf(process.platform === 'win32').each([
    ['flags', duoFlags, {}],
    ['variables', [], duoVariables],
  ])('serve has mixed heads by %s, and ends when it is asked to', { timeout: 60_000 }, async (_, flags, variables) => {
    const args = [main, 'serve', '-m', needle, '-c', '512', '-t', '1', '--port', '0', '-lv', '5', ...flags];
    const child = spawn(process.execPath, args, { env: { ...process.env, ...variables }, stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    let asked = false;
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (data) => {
        said += String(data);
        if (!asked && /listening on http/.test(said)) asked = child.kill('SIGTERM');
      });
    }
    const code = await new Promise((resolve) => child.once('close', resolve));
    expect(said).toMatch(mixedCache);
    expect(code).toBe(0);
  });
});

describe('run is completion', () => {
  /** An option of completion: its names, its default where that is one word, and its variable. */
  type Entry = { names: Set<string>; otherwise: string | undefined; variable: string | undefined };

  /** Its options, as its help tells them: names and values up to column 37, what they are for from column 40, or below. */
  function entriesOf(help: string): Entry[] {
    return [...help.matchAll(/^-.*\n(?: .*\n)*/gm)].map(([block]) => {
      const [first = ''] = block.split('\n');
      const left = first.slice(37, 40).trim() === '' ? first.slice(0, 37) : first;
      const names = new Set([...left.matchAll(/(?<![\w-])--?[a-z][\w-]*/gi)].map(([name]) => name));
      return { names, otherwise: /\(default:\s+'?([^\s,)']+)/.exec(block)?.[1], variable: /\(env: (LLAMA_\w+)\)/.exec(block)?.[1] };
    });
  }

  test('in the names of its flags, in what they mean where they are not given, and in variables', () => {
    const entries = entriesOf(llamaDuo(['completion', '--help']).stdout);
    expect(entries.length).toBeGreaterThan(100);
    const flags = Object.values(run.flags);
    const shared = entries
      .map((entry) => ({ entry, ours: flags.filter(({ names }) => names.some((name) => entry.names.has(name))) }))
      .filter(({ ours }) => ours.length > 0);
    // --json alone is llama-duo's.
    expect(shared.flatMap(({ ours }) => ours)).toHaveLength(flags.length - 1);
    for (const { entry, ours } of shared) expect(new Set(ours.flatMap(({ names }) => [...names]))).toEqual(entry.names);

    const told = shared.flatMap(({ entry: { variable }, ours }) => (variable === undefined ? [] : [[ours[0]?.names[0], variable]]));
    expect(
      Object.entries(variables)
        .map(([key, variable]) => [run.flags[key]?.names[0], variable])
        .sort(),
    ).toEqual(told.sort());

    const defaults = shared.flatMap(({ entry: { otherwise }, ours }) => {
      const [, mine] = /\(default: ([^\s,)]+)/.exec(ours[0]?.help ?? '') ?? [];
      const isNumber = (text: string | undefined): text is string => text !== undefined && text !== '' && Number.isFinite(Number(text));
      return isNumber(mine) && isNumber(otherwise) ? [{ name: ours[0]?.names[0], mine: Number(mine), theirs: Number(otherwise) }] : [];
    });
    expect(defaults.length).toBeGreaterThan(20);
    expect(defaults.filter(({ mine, theirs }) => mine !== theirs)).toEqual([]);
  });

  const both = (...args: string[]): { ours: string; theirs: string } => {
    const common = ['-m', modelPath, '-c', '512', '-n', '24', '-t', '1', ...args];
    const [ours, theirs] = [llamaDuo(['run', ...common]), llamaDuo(['completion', '--jinja', ...common])];
    expect([ours.status, theirs.status]).toEqual([0, 0]);
    // Completion says where a text has ended, and leaves two lines.
    return { ours: ours.stdout.trimEnd(), theirs: theirs.stdout.replace(' [end of text]', '').trimEnd() };
  };

  test.each([
    ['greedy', ['--temp', '0']],
    ['by chance', ['-s', '7']],
    ['by other chances', ['-s', '8', '--temp', '1.5', '--top-k', '0', '--top-p', '0.9', '--min-p', '0.01']],
    [
      'with penalties',
      ['-s', '9', '--repeat-penalty', '1.3', '--presence-penalty', '0.2', '--frequency-penalty', '0.1', '--repeat-last-n', '32'],
    ],
    [
      'with other samplers',
      [
        '-s',
        '10',
        '--typical',
        '0.9',
        '--top-nsigma',
        '2',
        '--xtc-probability',
        '0.5',
        '--dynatemp-range',
        '0.5',
        '--dry-multiplier',
        '0.8',
      ],
    ],
    ['with Mirostat', ['-s', '11', '--mirostat', '2', '--mirostat-ent', '4']],
    ['with a grammar', ['-s', '12', '--grammar', 'root ::= " " [A-Z] [a-z]+ "."']],
    ['beyond the end', ['-s', '13', '--ignore-eos']],
    ['where no head streams', ['--temp', '0', '--duo-sparsity', '0']],
    ['where all heads stream', ['--temp', '0', '--duo-sparsity', '1', '--duo-sink', '2', '--duo-recent', '4']],
  ])('in its text, %s', (_, args) => {
    const { ours, theirs } = both('-no-cnv', '-p', String.raw`The capital of France is\n`, ...args);
    expect(ours).toBe(theirs);
    expect(ours.length).toBeGreaterThan('The capital of France is\n'.length);
  });

  test.each([
    ['greedy', ['--temp', '0']],
    ['by chance', ['-s', '7', '-sys', 'Be brief.']],
    ['where all heads stream', ['--temp', '0', '--duo-sparsity', '1', '--duo-sink', '8', '--duo-recent', '16']],
  ])('in its answer, %s', (_, args) => {
    const { ours, theirs } = both('-st', '-p', 'What is the capital of France?', ...args);
    expect(ours).toBe(theirs);
    expect(ours).toMatch(/assistant\n\S/);
  });
});
