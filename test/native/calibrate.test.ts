import { readFileSync } from 'node:fs';

import { expect, test } from 'vitest';

import { loadModel, type GatePatternJson } from '../../src/index.ts';
import { needlePath } from './needle-model.ts';

/** Heads as `layer.head`, those that are needed most first. */
function byGate(gates: readonly (readonly number[])[]): string[] {
  const heads = gates.flatMap((row, layer) => row.map((gate, head) => ({ gate, name: `${layer}.${head}` })));
  return heads.sort((a, b) => b.gate - a.gate).map(({ name }) => name);
}

test('a black-box search keeps the heads that are known to retrieve', async () => {
  const known = JSON.parse(readFileSync(needlePath.replace(/\.gguf$/, '.duo.json'), 'utf8')) as GatePatternJson;
  await using model = await loadModel(needlePath);
  const options = { contextSize: 640, samples: 1, questions: 4, kinds: ['numbers', 'passkeys'], sink: 16, recent: 64, threads: 2 } as const;
  const { pattern, correct } = await model.calibrate({ ...options, method: 'bosch', masks: 48 });
  expect(correct).toBeGreaterThan(0.9);
  expect(pattern.provenance).toMatchObject({ method: 'bosch', data: { masks: 48, kinds: ['numbers', 'passkeys'], chat: false } });
  expect(byGate(pattern.gates).slice(0, 6)).toEqual(expect.arrayContaining(byGate(known.gates).slice(0, 2)));
});
