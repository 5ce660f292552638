import { DisposedError } from '../errors.ts';
import type { Handle, Native } from './native.ts';
import { Job, runJob } from './job.ts';

/** What the library has made for a program, which is given back once. */
export class Owned {
  readonly #native: Native;
  readonly #what: string;
  readonly #handle: Handle;
  readonly #release: (handle: Handle) => Handle | undefined;
  #released = false;
  #freed: Promise<void> | undefined;

  /**
   * @param owner whose it is: dropped without {@link dispose} it is given back when the owner is collected
   * @param release gives it back, and tells the job of that where it takes time; it must not refer to the owner
   */
  constructor(owner: object, native: Native, what: string, handle: Handle, release: (handle: Handle) => Handle | undefined) {
    this.#native = native;
    this.#what = what;
    this.#handle = handle;
    this.#release = release;
    abandoned.register(owner, this, this);
  }

  /** @throws DisposedError once it has been given back */
  get handle(): Handle {
    this.assertLive();
    return this.#handle;
  }

  /** @throws DisposedError once it has been given back */
  assertLive(): void {
    if (this.#released) throw new DisposedError(this.#what);
  }

  /** Gives it back; resolves when its memory is free. */
  dispose(): Promise<void> {
    this.#freed ??= this.#dispose();
    return this.#freed;
  }

  /** Gives back what a program has forgotten, and says so. */
  free(): void {
    if (this.#released) return;
    warnForgotten(this.#what);
    this.#released = true;
    const job = this.#release(this.#handle);
    if (job !== undefined) new Job(this.#native, job).free();
  }

  async #dispose(): Promise<void> {
    if (this.#released) return;
    this.#released = true;
    abandoned.unregister(this);
    const job = this.#release(this.#handle);
    if (job !== undefined) await runJob(this.#native, () => job);
  }
}

const warned = new Set<string>();

/** Once for each kind: a program that forgets one mostly forgets many. */
function warnForgotten(what: string): void {
  if (warned.has(what)) return;
  warned.add(what);
  process.emitWarning(`A ${what} was dropped without dispose(). Its memory is given back only now, when the garbage collector found it.`, {
    type: 'LlamaDuoWarning',
    code: 'LLAMA_DUO_FORGOTTEN',
    detail: `Dispose of it, or declare it with "await using": memory of a GPU or of weights is no reason for a runtime to collect garbage.`,
  });
}

/**
 * Gives back what a program has dropped without disposing of it: `abandoned.register(owner, owned, owner)`. What is held must not refer to
 * the owner, or it would never be dropped. An owner is never dropped while something of it is in flight: see {@link Pump.until}.
 */
export const abandoned = new FinalizationRegistry<{ free(): void }>((owned) => owned.free());
