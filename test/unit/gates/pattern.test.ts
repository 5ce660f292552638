import fc from 'fast-check';
import { expect, test } from 'vitest';

import type { GatePatternJson } from '../../../src/core/duo.ts';
import { GatePattern } from '../../../src/gates/pattern.ts';
import { patterns } from '../../patterns.ts';
import { FakeLibrary } from '../fake-library.ts';

const { native } = new FakeLibrary();

test('any pattern is the same as JSON, as a file and as an object again', () => {
  fc.assert(
    fc.property(patterns(), (json) => {
      const pattern = new GatePattern(native, json);
      expect(pattern.toJSON()).toEqual(json);
      expect(JSON.parse(JSON.stringify(pattern))).toEqual(json);
      expect(JSON.parse(pattern.format('json'))).toEqual(json);
      expect(new GatePattern(native, JSON.parse(pattern.format('json')) as GatePatternJson)).toEqual(pattern);
    }),
  );
});

test('the version is the oldest that can say all of it', () => {
  const plain: GatePatternJson = { llamaDuoPattern: 2, layers: 1, kvHeads: 2, gates: [[0, 1]] };
  const version = (more: Partial<GatePatternJson>): number => new GatePattern(native, { ...plain, ...more }).toJSON().llamaDuoPattern;
  expect(version({})).toBe(1);
  expect(version({ windows: [[64, 128]] })).toBe(2);
  expect(version({ sinks: [4] })).toBe(2);
  expect(version({ losses: { windows: [8], heads: [[[0.5], [0]]] } })).toBe(2);
});

test('what a pattern gives out is a copy', () => {
  const json: GatePatternJson = { llamaDuoPattern: 2, layers: 1, kvHeads: 1, gates: [[1]], windows: [[64]], sinks: [4] };
  const pattern = new GatePattern(native, json);
  const out = pattern.toJSON();
  out.windows?.[0]?.fill(0);
  out.sinks?.fill(0);
  expect(pattern.toJSON()).toEqual(json);
});
