import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import { modelPath } from './setup.ts';

// Every example, as a user runs it. What a model says differs from system to system, so what is around it is looked at.

const folder = join(root, 'examples');
let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'llama-duo-'));
});
afterAll(() => rmSync(scratch, { recursive: true }));

function run(name: string, args: readonly string[] = [], input = ''): string {
  const { stdout, stderr, status } = spawnSync(process.execPath, [join(folder, `${name}.mjs`), modelPath, ...args], {
    encoding: 'utf8',
    input,
    cwd: scratch,
  });
  expect(`${status}: ${status === 0 ? '' : stderr}`).toBe('0: ');
  return stdout;
}

const checks: Record<string, () => void> = {
  chat: () => {
    expect(run('chat', [], 'Hello\nWhat is your name?\n').match(/> \S/g)).toHaveLength(2);
  },
  'structured-output': () => {
    const [film = '', sure] = run('structured-output').trim().split('\n').slice(-2);
    expect(film).toMatch(/\(\d{4}\): ((drama|comedy|crime|science fiction)(, |$))*$/);
    expect(['yes', 'no', 'I do not know']).toContain(sure);
  },
  tools: () => {
    const output = run('tools', [join(folder, 'tools.jinja')]);
    expect(output).toMatch(
      /^\ncalls temperature \{ city: '(Rome|Oslo|Lima)'.*\}\ngets \{ city: '(Rome|Oslo|Lima)', degrees: (31|14|19) \}\n/,
    );
  },
  'many-requests': () => {
    const output = run('many-requests');
    expect(output).toMatch(/^France:.*Paris/m);
    expect(output).toMatch(/\d+ tokens, [\d.]+ a second/);
  },
  'long-document': () => {
    const first = run('long-document', [join(root, 'README.md'), 'document.state']).split('\n');
    const second = run('long-document', [join(root, 'README.md'), 'document.state']).split('\n');
    expect(first[1]).toMatch(/^\d{4} tokens were read; their state takes [\d.]+ MiB/);
    expect(second[1]).toMatch(/^\d{4} tokens come from/);
    expect(first[2]).toMatch(/\(\d{1,2} tokens were read for it\)$/);
    expect(second.slice(2)).toEqual(first.slice(2));
  },
  'embeddings-search': () => {
    expect(run('embeddings-search')).toMatch(/^0\.\d{3} The spacecraft will reach Mars/);
  },
  calibrate: () => {
    const [, full = '', half = ''] = run('calibrate').split('\n');
    const bytes = (line: string): number => Number(/([\d.]+) MiB/.exec(line)?.[1]);
    expect(full).toMatch(/^90 heads keep everything, 0 stream/);
    expect(half).toMatch(/^45 heads keep everything, 45 stream/);
    expect(bytes(half)).toBeLessThan(0.6 * bytes(full));
  },
};

test('each example has a check', () => {
  const names = readdirSync(folder).flatMap((file) => (file.endsWith('.mjs') ? [file.slice(0, -4)] : []));
  expect(Object.keys(checks).sort()).toEqual(names.sort());
});

test.each(Object.entries(checks))('%s', { timeout: 180_000 }, (_, check) => {
  check();
});
