import { expect, test } from 'vitest';

import type { Context } from '../../../src/core/context.ts';
import { StateError } from '../../../src/errors.ts';
import { KeptHaystack } from '../../../src/eval/kept-haystack.ts';

/** A context whose sequence goes back to a length, and tells what it is asked for. */
function fake(resumableFrom: number): { context: Context; asked: string[] } {
  const asked: string[] = [];
  const sequence = {
    append: (tokens: Int32Array) => Promise.resolve(asked.push(`append ${tokens.length}`)),
    truncate(length: number) {
      asked.push(`truncate ${length}`);
      return length === 0 || length >= resumableFrom ? Promise.resolve() : Promise.reject(new StateError('too far', resumableFrom));
    },
    dispose: () => Promise.resolve(asked.push('dispose')),
  };
  return { context: { sequence: () => Promise.resolve(sequence) } as unknown as Context, asked };
}

const haystack = new Int32Array(100);

test('a haystack is read once, and each question follows all of it but its last token', async () => {
  const { context, asked } = fake(40);
  const kept = new KeptHaystack(context);
  const reads = [await kept.holding(haystack, {}), await kept.holding(haystack, {})].map(({ read }) => read.tokens);
  expect(reads).toEqual([99, 0]);
  expect(asked).toEqual(['truncate 0', 'append 100', 'truncate 99', 'append 1']);
  await kept[Symbol.asyncDispose]();
  expect(asked.at(-1)).toBe('dispose');
});

test('another one takes its place', async () => {
  const { context, asked } = fake(0);
  const kept = new KeptHaystack(context);
  await kept.holding(haystack, {});
  expect((await kept.holding(new Int32Array(50), {})).read.tokens).toBe(49);
  expect((await kept.holding(haystack, {})).read.tokens).toBe(99);
  expect(asked.filter((call) => call !== 'truncate 0')).toEqual(['append 100', 'append 50', 'append 100']);
});

test('a cache that cannot go back reads it again', async () => {
  const { context, asked } = fake(120);
  const kept = new KeptHaystack(context);
  await kept.holding(haystack, {});
  expect((await kept.holding(haystack, {})).read.tokens).toBe(99);
  expect(asked).toEqual(['truncate 0', 'append 100', 'truncate 99', 'truncate 0', 'append 100']);
});
