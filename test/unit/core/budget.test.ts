import { expect, test } from 'vitest';

import { budgetNumber } from '../../../src/core/budget.ts';

test.each<[unknown, number | undefined]>([
  [0.3, 0.3],
  [1, 1],
  ['0.3', 0.3],
  ['.5', 0.5],
  ['1', 1],
  [2 ** 30, 2 ** 30],
  ['1000000', 1_000_000],
  ['4GiB', 4 * 2 ** 30],
  ['4G', 4 * 2 ** 30],
  ['1.5MiB', 1.5 * 2 ** 20],
  ['512K', 512 * 2 ** 10],
  ['2TiB', 2 * 2 ** 40],
  [0, undefined],
  [-1, undefined],
  [NaN, undefined],
  [Infinity, undefined],
  ['', undefined],
  ['GiB', undefined],
  ['4gib', undefined],
  ['4 GiB', undefined],
  ['-4GiB', undefined],
  ['1e3', undefined],
  ['30%', undefined],
  ['0.0001K', undefined],
  ['9999999TiB', undefined],
  [null, undefined],
  [{}, undefined],
])('%j is %j', (given, number) => {
  expect(budgetNumber(given)).toBe(number);
});
