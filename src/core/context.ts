import { CancelledError, OptionError } from '../errors.ts';
import type { Handle, Native } from '../ffi/native.ts';
import { duoChecks, refuseBoth, type DuoOptions } from './duo.ts';
import { generateChecks, Generation, type GenerateOptions } from './generation.ts';
import { Job, runJob } from '../ffi/job.ts';
import type { CoreModel } from './model.ts';
import { abortSignal, absolutePath, checkOptions, integer, oneOf, toJson } from './options.ts';
import { abandoned, Owned } from '../ffi/owned.ts';
import { checkScoreOptions, score, type Score, type ScoreOptions } from './score.ts';
import { TokenStream } from './token-stream.ts';
import { tokenIds } from './tokens.ts';

/** The types that a cache's rows may have. */
export const cacheTypes = ['f32', 'f16', 'bf16', 'q8_0', 'q4_0', 'q4_1', 'iq4_nl', 'q5_0', 'q5_1'] as const;
export type CacheType = (typeof cacheTypes)[number];

/** A context's sizes, as for planning. */
export type PlanOptions = {
  /** Tokens that the context holds, rounded up to a multiple of 256; 0: what the model was trained for. Default: 0. */
  contextSize?: number | undefined;
  /** Tokens submitted at once, and computed at once. Larger computed batches widen streaming heads' rings. Defaults: 2048 and 512. */
  batchSize?: number | undefined;
  ubatchSize?: number | undefined;
  /** CPU threads for one token, and for many. Default: the machine's cores. */
  threads?: number | undefined;
  threadsBatch?: number | undefined;
  /** Types of the cache's K and V rows. Default: 'f16'. */
  typeK?: CacheType | undefined;
  typeV?: CacheType | undefined;
  /** Default: 'auto'. Mixed heads need it not to be 'off'. */
  flashAttention?: 'auto' | 'on' | 'off' | undefined;
  /** Mixed heads. Default: none, llama.cpp's own cache. */
  duo?: DuoOptions | undefined;
};

export type ContextOptions = PlanOptions & {
  /** Stops the creation; the promise rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
};

/** What a KV cache takes, and what it would take if every head kept all. */
export type MemoryReport = {
  /** Bytes of the K and V rows of heads that keep the whole cache, and of heads that stream. */
  retrievalBytes: number;
  streamingBytes: number;
  /** Bytes of the rows of layers with sliding windows of the model's own, whose heads have no gates. 0 where it has none. */
  windowedBytes: number;
  /** The sum of the three: what is allocated. */
  totalBytes: number;
  /** The same if no head streamed: what llama.cpp's own cache takes for this context, but for how it rounds windows. */
  fullBytes: number;
  /** KV heads of each kind, over all layers. */
  retrievalHeads: number;
  streamingHeads: number;
  windowedHeads: number;
  /** Cells that a head of each kind has for one sequence. */
  retrievalCells: number;
  streamingCells: number;
  windowedCells: number;
  sequences: number;
  sink: number;
  recent: number;
  chunk: number;
};

/** What a caller should know of a context that can be had all the same. */
export type ContextWarning = {
  /** `beyond-training`: the context holds more tokens than the model was trained for. */
  code: 'beyond-training';
  /** In words, with the numbers. */
  message: string;
};

/** A context's sizes as they came out. */
export type ContextInfo = {
  contextSize: number;
  sequences: number;
  contextPerSequence: number;
  batchSize: number;
  ubatchSize: number;
  threads: number;
  threadsBatch: number;
  typeK: string;
  typeV: string;
  /** Empty where there is nothing to warn of. */
  warnings: readonly ContextWarning[];
};

/** What a context would be. */
export type ContextPlan =
  | { supported: true; reason: null; kv: MemoryReport; warnings: readonly ContextWarning[] }
  | {
      supported: false;
      /** Why not, in words. */
      reason: string;
      kv: null;
      warnings: readonly ContextWarning[];
    };

/** @internal */
export const planChecks = {
  contextSize: integer(0, 2 ** 31 - 256), // so that it can be rounded up
  batchSize: integer(1),
  ubatchSize: integer(1),
  threads: integer(1, 512),
  threadsBatch: integer(1, 512),
  typeK: oneOf(...cacheTypes),
  typeV: oneOf(...cacheTypes),
  flashAttention: oneOf('auto', 'on', 'off'),
  duo: { accepts: (value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value), expected: 'an object' },
};

/** @internal {@link Model.createContext} */
export async function createContext(native: Native, model: CoreModel, handle: Handle, options: ContextOptions): Promise<Context> {
  checkOptions(options, { ...planChecks, signal: abortSignal });
  const { signal, ...plan } = options;
  const request = planRequest(plan);
  const created = await runJob<CreatedContext>(native, () => native.contextCreate(handle, request), {
    signal,
    discard: ({ context }) => {
      new Job(native, native.contextFree(context)).free();
    },
    owner: model,
  });
  return new Context(native, created);
}

/** @internal {@link Model.planContext} */
export async function planContext(native: Native, model: CoreModel, handle: Handle, options: PlanOptions): Promise<ContextPlan> {
  checkOptions(options, planChecks);
  const request = planRequest(options);
  return runJob<ContextPlan>(native, () => native.contextPlan(handle, request), { owner: model });
}

function planRequest(options: PlanOptions): string {
  const { duo } = options;
  if (!duo) return toJson(options);
  checkOptions<DuoOptions>(duo, duoChecks, 'duo.');
  refuseBoth(duo, 'duo.');
  const { gates } = duo;
  const isPath = gates instanceof URL || (typeof gates === 'string' && gates !== 'auto');
  return toJson({ ...options, duo: { ...duo, gates: isPath ? absolutePath('duo.gates', gates) : gates } });
}

type CreatedContext = ContextInfo & { context: Handle; kv: MemoryReport };

/**
 * A KV cache and the thread that works on it. It does one thing at a time: what is asked of it waits its turn.
 * Made by {@link Model.createContext}; dispose of it with `await using` or {@link Context.dispose}.
 */
export class Context {
  readonly info: Readonly<ContextInfo>;
  readonly #kv: MemoryReport;
  readonly #native: Native;
  readonly #owned: Owned;
  readonly #streams = new Set<TokenStream>();

  /** @internal */
  constructor(native: Native, created: CreatedContext) {
    const { context, kv, ...info } = created;
    this.info = info;
    this.#kv = kv;
    this.#native = native;
    this.#owned = new Owned(native, 'context', context, (handle) => native.contextFree(handle));
    abandoned.register(this, this.#owned, this);
  }

  /** What this context's KV cache takes, exactly. */
  memory(): MemoryReport {
    return { ...this.#kv };
  }

  /**
   * Continues a prompt. The work starts when the first chunk, or the result, is asked for; see {@link Generation} for how it ends.
   *
   * @param prompt text, which the context's thread tokenizes, with BOS and EOS added as the model wants them, or token ids
   * @throws OptionError at once for bad options and an empty list of ids, DisposedError; the rest comes with the stream
   */
  generate(prompt: string | Int32Array | readonly number[], options: GenerateOptions = {}): Generation {
    this.#owned.assertLive();
    checkOptions(options, generateChecks);
    const given = textOrIds('prompt', prompt);
    if (given.length === 0 && typeof given !== 'string') throw new OptionError('prompt', prompt, 'at least one token');
    return new Generation(this.#native, () => this.#owned.handle, given, options, this.#streams);
  }

  /**
   * How likely the model finds a text: the log-probability of each of its tokens after those before it. It takes its turn among the generations.
   *
   * @param text read as {@link generate} reads a prompt, or token ids: at least two, and at most one more than a sequence of the context holds
   * @throws OptionError; ContextFullError; `signal.reason` when aborted
   */
  async score(text: string | Int32Array | readonly number[], options: ScoreOptions = {}): Promise<Score> {
    checkScoreOptions(options);
    return score(this.#native, this, this.#owned.handle, textOrIds('text', text), options);
  }

  /** Ends what is under way and gives the context back; resolves when its memory is free. */
  dispose(): Promise<void> {
    abandoned.unregister(this);
    const freed = this.#owned.dispose();
    for (const stream of [...this.#streams]) stream.stop(new CancelledError('The context was disposed of before the end.'));
    return freed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}

/** What the library reads; ids that are changed after the call stay as they were. */
function textOrIds(name: string, given: string | Int32Array | readonly number[]): string | Int32Array {
  return typeof given === 'string' ? given : tokenIds(name, given).slice();
}
