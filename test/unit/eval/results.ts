import type { MemoryReport } from '../../../src/core/context.ts';
import type { Batch, Outcome } from '../../../src/eval/item.ts';
import type { Variant } from '../../../src/eval/modes.ts';
import type { Result } from '../../../src/eval/store.ts';

export const kv: MemoryReport = {
  retrievalBytes: 600,
  streamingBytes: 100,
  totalBytes: 700,
  fullBytes: 1200,
  retrievalHeads: 12,
  streamingHeads: 12,
  typeK: 'f16',
  typeV: 'f16',
  finerK: null,
  expectedLoss: null,
  retrievalCells: 1024,
  streamingCells: 320,
  windowedBytes: 0,
  recurrentBytes: 0,
  windowedHeads: 0,
  windowedCells: 0,
  sequences: 1,
  sink: 64,
  recent: 256,
  windowStep: 1,
};

export function outcome(value: number, depth: number | null = null): Outcome {
  return { scores: [{ depth, value, weight: 1 }], prefill: { tokens: 1000, seconds: 2 }, decode: { tokens: 8, seconds: 1 }, answer: 'so' };
}

export function result(over: Partial<Result> = {}): Result {
  return { variant: 'duo 50%', task: 'needle', length: 1024, depth: 0.5, index: 0, kv, outcome: outcome(1, 0.5), ...over };
}

export const full: Variant = {
  mode: 'full',
  sparsity: null,
  budget: null,
  chunk: null,
  typeK: 'f16',
  typeV: 'f16',
  label: 'full',
  draws: 1,
};
export const duo: Variant = {
  mode: 'duo',
  sparsity: 0.5,
  budget: null,
  chunk: 1,
  typeK: 'f16',
  typeV: 'f16',
  label: 'duo 50%',
  draws: 1,
  duo: () => ({ sparsity: 0.5, sink: 64, recent: 256, windowStep: 1 }),
};

export function batch(over: Partial<Batch> = {}): Batch {
  return { task: 'needle', length: 1024, contextSize: 1024, measure: 'accuracy', cells: [], ...over };
}
