import { createHash } from 'node:crypto';

// pure-rand: a seeded generator whose numbers are the same everywhere, which Math.random is not.
import { uniformFloat64 } from 'pure-rand/distribution/uniformFloat64';
import { uniformInt } from 'pure-rand/distribution/uniformInt';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';

/** Random numbers that depend on nothing but what they are for: the same seed and purpose give the same, in any order of work. */
export class Random {
  readonly #generator: ReturnType<typeof xoroshiro128plus>;

  /** @param purpose what the numbers are for, such as a task, a length and the number of the prompt */
  constructor(seed: number, ...purpose: (string | number)[]) {
    const digest = createHash('sha256')
      .update(JSON.stringify([seed, ...purpose]))
      .digest();
    this.#generator = xoroshiro128plus(digest.readInt32LE(0));
  }

  /** From 0 to below `count`. */
  below(count: number): number {
    return uniformInt(this.#generator, 0, count - 1);
  }

  /** From 0 to below 1. */
  fraction(): number {
    return uniformFloat64(this.#generator);
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }

  /** All items in random order (Fisher and Yates). */
  shuffle<T>(items: readonly T[]): T[] {
    const shuffled = [...items];
    for (let last = shuffled.length - 1; last > 0; last--) {
      const other = this.below(last + 1);
      [shuffled[last], shuffled[other]] = [shuffled[other] as T, shuffled[last] as T];
    }
    return shuffled;
  }

  /** `count` different items in random order. */
  sample<T>(items: readonly T[], count: number): T[] {
    return this.shuffle(items).slice(0, count);
  }

  /** Several lists as one, at random, each in its own order. */
  interleave<T>(lists: readonly (readonly T[])[]): T[] {
    const turns = this.shuffle(lists.flatMap((list) => list.map(() => list)));
    const rest = new Map(lists.map((list) => [list, list.values()]));
    return turns.map((list) => rest.get(list)?.next().value as T);
  }
}
