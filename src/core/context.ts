import { CancelledError, OptionError } from '../errors.ts';
import type { Handle, Native } from '../ffi/native.ts';
import type { CacheType } from './cache-types.ts';
import { refuseBoth } from './duo.ts';
import { Generation } from './generation.ts';
import { Job, runJob } from '../ffi/job.ts';
import type { CoreModel } from './model.ts';
import { contextTable, duoTable, generateTable, planTable, scoreTable } from './option-tables.ts';
import type { ContextOptions, DuoOptions, GenerateOptions, PlanOptions, ScoreOptions } from './option-types.ts';
import { absolutePath, checkOptions, nativeOptions, toJson } from './check-options.ts';
import { abandoned, Owned } from '../ffi/owned.ts';
import { score, type Score } from './score.ts';
import { TokenStream } from './token-stream.ts';
import { tokenIds } from './tokens.ts';

/** What a KV cache takes, and what it would take if every head kept all. */
export type MemoryReport = {
  /** Bytes of the K and V rows of heads that keep the whole cache, and of heads that stream. */
  retrievalBytes: number;
  streamingBytes: number;
  /** Bytes of the rows of layers with sliding windows of the model's own, whose heads have no gates. 0 where it has none. */
  windowedBytes: number;
  /** Bytes of the states of recurrent layers, which are no rows and don't grow with the context: not in the sums. 0 where the model has none. */
  recurrentBytes: number;
  /** The sum of the first three: what is allocated for rows. */
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
  /** What a streaming head sees: the most, where a pattern's heads differ. */
  sink: number;
  recent: number;
  windowStep: number;
};

/** What a caller should know of a context that can be had all the same. */
export type ContextWarning = {
  /** `beyond-training`: the context holds more tokens than the model was trained for. */
  code: 'beyond-training';
  /** In words, with the numbers. */
  message: string;
};

/** What is on a device, and how much of its memory there is. */
export type DeviceMemory = {
  /** llama.cpp's name: `CPU`, `CUDA0`. */
  name: string;
  description: string;
  type: 'cpu' | 'gpu';
  totalBytes: number;
  /** What could be taken now. Weights that are mapped from their file count as free. */
  freeBytes: number;
  weightsBytes: number;
  /** The KV cache, and states of recurrent layers. */
  contextBytes: number;
  /** Buffers to compute in. */
  computeBytes: number;
};

/** A context's sizes as they came out. */
export type ContextInfo = {
  /** Tokens that one sequence holds. */
  contextSize: number;
  sequences: number;
  batchSize: number;
  ubatchSize: number;
  threads: number;
  threadsBatch: number;
  typeK: CacheType;
  typeV: CacheType;
  /** The host, then the model's other devices, as they were when the context had been made. */
  devices: readonly DeviceMemory[];
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

/** What a context would take of each device. */
export type ContextEstimate =
  | {
      supported: true;
      reason: null;
      /** Tokens of all sequences together. */
      contextSize: number;
      /** null where its cells alone would take much of the host's memory: then `devices` is empty. */
      kv: MemoryReport | null;
      /** Over all devices. */
      weightsBytes: number;
      contextBytes: number;
      computeBytes: number;
      devices: readonly DeviceMemory[];
      /** Whether each device has what it takes. */
      fits: boolean;
      /** `contextSize`, or the largest below it that fits; 0 where none does. */
      largestContextSize: number;
      warnings: readonly ContextWarning[];
    }
  | {
      supported: false;
      /** Why not, in words. */
      reason: string;
      warnings: readonly ContextWarning[];
    };

/** @internal {@link Model.estimate} */
export async function estimateContext(native: Native, model: CoreModel, handle: Handle, options: PlanOptions): Promise<ContextEstimate> {
  checkOptions(options, planTable);
  const request = planRequest(options);
  const found = await runJob<NativeEstimate>(native, () => native.contextEstimate(handle, request), { owner: model });
  if (!found.supported) return { supported: false, reason: found.reason ?? '', warnings: found.warnings };
  return { ...found, supported: true, reason: null, kv: found.kv && reportOf(found.kv) };
}

/** @internal {@link Model.createContext} */
export async function createContext(native: Native, model: CoreModel, handle: Handle, options: ContextOptions): Promise<Context> {
  checkOptions(options, contextTable);
  const { signal, ...plan } = options;
  const request = planRequest(plan);
  const created = await runJob<NativeContext>(native, () => native.contextCreate(handle, request), {
    signal,
    discard: ({ context }) => {
      new Job(native, native.contextFree(context)).free();
    },
    owner: model,
  });
  return new Context(native, contextOf(created));
}

/** @internal {@link Model.planContext} */
export async function planContext(native: Native, model: CoreModel, handle: Handle, options: PlanOptions): Promise<ContextPlan> {
  checkOptions(options, planTable);
  const request = planRequest(options);
  const plan = await runJob<NativePlan>(native, () => native.contextPlan(handle, request), { owner: model });
  return { ...plan, kv: plan.kv && reportOf(plan.kv) } as ContextPlan;
}

/** What the library is asked for: there 0 is what the model was trained for, and it tells of a model that says nonsense of that. */
function planRequest({ duo, contextSize = 'auto', ...rest }: PlanOptions): string {
  const sizes = { ...nativeOptions<PlanOptions>(rest, planTable), contextSize: contextSize === 'trained' ? 0 : contextSize };
  return toJson(duo === undefined ? sizes : { ...sizes, duo: duoRequest(duo) });
}

function duoRequest(duo: DuoOptions): Record<string, unknown> {
  checkOptions<DuoOptions>(duo, duoTable, 'duo.');
  refuseBoth(duo, 'duo.');
  const needless = duo.gates === undefined && (duo.sparsity === 0 || duo.sparsity === 1);
  const gates = needless ? undefined : (duo.gates ?? duoTable.gates.default);
  const isPath = gates instanceof URL || (typeof gates === 'string' && gates !== 'auto');
  return { ...nativeOptions<DuoOptions>(duo, duoTable), gates: isPath ? absolutePath('duo.gates', gates) : gates };
}

/** What the library tells, in its words. */
type NativeReport = Omit<MemoryReport, 'windowStep'> & { chunk: number };
type NativePlan = Omit<ContextPlan, 'kv'> & { kv: NativeReport | null };
type NativeEstimate = Omit<Extract<ContextEstimate, { supported: true }>, 'kv' | 'supported' | 'reason'> & {
  supported: boolean;
  reason: string | null;
  kv: NativeReport | null;
};
type NativeContext = Omit<CreatedContext, 'kv'> & { contextPerSequence: number; kv: NativeReport };

function reportOf({ chunk, ...report }: NativeReport): MemoryReport {
  return { ...report, windowStep: chunk };
}

function contextOf({ contextPerSequence, kv, ...created }: NativeContext): CreatedContext {
  return { ...created, contextSize: contextPerSequence, kv: reportOf(kv) };
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
    checkOptions(options, generateTable);
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
    checkOptions(options, scoreTable);
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
