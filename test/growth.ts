import { collectGarbage } from './native/garbage.ts';

/** Bytes, in JavaScript's heap and in the process. */
export type Sizes = { heap: number; resident: number };

async function sizes(): Promise<Sizes> {
  await collectGarbage(3);
  const { heapUsed, heapTotal, rss } = process.memoryUsage();
  // What the runtime has set aside for its own heap grows in steps, whenever it sees fit.
  return { heap: heapUsed, resident: rss - heapTotal };
}

/** The median slope between any two of some values that follow each other at equal steps: one that jumps does not tell. */
function slope(values: readonly number[]): number {
  const slopes = values.flatMap((later, j) => values.slice(0, j).map((earlier, i) => (later - earlier) / (j - i)));
  return slopes.sort((a, b) => a - b)[Math.floor(slopes.length / 2)] ?? 0;
}

/** Bytes that a round leaves behind. */
export async function growth(round: () => Promise<void>, rounds: number): Promise<Sizes> {
  const steps = 10;
  // Until each thread's part of the allocator has had what it keeps.
  for (let warmUp = 0; warmUp < rounds / 2; warmUp++) await round();
  const measured = [await sizes()];
  for (let step = 0; step < steps; step++) {
    for (let each = 0; each < rounds / steps; each++) await round();
    measured.push(await sizes());
  }
  const of = (values: number[]): number => slope(values) / (rounds / steps);
  return { heap: of(measured.map(({ heap }) => heap)), resident: of(measured.map(({ resident }) => resident)) };
}
