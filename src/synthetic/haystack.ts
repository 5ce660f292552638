import type { Encoder } from './encoder.ts';
import { sentence } from './language.ts';
import { atOnce } from '../core/slices.ts';
import type { Random } from './random.ts';

/** What running text is made of: its units, and what stands before each but the first, which begins with a space or a line break. */
export type Filler = { join: string; unit: (random: Random) => string };

/** Sentences. */
export const prose: Filler = { join: ' ', unit: sentence };

/** Running text in tokens, and the places between its units: 0, the start of each other unit, and the end. */
export type Haystack = { tokens: number[]; gaps: number[] };

/** Whole units that have exactly `length` tokens together. */
export function haystack(length: number, encoder: Encoder, random: Random, filler = prose): Haystack {
  return atOnce(haystackSteps(length, encoder, random, filler));
}

/** The same in steps of a few units, for {@link inSlices}. */
export function* haystackSteps(length: number, encoder: Encoder, random: Random, filler = prose): Generator<void, Haystack, void> {
  const next = (): number[] => encoder.next(filler.join + filler.unit(random));
  const units: number[][] = [];
  let rest = length;
  while (rest > endingTokens) {
    const unit = next();
    units.push(unit);
    rest -= unit.length;
    yield;
  }
  units.push(...(yield* ending(rest, next)));
  const gaps = [0];
  for (const { length } of units) gaps.push((gaps.at(-1) ?? 0) + length);
  return { tokens: units.flat(), gaps };
}

/** From here on units are chosen so that they end where they should: about four sentences, which can have any number of tokens together. */
const endingTokens = 80;
const attempts = 200;

/** Units of exactly `length` tokens together; where none are found, or it is too short for any, the last one is cut. */
function* ending(length: number, next: () => number[]): Generator<void, number[][], void> {
  let units: number[][] = [];
  for (let attempt = 0; attempt < attempts; attempt++) {
    yield;
    units = [];
    let rest = length;
    while (rest > 0) {
      const unit = next();
      units.push(unit);
      rest -= unit.length;
    }
    if (rest === 0) return units;
    units.push((units.pop() ?? []).slice(0, rest));
  }
  return units;
}
