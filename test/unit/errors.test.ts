import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import * as errors from '../../src/errors.ts';

test.each([
  ['gates', errors.GatesError],
  ['model', errors.ModelError],
  ['unsupported', errors.UnsupportedError],
  ['context', errors.ContextError],
  ['memory', errors.MemoryError],
  ['download', errors.DownloadError],
  ['full', errors.ContextFullError],
  ['decode', errors.DecodeError],
  ['state', errors.StateError],
  ['template', errors.TemplateError],
  ['limit', errors.LimitError],
])('a job that failed with code %s', (code, type) => {
  const error = errors.errorFromJob(JSON.stringify({ code, message: 'why' }));
  expect(error).toBeInstanceOf(type);
  expect(error).toBeInstanceOf(errors.LlamaDuoError);
  expect(error).toMatchObject({ code, message: 'why', name: type.name });
});

test('a bad option keeps its name, its value and what was expected', () => {
  const failure = { code: 'option', message: 'topK: ...', name: 'topK', value: -1, expected: 'an integer of at least 0' };
  const error = errors.errorFromJob(JSON.stringify(failure));
  expect(error).toBeInstanceOf(errors.OptionError);
  expect(error).toMatchObject({ code: 'option', option: 'topK', value: -1, expected: 'an integer of at least 0', message: 'topK: ...' });
});

test('an unknown code is an internal error', () => {
  expect(errors.errorFromJob('{"code":"new","message":"?"}')).toMatchObject({ code: 'internal', message: '?' });
});

test.each([
  ['text', '"text"'],
  [1.5, '1.5'],
  [NaN, 'NaN'],
  [[1, 2], 'an array of 2'],
  [{ a: 1 }, 'an object'],
  [null, 'null'],
  [undefined, 'undefined'],
  [5n, '5n'],
  ['x'.repeat(100), `"${'x'.repeat(60)}..."`],
])('%s in a message is %s', (value, shown) => {
  expect(errors.describe(value)).toBe(shown);
});

test('docs/troubleshooting.md explains every code and every class', () => {
  const rows = [...readFileSync(join(root, 'docs/troubleshooting.md'), 'utf8').matchAll(/^\| `(\w+)` +\| ([^|]*)\|/gm)];
  expect(rows.map(([, code]) => code)).toEqual(expect.arrayContaining([...errors.errorCodes]));
  expect(rows).toHaveLength(errors.errorCodes.length);
  const named = rows.flatMap(([, , classes = '']) => [...classes.matchAll(/`(\w+)`/g)].map(([, name]) => name));
  const classes = Object.keys(errors).filter((name) => name.endsWith('Error'));
  expect([...new Set(named)].sort()).toEqual(classes.sort());
});

test('a context that does not fit says what it needs, and which one would', () => {
  const failure = { code: 'memory', message: 'why', device: 'CPU', neededBytes: 2e12, freeBytes: 1e9, largestContextSize: 4096 };
  expect(errors.errorFromJob(JSON.stringify(failure))).toMatchObject({ ...failure, name: 'MemoryError' });
});

test('a sequence that cannot go back says how far it can', () => {
  expect(errors.errorFromJob('{"code":"state","message":"why","resumableFrom":7}')).toMatchObject({ code: 'state', resumableFrom: 7 });
});

test('a pattern of another model has both shapes', () => {
  const failure = { code: 'gates', message: 'why', patternShape: [8, 8], modelShape: [4, 4, 0] };
  const error = errors.errorFromJob(JSON.stringify(failure));
  expect(error).toBeInstanceOf(errors.GatesShapeError);
  expect(error).toBeInstanceOf(errors.GatesError);
  expect(error).toMatchObject({ ...failure, name: 'GatesShapeError' });
});
