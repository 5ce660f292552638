import type { Encoder } from './encoder.ts';
import { sentence } from './language.ts';
import { atOnce } from '../core/slices.ts';
import type { Random } from './random.ts';

/** Running text in tokens, and the places between its sentences: 0, the start of each other sentence, and the end. */
export type Haystack = { tokens: number[]; gaps: number[] };

/** Whole sentences that have exactly `length` tokens together; each begins with a space. */
export function haystack(length: number, encoder: Encoder, random: Random): Haystack {
  return atOnce(haystackSteps(length, encoder, random));
}

/** The same in steps of a few sentences, for {@link inSlices}. */
export function* haystackSteps(length: number, encoder: Encoder, random: Random): Generator<void, Haystack, void> {
  const sentences: number[][] = [];
  let rest = length;
  while (rest > endingTokens) {
    const next = encoder.next(` ${sentence(random)}`);
    sentences.push(next);
    rest -= next.length;
    yield;
  }
  sentences.push(...(yield* ending(rest, encoder, random)));
  const gaps = [0];
  for (const { length } of sentences) gaps.push((gaps.at(-1) ?? 0) + length);
  return { tokens: sentences.flat(), gaps };
}

/** From here on sentences are chosen so that they end where they should: about four of them, which can have any number of tokens together. */
const endingTokens = 80;
const attempts = 200;

/** Sentences of exactly `length` tokens together; where none are found, or it is too short for any, the last one is cut. */
function* ending(length: number, encoder: Encoder, random: Random): Generator<void, number[][], void> {
  let sentences: number[][] = [];
  for (let attempt = 0; attempt < attempts; attempt++) {
    yield;
    sentences = [];
    let rest = length;
    while (rest > 0) {
      const next = encoder.next(` ${sentence(random)}`);
      sentences.push(next);
      rest -= next.length;
    }
    if (rest === 0) return sentences;
    sentences.push((sentences.pop() ?? []).slice(0, rest));
  }
  return sentences;
}
