import { onAbort } from '../ffi/abort.ts';
import { CancelledError } from '../errors.ts';
import { decode, type Handle, type Native } from '../ffi/native.ts';
import type { GenerationChunk, GenerationResult } from './generation.ts';
import { hasEnded, Job } from '../ffi/job.ts';
import { abandoned } from '../ffi/owned.ts';
import { pump } from '../ffi/pump.ts';

// One drain takes at most this much; text is the larger, since a token may be long.
const drainTokens = 256;
const drainBytes = 16384;

export type TokenStreamOptions = {
  onProgress?: ((progress: number) => void) | undefined;
  signal?: AbortSignal | undefined;
};

/** How a generation ended, in the library's words. */
type NativeResult = Omit<GenerationResult, 'finishReason'> & { stop: 'length' | 'eos' | 'text' | 'full' };

const finishReasons = { length: 'length', eos: 'stop', text: 'stop', full: 'contextFull' } as const;

function resultOf({ stop, ...result }: NativeResult): GenerationResult {
  return { finishReason: finishReasons[stop], ...result };
}

/**
 * What a generation's job makes, taken as it comes. It knows nothing of the {@link Generation} that reads it, so that one which is dropped can be
 * collected, and its job ended, while the stream is among those of its context.
 */
export class TokenStream {
  /** Settles with the end, whoever brings it about: the job, the reader, the signal, or the context that is disposed of. */
  readonly result: Promise<GenerationResult>;

  readonly #native: Native;
  readonly #submit: () => Handle;
  readonly #options: TokenStreamOptions;
  readonly #siblings: Set<TokenStream>;
  readonly #tokens = new Int32Array(drainTokens);
  readonly #text = new Uint8Array(drainBytes);
  #chunks: GenerationChunk[] = [];
  #job: Job | undefined;
  #stopListening: (() => void) | undefined;
  #pulling: Promise<void> | undefined;
  #progress = 0;
  #over = false;
  #error: { reason: unknown } | undefined;
  #resolve!: (result: GenerationResult) => void;
  #reject!: (reason: unknown) => void;

  /** @param siblings the context's streams, to be among while the job is under way */
  constructor(native: Native, submit: () => Handle, options: TokenStreamOptions, siblings: Set<TokenStream>) {
    this.#native = native;
    this.#submit = submit;
    this.#options = options;
    this.#siblings = siblings;
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Who only reads the chunks is told there.
    this.result.catch(() => {});
  }

  /** Whether nothing more will come. */
  get over(): boolean {
    return this.#over;
  }

  /** The oldest chunk that was taken and not read. */
  shift(): GenerationChunk | undefined {
    return this.#chunks.shift();
  }

  /** Throws what ended it, if that was an error and this is the first to ask. */
  throwError(): void {
    const error = this.#error;
    this.#error = undefined;
    if (error) throw error.reason;
  }

  /**
   * Starts the job if need be and waits until it has made more or come to its end.
   *
   * @param reader is kept alive meanwhile, and with it the context
   */
  async more(reader: object): Promise<void> {
    this.#start();
    if (this.#over) return;
    this.#pulling ??= pump
      .until(() => this.#take(), reader)
      .then(
        () => undefined,
        (reason: unknown) => {
          this.#end({ reason });
        },
      )
      .finally(() => {
        this.#pulling = undefined;
      });
    await this.#pulling;
  }

  /** Takes everything, for who reads it later. */
  async drain(reader: object): Promise<void> {
    while (!this.#over) await this.more(reader);
  }

  /** Ends the job; what was made and not read is gone. */
  stop(reason: unknown): void {
    if (this.#over) return;
    this.#chunks = [];
    this.#end({ reason });
  }

  /** Nobody reads on, which ends the job and is no error for a reader. */
  free(): void {
    this.#chunks = [];
    this.stop(new CancelledError('The generation was left before its end.'));
    this.#error = undefined;
  }

  #start(): void {
    if (this.#job || this.#over) return;
    const { signal } = this.#options;
    try {
      signal?.throwIfAborted();
      this.#job = new Job(this.#native, this.#submit());
    } catch (reason) {
      this.#end({ reason });
      return;
    }
    this.#siblings.add(this);
    if (signal) {
      this.#stopListening = onAbort(signal, () => {
        this.stop(signal.reason);
      });
    }
  }

  #take(): true | undefined {
    const job = this.#job;
    if (this.#over || !job) return true;
    const { tokens, text, state, more } = job.drain(this.#tokens, this.#text);
    if (tokens.length > 0 || text.length > 0) this.#chunks.push({ text: decode(text), tokens: tokens.slice() });
    else if (!hasEnded(state)) {
      this.#reportProgress(job);
      return undefined;
    }
    if (hasEnded(state) && !more) this.#end({ result: resultOf(job.result(state) as NativeResult) });
    return true;
  }

  #reportProgress(job: Job): void {
    const { onProgress } = this.#options;
    if (!onProgress) return;
    const { progress } = job.poll();
    if (progress <= this.#progress) return;
    this.#progress = progress;
    onProgress(progress);
  }

  #end(outcome: { result: GenerationResult } | { reason: unknown }): void {
    if (this.#over) return;
    this.#over = true;
    abandoned.unregister(this); // it would wait for a collection, and keep this until then
    this.#siblings.delete(this);
    this.#stopListening?.();
    this.#job?.free();
    pump.wake(); // a reader who waits is told
    if ('result' in outcome) this.#resolve(outcome.result);
    else {
      this.#error = outcome;
      this.#reject(outcome.reason);
    }
  }
}
