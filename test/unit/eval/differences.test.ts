import { expect, test } from 'vitest';

import { differencesTable } from '../../../src/cli/differences-table.ts';
import { differences } from '../../../src/eval/differences.ts';
import type { Result } from '../../../src/eval/store.ts';
import { batch, duo, full, outcome, result } from './results.ts';

/** Results of both variants; `score` tells a prompt's. */
function both(task: string, count: number, score: (variant: string, index: number) => number): Result[] {
  return [full, duo].flatMap(({ label }) =>
    Array.from({ length: count }, (_, index) =>
      result({ variant: label, task, depth: null, index, outcome: outcome(score(label, index)) }),
    ),
  );
}

const variants = [full, duo];

test('a difference is that of the mean over tasks, whatever their numbers of prompts', () => {
  const results = [
    ...both('multi-key', 800, (variant, index) => (variant === 'full' || index % 2 === 0 ? 1 : 0)),
    ...both('multi-query', 100, () => 1),
  ];
  const [found, ...others] = differences(results, [batch({ task: 'multi-key' }), batch({ task: 'multi-query' })], variants, 'full', 1);
  expect(others).toEqual([]);
  expect(found).toMatchObject({
    variant: 'duo 50%',
    against: 'full',
    of: 'made-up tasks',
    length: 1024,
    tasks: 2,
    units: 900,
    points: -25,
  });
  // Of the first task's mean the standard deviation is sqrt(1 / 4 / 800), 1.8 points, and half of it counts.
  expect(found?.from).toBeCloseTo(-25 - 1.96 * 0.88, 0);
  expect(found?.to).toBeCloseTo(-25 + 1.96 * 0.88, 0);
  expect(found?.tells).toBe(true);
});

test('pairs tell more than two samples would: what both get wrong says nothing', () => {
  const results = both('multi-key', 200, (variant, index) => (index % 2 === 0 ? 0 : variant === 'full' && index === 1 ? 0 : 1));
  const [found] = differences(results, [batch({ task: 'multi-key' })], variants, 'full', 1);
  expect(found?.points).toBeCloseTo(0.5, 9);
  expect((found?.to ?? 99) - (found?.from ?? 0)).toBeLessThan(3);
});

test('prompts about one haystack are drawn together', () => {
  const lost = (variant: string, index: number): number => (variant === 'full' || index % 2 === 0 ? 1 : 0);
  const results = ['needle', 'multi-key', 'multi-value', 'multi-query'].flatMap((task) => both(task, 40, lost));
  const width = (shared: boolean): number => {
    const batches = ['needle', 'multi-key', 'multi-value', 'multi-query'].map((task) => batch({ task, ...(shared && { shared }) }));
    const [found] = differences(results, batches, variants, 'full', 1);
    expect(found).toMatchObject({ points: -50, units: shared ? 40 : 160 });
    return (found?.to ?? 0) - (found?.from ?? 0);
  };
  // All four tasks lose the same haystacks, so four times as many prompts say no more.
  expect(width(true) / width(false)).toBeGreaterThan(1.7);
});

test('a few prompts without a difference show nothing, many do', () => {
  const of = (count: number) =>
    differences(
      both('needle', count, () => 1),
      [batch()],
      variants,
      'full',
      1,
    )[0];
  expect(of(5)).toMatchObject({ points: 0, from: -60, to: 60, tells: false });
  expect(of(200)).toMatchObject({ points: 0, from: -1.5, to: 1.5, tells: true });
});

test('lengths and benchmarks are apart; MMLU is the mean of its questions; perplexity has no accuracy', () => {
  const zero = (variant: string): number => (variant === 'full' ? 1 : 0);
  const results = [
    ...both('needle', 2, () => 1),
    ...both('needle', 2, zero).map((one) => ({ ...one, length: 2048 })),
    ...both('mmlu/art', 1, zero),
    ...both('mmlu/law', 3, () => 1).map((one) => ({ ...one, length: 2048 })),
    ...both('ppl', 1, zero),
  ];
  const batches = [
    batch(),
    batch({ length: 2048 }),
    batch({ task: 'mmlu/art' }),
    batch({ task: 'mmlu/law', length: 2048 }),
    batch({ task: 'ppl', measure: 'perplexity' }),
  ];
  expect(differences(results, batches, variants, 'full', 1).map(({ of, length, points }) => [of, length, points])).toEqual([
    ['made-up tasks', 1024, 0],
    ['made-up tasks', 2048, -100],
    ['mmlu', 2048, -25],
  ]);
});

test('the same seed gives the same interval', () => {
  const results = both('needle', 30, (variant, index) => (variant === 'full' ? 1 : index % 3) / 2);
  const of = (seed: number) => differences(results, [batch()], variants, 'full', seed);
  expect(of(1)).toEqual(of(1));
});

test('the table says what is too wide to tell', () => {
  const results = both('needle', 8, (variant, index) => (variant === 'full' || index > 0 ? 1 : 0));
  const text = differencesTable(differences(results, [batch()], variants, 'full', 1));
  expect(text).toMatch(/against full, on the same prompts/);
  expect(text).toMatch(/duo 50% +one task +1,024 +8 +-12\.5 +-37\.5 to 0\.0 +shows nothing/);
  expect(text).toMatch(/more than 2\.5 points to each side shows nothing: ask more with --samples/);
  expect(differencesTable([])).toBe('');
});
