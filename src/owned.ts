import { DisposedError } from './errors.ts';
import type { Handle } from './ffi/native.ts';

/** A model or context of the library, which is given back once. */
export class Owned {
  readonly #what: string;
  readonly #handle: Handle;
  readonly #release: (handle: Handle) => void;
  #freed = false;

  constructor(what: string, handle: Handle, release: (handle: Handle) => void) {
    this.#what = what;
    this.#handle = handle;
    this.#release = release;
  }

  /** @throws DisposedError once it has been freed */
  get handle(): Handle {
    this.assertLive();
    return this.#handle;
  }

  /** @throws DisposedError once it has been freed */
  assertLive(): void {
    if (this.#freed) throw new DisposedError(this.#what);
  }

  free(): void {
    if (this.#freed) return;
    this.#freed = true;
    this.#release(this.#handle);
  }
}

/**
 * Gives back what a program has dropped without disposing of it: `abandoned.register(owner, owned, owner)`. What is held must not refer to
 * the owner, or it would never be dropped.
 */
export const abandoned = new FinalizationRegistry<{ free(): void }>((owned) => owned.free());
