import { onAbort } from '../ffi/abort.ts';
import { CancelledError } from '../errors.ts';
import { decode, JobState, type Drained, type Handle, type Native } from '../ffi/native.ts';
import type { Completion, GenerationChunk, GenerationResult, TokenProbability } from './generation.ts';
import { hasEnded, Job } from '../ffi/job.ts';
import { abandoned } from '../ffi/owned.ts';
import { pump } from '../ffi/pump.ts';

// One drain takes at most this much; text is the larger, since a token may be long.
const drainTokens = 256;
const drainBytes = 16384;

// Tokens that come meanwhile wait natively, so this costs no speed, and 30 looks a second are as many as anyone sees. Each takes a core from the engine: with one
// each 4 ms a small model lost 5% on two cores, with one each 16 ms 4%, with one each 33 ms 3% (bench/api.mjs).
const betweenTokensMs = 33;

export type TokenStreamOptions = {
  onProgress?: ((progress: number) => void) | undefined;
  signal?: AbortSignal | undefined;
  /** Tokens that the engine works ahead: where they are few it is waiting soon. */
  readAhead?: number | undefined;
  /** Texts that the job makes. Default: 1. */
  n?: number | undefined;
  /** How many alternatives come with a token's log-probability. undefined: it does not come. */
  alternatives?: number | undefined;
};

/** How one text ended, in the library's words. */
type NativeEnd = Pick<
  Completion,
  'stopText' | 'generatedTokens' | 'draftedTokens' | 'acceptedTokens' | 'decodeSeconds' | 'decodeTokensPerSecond'
> & {
  stop: 'length' | 'eos' | 'text' | 'full';
};
type NativeResult = NativeEnd & Omit<GenerationResult, keyof Completion | 'completions'> & { choices?: NativeEnd[] };

const finishReasons = { length: 'length', eos: 'stop', text: 'stop', full: 'contextFull' } as const;

/** One of the texts, as far as it has come. */
type Taken = { text: string; tokens: number[]; logProbabilities: TokenProbability[] | undefined };

/**
 * What a generation's job makes, taken as it comes. It knows nothing of the {@link Generation} that reads it, so that one which is dropped can be
 * collected, and its job ended, while the stream is among those of its context.
 */
export class TokenStream {
  /** Settles with the end, whoever brings it about: the job, the reader, the signal, or the context that is disposed of. */
  readonly result: Promise<GenerationResult>;

  readonly #native: Native;
  readonly #submit: () => Handle | Promise<Handle>;
  readonly #options: TokenStreamOptions;
  readonly #siblings: Set<TokenStream>;
  readonly #tokens = new Int32Array(drainTokens);
  readonly #bytes = new Uint8Array(drainBytes);
  readonly #taken: Taken[];
  #chunks: GenerationChunk[] = [];
  #starting: Promise<void> | undefined;
  #job: Job | undefined;
  #stopListening: (() => void) | undefined;
  #pulling: Promise<void> | undefined;
  #progress = 0;
  #hasBegun = false;
  #over = false;
  #error: { reason: unknown } | undefined;
  #resolve!: (result: GenerationResult) => void;
  #reject!: (reason: unknown) => void;

  /** @param siblings the context's streams, to be among while the job is under way */
  constructor(native: Native, submit: () => Handle | Promise<Handle>, options: TokenStreamOptions, siblings: Set<TokenStream>) {
    this.#native = native;
    this.#submit = submit;
    this.#options = options;
    this.#siblings = siblings;
    const { n = 1, alternatives } = options;
    this.#taken = Array.from({ length: n }, () => ({
      text: '',
      tokens: [],
      logProbabilities: alternatives === undefined ? undefined : [],
    }));
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
    if (!this.#job) await (this.#starting ??= this.#start());
    if (this.#over) return;
    // The first token is looked for at once: it may come soon, and is what people wait for.
    const firstMs = this.#hasBegun ? Math.min(betweenTokensMs, this.#options.readAhead ?? betweenTokensMs) : undefined;
    this.#pulling ??= pump
      .until(() => this.#take(), reader, firstMs)
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

  async #start(): Promise<void> {
    if (this.#over) return;
    const { signal } = this.#options;
    try {
      signal?.throwIfAborted();
      const submitted = this.#submit();
      this.#siblings.add(this);
      if (signal) {
        this.#stopListening = onAbort(signal, () => {
          this.stop(signal.reason);
        });
      }
      const job = new Job(this.#native, typeof submitted === 'number' ? submitted : await submitted);
      // It may have been stopped meanwhile.
      if (this.#ended()) job.free();
      else this.#job = job;
    } catch (reason) {
      this.#end({ reason });
    }
  }

  #ended(): boolean {
    return this.#over;
  }

  #take(): true | undefined {
    const job = this.#job;
    if (this.#over || !job) return true;
    let state: JobState = JobState.queued;
    let ended = true;
    let took = false;
    for (const [index, taken] of this.#taken.entries()) {
      const drained = job.drain(this.#tokens, this.#bytes, index);
      if (drained.tokens.length > 0 || drained.text.length > 0) {
        this.#keep(job, drained, index, taken);
        took = true;
        this.#hasBegun = true;
      }
      state = drained.state;
      ended &&= hasEnded(state) && !drained.more;
    }
    if (ended) this.#end({ result: this.#resultOf(job.result(state) as NativeResult) });
    else if (!took) {
      this.#reportProgress(job);
      return undefined;
    }
    return true;
  }

  #keep(job: Job, drained: Drained, index: number, taken: Taken): void {
    const text = decode(drained.text);
    const tokens = drained.tokens.slice();
    taken.text += text;
    for (const token of tokens) taken.tokens.push(token);
    if (!taken.logProbabilities) {
      this.#chunks.push({ text, tokens, index });
      return;
    }
    const logProbabilities = this.#probabilities(job, tokens, index);
    taken.logProbabilities.push(...logProbabilities);
    this.#chunks.push({ text, tokens, index, logProbabilities });
  }

  /** The records of tokens that were just drained. */
  #probabilities(job: Job, tokens: Int32Array, index: number): TokenProbability[] {
    const { alternatives = 0 } = this.#options;
    const size = 1 + 2 * alternatives;
    const numbers = job.drainLogProbabilities(new Float64Array(size * Math.max(tokens.length, 1)), index);
    return Array.from(tokens, (token, at) => {
      const [logProbability = NaN, ...rest] = numbers.subarray(at * size, (at + 1) * size);
      const top = Array.from({ length: alternatives }, (_, each) => ({
        token: rest[2 * each] ?? -1,
        logProbability: rest[2 * each + 1] ?? NaN,
      }));
      return { token, logProbability, top };
    });
  }

  #resultOf({
    choices = [],
    stop,
    stopText,
    generatedTokens,
    draftedTokens,
    acceptedTokens,
    decodeSeconds,
    decodeTokensPerSecond,
    ...result
  }: NativeResult): GenerationResult {
    const own = { stop, stopText, generatedTokens, draftedTokens, acceptedTokens, decodeSeconds, decodeTokensPerSecond };
    const completions = this.#taken.map(({ text, tokens, logProbabilities }, index): Completion => {
      const { stop: why, ...end } = index === 0 ? own : (choices[index] ?? own);
      const completion = { text, tokens: Int32Array.from(tokens), finishReason: finishReasons[why], ...end };
      return logProbabilities ? { ...completion, logProbabilities } : completion;
    });
    const [first] = completions;
    return { ...(first as Completion), ...result, completions };
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
