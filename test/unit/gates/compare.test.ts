import { expect, test } from 'vitest';

import { spearman } from '../../../src/gates/compare.ts';

test('rank correlation', () => {
  expect(spearman([1, 2, 3, 4], [10, 20, 30, 4000])).toBeCloseTo(1);
  expect(spearman([1, 2, 3, 4], [4, 3, 2, 1])).toBeCloseTo(-1);
  // By hand: ranks 0, 1, 2, 3 against 1, 0, 3, 2 are 1 - 6 * 4 / (4 * 15).
  expect(spearman([1, 2, 3, 4], [2, 1, 4, 3])).toBeCloseTo(0.6);
  // Equal values share their ranks: 0.5, 0.5, 2 against 0, 1, 2.
  expect(spearman([5, 5, 9], [1, 2, 3])).toBeCloseTo(Math.sqrt(3) / 2);
  expect(spearman([1, 1, 1], [1, 2, 3])).toBeNull();
});
