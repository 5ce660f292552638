import type { Context } from '../core/context.ts';
import type { Sequence } from '../core/sequence.ts';
import { StateError } from '../errors.ts';
import type { Pace, RunOptions } from './item.ts';

/**
 * The haystack that was read last in a context, in a sequence that goes back to its end for each question. So a question is computed in one piece after the haystack,
 * whatever was asked before, and its answer is the same in any order of questions, also after an interruption.
 *
 * No copy of the sequence is needed for that, whose cells would take as much memory again: streaming heads' rings have room for a batch (-ub) and 64 tokens beyond
 * what is seen, which is more than a question and its answer take. A cache that cannot go back so far, or not at all, reads the haystack again.
 */
export class KeptHaystack {
  readonly #context: Context;
  #sequence: Sequence | undefined;
  #held: Int32Array | undefined;

  constructor(context: Context) {
    this.#context = context;
  }

  /**
   * @param tokens the haystack: the same array for all of its questions
   * @returns a sequence that holds it and nothing else, and what was read for that
   */
  async holding(tokens: Int32Array, { signal, onProgress }: RunOptions): Promise<{ sequence: Sequence; read: Pace }> {
    const sequence = (this.#sequence ??= await this.#context.sequence({ signal }));
    // The last token is computed with what comes next, so it is taken back, too.
    const computed = tokens.length - 1;
    if (this.#held === tokens && (await goesBack(sequence, computed))) {
      await sequence.append(tokens.subarray(computed), { signal });
      return { sequence, read: { tokens: 0, seconds: 0 } };
    }
    this.#held = undefined;
    await sequence.truncate(0, { signal });
    const began = performance.now();
    await sequence.append(tokens, { signal, onProgress });
    this.#held = tokens;
    return { sequence, read: { tokens: computed, seconds: (performance.now() - began) / 1000 } };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#sequence?.dispose();
  }
}

async function goesBack(sequence: Sequence, length: number): Promise<boolean> {
  try {
    await sequence.truncate(length);
    return true;
  } catch (error) {
    if (error instanceof StateError) return false;
    throw error;
  }
}
