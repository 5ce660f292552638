/** Whole numbers by a seed: the same everywhere, and apart for seeds that are not. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** From 0 up to, and without, the limit. */
  below(limit: number): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0;
    let x = this.#state;
    x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
    return ((x ^ (x >>> 16)) >>> 0) % limit;
  }

  /** Tokens of needle.gguf and SmolLM2 that are ordinary words. */
  tokens(count: number): number[] {
    return Array.from({ length: count }, () => 100 + this.below(400));
  }
}
