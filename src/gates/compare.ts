import { GatesError } from '../errors.ts';
import type { GatePattern, HeadSelection } from './pattern.ts';

/** How alike two patterns of one model are. */
export type PatternComparison = {
  /** Spearman's correlation of the gates: 1 where they put heads in the same order, about 0 by chance. null where a pattern has one gate for all. */
  rankCorrelation: number | null;
  /** At each sparsity: of the heads that keep everything in either pattern, the share that does in both (Jaccard's index), and what chance gives. */
  overlaps: { sparsity: number; jaccard: number; chance: number; shared: number; retrievalHeads: number }[];
};

/** @throws GatesError where the shapes differ */
export async function comparePatterns(a: GatePattern, b: GatePattern, sparsities: readonly number[]): Promise<PatternComparison> {
  const shape = (pattern: GatePattern): string => pattern.gates.map((row) => row.length).join(' ');
  if (shape(a) !== shape(b)) {
    throw new GatesError(
      `The patterns have other shapes, ${a.layers} layers x ${a.kvHeads} KV heads and ${b.layers} x ${b.kvHeads}: only patterns of the same model can be compared.`,
    );
  }
  const overlaps = await Promise.all(
    sparsities.map(async (sparsity) => ({ sparsity, ...overlap(await a.select({ sparsity }), await b.select({ sparsity })) })),
  );
  return { rankCorrelation: spearman(a.gates.flat(), b.gates.flat()), overlaps };
}

function overlap(a: HeadSelection, b: HeadSelection) {
  const [streamsA, streamsB] = [a.streaming.flat(), b.streaming.flat()];
  const shared = streamsA.filter((streams, head) => !streams && !streamsB[head]).length;
  const kept = a.retrievalHeads;
  const either = 2 * kept - shared;
  // Of `kept` heads chosen at random, this many are expected to be among `kept` others.
  const expected = kept ** 2 / streamsA.length;
  return {
    jaccard: either === 0 ? 1 : shared / either,
    chance: either === 0 ? 1 : expected / (2 * kept - expected),
    shared,
    retrievalHeads: kept,
  };
}

/** Pearson's correlation of the ranks; equal values share theirs. */
export function spearman(a: readonly number[], b: readonly number[]): number | null {
  const [x, y] = [centred(ranks(a)), centred(ranks(b))];
  const dot = (p: readonly number[], q: readonly number[]): number => p.reduce((sum, value, index) => sum + value * (q[index] ?? 0), 0);
  const scale = Math.sqrt(dot(x, x) * dot(y, y));
  return scale === 0 ? null : dot(x, y) / scale;
}

function ranks(values: readonly number[]): number[] {
  const sorted = [...values].sort((a, b) => a - b);
  return values.map((value) => (sorted.indexOf(value) + sorted.lastIndexOf(value)) / 2);
}

function centred(values: readonly number[]): number[] {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return values.map((value) => value - mean);
}
