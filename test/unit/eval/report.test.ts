import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';

import { prepareOutputs, report } from '../../../src/cli/eval-report.ts';
import { OutputError } from '../../../src/errors.ts';
import { rowsOf } from '../../../src/eval/rows.ts';
import { batch, duo, result } from './results.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'llama-duo-report-'));
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.doUnmock('vega');
  vi.doUnmock('@resvg/resvg-js');
  vi.resetModules();
  rmSync(folder, { recursive: true });
});

const rows = rowsOf([result()], [batch()], [duo], 1);
const found = { rows, differences: [], gates: undefined };
const nothing = { csv: undefined, plot: undefined, png: false };

/** What is printed from now on. */
function listen(): () => string {
  const write = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  return () => write.mock.calls.map(([text]) => String(text)).join('');
}

describe('before the work', () => {
  test('what can be written is left as it is', async () => {
    writeFileSync(join(folder, 'old.csv'), 'old');
    await prepareOutputs(nothing);
    await prepareOutputs({ csv: join(folder, 'old.csv'), plot: join(folder, 'new/pictures'), png: true });
    await prepareOutputs({ ...nothing, csv: join(folder, 'new.csv') });
    expect(readFileSync(join(folder, 'old.csv'), 'utf8')).toBe('old');
    expect(existsSync(join(folder, 'new.csv'))).toBe(false);
    expect(readdirSync(join(folder, 'new/pictures'))).toEqual([]);
  });

  test.each([
    ['csv', 'none/rows.csv', /none\/rows\.csv \(--csv\).*ENOENT/],
    ['csv', '.', /\(--csv\) is a folder/],
    ['resume', 'none/rows.jsonl', /none\/rows\.jsonl \(--resume\).*ENOENT/],
    ['plot', 'file/pictures', /file\/pictures \(--plot\).*ENOTDIR/],
  ])('--%s %s is refused', async (flag, path, message) => {
    writeFileSync(join(folder, 'file'), '');
    const prepared = prepareOutputs({ ...nothing, [flag]: join(folder, path) });
    await expect(prepared).rejects.toThrow(OutputError);
    await expect(prepared).rejects.toThrow(message);
  });

  test.each([
    ['vega', false],
    ['@resvg/resvg-js', true],
  ])('without the package %s there are no pictures', async (name, png) => {
    vi.resetModules();
    vi.doMock(name, () => {
      throw new Error('not installed');
    });
    const { prepareOutputs } = await import('../../../src/cli/eval-report.ts');
    await expect(prepareOutputs({ csv: undefined, plot: folder, png })).rejects.toThrow(
      `Pictures need the package ${name}: "npm install ${name}"`,
    );
    await prepareOutputs(nothing);
  });
});

test('the rows are printed, then written', async () => {
  const printed = listen();
  await report(found, { ...nothing, csv: join(folder, 'rows.csv'), json: 'rows' });
  expect(JSON.parse(printed())).toEqual(rows);
  expect(readFileSync(join(folder, 'rows.csv'), 'utf8')).toMatch(/^mode,task,.*\nduo,needle,1024,.*\n$/);
});

test('rows that can no longer be written are printed all the same', async () => {
  const printed = listen();
  await expect(report(found, { ...nothing, csv: join(folder, 'none/rows.csv'), json: 'rows' })).rejects.toThrow(/ENOENT/);
  expect(JSON.parse(printed())).toEqual(rows);
});
