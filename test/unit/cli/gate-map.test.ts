import { stripVTControlCharacters } from 'node:util';

import { expect, test } from 'vitest';

import { gateMap } from '../../../src/cli/gate-map.ts';

test('a column is a layer, a row a KV head; layers may have fewer heads than the widest', () => {
  const layers = 12;
  const gates = Array.from({ length: layers }, (_, layer) => (layer === 3 ? [0.5] : [layer / 11, 1 - layer / 11]));
  const pattern = { llamaDuoPattern: 1, layers, kvHeads: 2, gates } as const;
  const streaming = gates.map((row) => row.map((gate) => gate < 0.5));
  const lines = stripVTControlCharacters(gateMap(pattern, { streaming, retrievalHeads: 0, streamingHeads: 0 })).split('\n');
  expect(lines).toHaveLength(3);
  expect(lines[0]).toBe('    0         10');
  expect(lines[1]).toHaveLength(4 + layers);
  expect(lines[1]?.[4]).toBe('·');
  expect(lines[1]?.[15]).toBe('█');
  expect(lines[2]?.[4]).toBe('█');
  expect(lines[2]?.[7]).toBe(' ');
});
