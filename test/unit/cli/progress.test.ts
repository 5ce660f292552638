import { expect, test } from 'vitest';

import { timeLeft } from '../../../src/cli/progress.ts';

test.each([
  ['a third took 30 s', { at: 0, done: 0 }, { done: 1, total: 3 }, 30_000, '1:00'],
  // An earlier run did half at no cost to this one: a quarter in 60 s leaves as much.
  ['resumed at half', { at: 5_000, done: 0.5 }, { done: 0.75, total: 1 }, 65_000, '1:00'],
  ['nothing done yet', { at: 0, done: 0.5 }, { done: 0.5, total: 1 }, 9_000, '?'],
  ['hours', { at: 0, done: 0 }, { done: 1, total: 3 }, 3_723_000, '2:04:06'],
])('time left, %s', (_, began, progress, now, left) => {
  expect(timeLeft(began, progress, now)).toBe(left);
});
