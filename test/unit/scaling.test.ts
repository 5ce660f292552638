import { expect, test } from 'vitest';

import { cacheBytes, measurements, predictions } from '../../bench/scaling.mjs';

test('the cost model of docs/scaling.md is within 5% of every measured row that it is not made from', () => {
  const checked = predictions(measurements());
  expect(checked.length).toBeGreaterThan(15);
  for (const row of checked) expect(Math.abs(row.error), JSON.stringify(row)).toBeLessThan(0.05);
});

test('4,194,304 tokens of the shape take 72 GiB in q4_0 with half of the heads streaming', () => {
  expect(cacheBytes('q4_0', 4194304, 0.5) / 2 ** 30).toBeCloseTo(72, 0);
});
