import { CancelledError, MemoryError, OptionError } from '../errors.ts';
import { Job, runJob } from '../ffi/job.ts';
import type { Handle, Native } from '../ffi/native.ts';
import { Owned } from '../ffi/owned.ts';
import type { CacheType } from './cache-types.ts';
import { Chat } from './chat.ts';
import { absolutePath, checkOptions, nativeOptions, toJson } from './check-options.ts';
import type { DeviceMemory } from './devices.ts';
import { budgetNumber } from './budget.ts';
import { refuseBeside, refuseBoth, type FinerLayers } from './duo.ts';
import { Generation, type GenerationSource } from './generation.ts';
import { infillPrompt, type Gap } from './infill.ts';
import { nativeLoras } from './lora.ts';
import type { CoreModel } from './model.ts';
import { contextTable, duoTable, generateTable, infillTable, planTable, scoreTable, speculativeTable } from './option-tables.ts';
import type {
  ChatOptions,
  ContextOptions,
  DuoOptions,
  GenerateOptions,
  InfillOptions,
  PlanOptions,
  ScoreOptions,
  SpeculativeOptions,
} from './option-types.ts';
import { isObject, signal as signalOption } from './options.ts';
import type { Infer, Schema, WithSchema } from './schema.ts';
import { scoreOf, type Score } from './score.ts';
import { Sequence } from './sequence.ts';
import type { TokenStream } from './token-stream.ts';
import { textOrIds, type Tokens } from './tokens.ts';

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
  /** The same if no head streamed, in f16 where a budget chose the types: what llama.cpp's own cache takes for this context, but for how it rounds windows. */
  fullBytes: number;
  /** Types of the rows: what was asked for, or what a budget has chosen. */
  typeK: CacheType;
  typeV: CacheType;
  /** Layers whose K rows a budget has given a finer type than `typeK`; null: none. */
  finerK: FinerLayers | null;
  /** What a budget's choice is expected to lose, in the unit of the pattern's losses; null where there is no budget, or nothing was measured. */
  expectedLoss: number | null;
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
  /** What the draft model's cache takes; null where nothing drafts. */
  draftKv: MemoryReport | null;
  /** Empty where there is nothing to warn of. */
  warnings: readonly ContextWarning[];
};

/** What a context would be. */
export type ContextPlan =
  | { supported: true; reason: null; kv: MemoryReport; draftKv: MemoryReport | null; warnings: readonly ContextWarning[] }
  | {
      supported: false;
      /** Why not, in words. */
      reason: string;
      kv: null;
      draftKv: null;
      warnings: readonly ContextWarning[];
    };

/** What a context would take of each device. */
export type ContextEstimate =
  | {
      supported: true;
      reason: null;
      /** Tokens of one sequence. */
      contextSize: number;
      sequences: number;
      /** null where its cells alone would take much of the host's memory: then `devices` is empty. */
      kv: MemoryReport | null;
      draftKv: MemoryReport | null;
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
      kv: null;
      draftKv: null;
      fits: false;
      warnings: readonly ContextWarning[];
    };

/** @internal {@link Model.estimate} */
export async function estimateContext(native: Native, model: CoreModel, handle: Handle, options: PlanOptions): Promise<ContextEstimate> {
  checkOptions(options, planTable);
  const request = planRequest(options, model);
  const found = await runJob<NativeEstimate>(native, () => native.contextEstimate(handle, request), { owner: model }).catch(
    ofSequences(options),
  );
  if (!found.supported)
    return { supported: false, reason: found.reason ?? '', kv: null, draftKv: null, fits: false, warnings: found.warnings };
  const { sequences = planTable.sequences.default } = options;
  const { contextSize, largestContextSize } = found;
  return {
    ...found,
    supported: true,
    reason: null,
    contextSize: perSequence(contextSize, sequences),
    sequences,
    largestContextSize: perSequence(largestContextSize, sequences),
    kv: found.kv && reportOf(found.kv),
    draftKv: found.draftKv && reportOf(found.draftKv),
  };
}

/** @internal {@link Model.createContext} */
export async function createContext(native: Native, model: CoreModel, handle: Handle, options: ContextOptions): Promise<Context> {
  checkOptions(options, contextTable);
  const { signal, ...plan } = options;
  const request = planRequest(plan, model);
  const created = await runJob<NativeContext>(native, () => native.contextCreate(handle, request), {
    signal,
    discard: ({ context }) => {
      new Job(native, native.contextFree(context)).free();
    },
    owner: model,
  }).catch(ofSequences(plan));
  return new Context(native, model, contextOf(created));
}

/** @internal {@link Model.planContext} */
export async function planContext(native: Native, model: CoreModel, handle: Handle, options: PlanOptions): Promise<ContextPlan> {
  checkOptions(options, planTable);
  const request = planRequest(options, model);
  const plan = await runJob<NativePlan>(native, () => native.contextPlan(handle, request), { owner: model }).catch(ofSequences(options));
  return { ...plan, kv: plan.kv && reportOf(plan.kv), draftKv: plan.draftKv && reportOf(plan.draftKv) } as ContextPlan;
}

/** What the library is asked for: there a number counts the tokens of all sequences, and 0 is what the model was trained for, for one. */
function planRequest({ duo, loras, speculative, contextSize = 'auto', ...rest }: PlanOptions, model: CoreModel): string {
  const { sequences = 1 } = rest;
  const one = contextSize === 'trained' ? (sequences === 1 ? 0 : model.info.trainedContextSize) : contextSize;
  const all = typeof one === 'number' ? Math.ceil(one / cellsTogether) * cellsTogether * sequences : one;
  return toJson({
    ...nativeOptions<PlanOptions>(rest, planTable),
    contextSize: sequences === 1 ? one : all,
    ...(duo && { duo: duo === 'auto' ? { gates: 'auto' } : duoRequest(duo) }),
    ...(loras && { loras: nativeLoras(loras) }),
    ...(speculative && { speculative: speculativeRequest(speculative) }),
  });
}

/** The library counts the tokens of all sequences together. */
function ofSequences({ sequences = 1 }: PlanOptions): (error: unknown) => never {
  return (error) => {
    if (!(error instanceof MemoryError)) throw error;
    const { message, device, neededBytes, freeBytes, largestContextSize } = error;
    throw new MemoryError(message, { device, neededBytes, freeBytes, largestContextSize: perSequence(largestContextSize, sequences) });
  };
}

/** llama.cpp rounds a sequence's cells up to this. */
const cellsTogether = 256;

function perSequence(tokens: number, sequences: number): number {
  return sequences === 1 ? tokens : Math.floor(tokens / sequences / cellsTogether) * cellsTogether;
}

function speculativeRequest(speculative: SpeculativeOptions | 'lookup'): Record<string, unknown> {
  if (speculative === 'lookup') return { lookup: true };
  checkOptions<SpeculativeOptions>(speculative, speculativeTable, 'speculative.');
  const { draft } = speculative;
  if (!draft && !speculative.lookup) throw new OptionError('speculative', speculative, 'a draft model, lookup: true, or both');
  return { ...nativeOptions<SpeculativeOptions>(speculative, speculativeTable), ...(draft && { draft: draft.handle }) };
}

function duoRequest(duo: DuoOptions): Record<string, unknown> {
  checkOptions<DuoOptions>(duo, duoTable, 'duo.');
  refuseBoth(duo, 'duo.');
  refuseBeside(duo);
  const needless = duo.gates === undefined && (duo.sparsity === 0 || duo.sparsity === 1);
  const gates = needless ? undefined : (duo.gates ?? duoTable.gates.default);
  const isPath = gates instanceof URL || (typeof gates === 'string' && gates !== 'auto');
  return {
    ...nativeOptions<DuoOptions>(duo, duoTable),
    budget: budgetNumber(duo.budget),
    gates: isPath ? absolutePath('duo.gates', gates) : gates,
  };
}

/** What the library tells, in its words. */
type NativeReport = Omit<MemoryReport, 'windowStep'> & { chunk: number };
type NativeReports = { kv: NativeReport | null; draftKv: NativeReport | null };
type NativePlan = Omit<ContextPlan, 'kv' | 'draftKv'> & NativeReports;
type NativeEstimate = Omit<Extract<ContextEstimate, { supported: true }>, 'kv' | 'draftKv' | 'supported' | 'reason' | 'sequences'> &
  NativeReports & { supported: boolean; reason: string | null };
type NativeContext = Omit<CreatedContext, 'kv' | 'draftKv'> & {
  contextPerSequence: number;
  kv: NativeReport;
  draftKv: NativeReport | null;
};

function reportOf({ chunk, ...report }: NativeReport): MemoryReport {
  return { ...report, windowStep: chunk };
}

function contextOf({ contextPerSequence, kv, draftKv, ...created }: NativeContext): CreatedContext {
  return { ...created, contextSize: contextPerSequence, kv: reportOf(kv), draftKv: draftKv && reportOf(draftKv) };
}

type CreatedContext = ContextInfo & { context: Handle; kv: MemoryReport };

/**
 * A KV cache and the thread that works on it. What is asked of it is computed together, as much as it has sequences; the rest waits its turn.
 * Made by {@link Model.createContext}; dispose of it with `await using` or {@link Context.dispose}.
 */
export class Context {
  readonly info: Readonly<ContextInfo>;
  readonly #model: CoreModel;
  readonly #kv: MemoryReport;
  readonly #native: Native;
  readonly #owned: Owned;
  readonly #streams = new Set<TokenStream>();

  /** @internal */
  constructor(native: Native, model: CoreModel, created: CreatedContext) {
    const { context, kv, ...info } = created;
    this.info = info;
    this.#model = model;
    this.#kv = kv;
    this.#native = native;
    this.#owned = new Owned(this, native, 'context', context, (handle) => native.contextFree(handle));
  }

  /** What this context's KV cache takes, exactly. */
  memory(): MemoryReport {
    return { ...this.#kv };
  }

  /**
   * Continues a prompt, in the free sequence that holds most of it already. The work starts when the first piece, or the result, is asked for; see
   * {@link Generation} for how it ends.
   *
   * @param prompt text, which the library's threads tokenize, with BOS and EOS added as the model wants them, or token ids
   * @throws OptionError at once for bad options and an empty list of ids, DisposedError; the rest comes with the stream
   */
  generate<const S extends Schema>(prompt: Tokens, options: WithSchema<GenerateOptions, S>): Generation<Infer<S>>;
  generate<const Choice extends string>(prompt: Tokens, options: GenerateOptions & { choices: readonly Choice[] }): Generation<Choice>;
  generate(prompt: Tokens, options?: GenerateOptions & { schema?: undefined; choices?: undefined }): Generation<string>;
  generate(prompt: Tokens, options?: GenerateOptions): Generation;
  generate(prompt: Tokens, options: GenerateOptions = {}): Generation {
    this.#owned.assertLive();
    checkOptions(options, generateTable);
    const given = textOrIds('prompt', prompt);
    if (given.length === 0 && typeof given !== 'string') throw new OptionError('prompt', prompt, 'at least one token');
    return new Generation(this.#source(given), options);
  }

  /**
   * Fills a gap in a text, with a model that was trained to: most coders are.
   *
   * @throws UnsupportedError with the stream where the model has no tokens for that; else as {@link generate}
   */
  infill<const S extends Schema>(gap: Gap, options: WithSchema<InfillOptions, S>): Generation<Infer<S>>;
  infill<const Choice extends string>(gap: Gap, options: InfillOptions & { choices: readonly Choice[] }): Generation<Choice>;
  infill(gap: Gap, options?: InfillOptions & { schema?: undefined; choices?: undefined }): Generation<string>;
  infill(gap: Gap, options?: InfillOptions): Generation;
  infill(gap: Gap, options: InfillOptions = {}): Generation {
    this.#owned.assertLive();
    checkOptions(options, infillTable);
    checkGap(gap);
    const prompt = (): Promise<Int32Array> =>
      infillPrompt(this.#native, this, () => this.#owned.handle, this.#model.info, gap, options.signal);
    return new Generation(this.#source(prompt), options);
  }

  /**
   * A conversation. It takes nothing of the context: there may be any number of them.
   *
   * @throws OptionError, DisposedError
   */
  chat(options: ChatOptions = {}): Chat {
    this.#owned.assertLive();
    return new Chat(
      { native: this.#native, owner: this, handle: () => this.#owned.handle, answer: (prompt) => this.#source(prompt) },
      options,
    );
  }

  /**
   * How likely the model finds a text: the log-probability of each of its tokens after those before it.
   *
   * @param text read as {@link generate} reads a prompt, or token ids: at least two, and at most one more than a sequence of the context holds
   * @throws OptionError; ContextFullError; `signal.reason` when aborted
   */
  async score(text: Tokens, options: ScoreOptions = {}): Promise<Score> {
    checkOptions(options, scoreTable);
    const given = textOrIds('text', text);
    const request = toJson(nativeOptions(options, scoreTable));
    return runJob<Score>(this.#native, () => this.#native.score(this.#owned.handle, given, request), {
      ...options,
      owner: this,
      read: scoreOf,
    });
  }

  /**
   * A sequence to keep, once one is free: as long as it is not disposed of, nothing else is computed in it.
   *
   * @throws OptionError; `signal.reason` when aborted
   */
  async sequence(options: { signal?: AbortSignal | undefined } = {}): Promise<Sequence> {
    checkOptions(options, { signal: signalOption('Stops the waiting.') });
    const native = this.#native;
    const { sequence } = await runJob<{ sequence: Handle }>(native, () => native.sequenceCreate(this.#owned.handle), {
      ...options,
      owner: this,
      discard: ({ sequence }) => native.sequenceFree(sequence),
    });
    return new Sequence({ native, ...this.#shared() }, this, sequence);
  }

  /** Ends what is under way and gives the context back; resolves when its memory is free. */
  dispose(): Promise<void> {
    const freed = this.#owned.dispose();
    for (const stream of [...this.#streams]) stream.stop(new CancelledError('The context was disposed of before the end.'));
    return freed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #shared(): Pick<GenerationSource, 'siblings' | 'sequences' | 'vocabularySize'> {
    return { siblings: this.#streams, sequences: this.info.sequences, vocabularySize: this.#model.info.vocabularySize };
  }

  #source(prompt: string | Int32Array | (() => Promise<Int32Array>)): GenerationSource {
    const native = this.#native;
    const submit = (given: string | Int32Array, request: string): Handle => native.generate(this.#owned.handle, given, request);
    return {
      native,
      ...this.#shared(),
      submit: (request) => (typeof prompt === 'function' ? prompt().then((given) => submit(given, request)) : submit(prompt, request)),
    };
  }
}

function checkGap(gap: Gap): void {
  const isText = (value: unknown): boolean => typeof value === 'string';
  checkOptions<Gap>(gap, {
    prefix: { accepts: isText, expected: 'a string' },
    suffix: { accepts: isText, expected: 'a string' },
    name: { accepts: isText, expected: 'a string' },
    files: {
      accepts: (value) => Array.isArray(value) && value.every((file) => isObject(file) && isText(file['name']) && isText(file['text'])),
      expected: 'an array of objects with a name and a text',
    },
  });
  for (const key of ['prefix', 'suffix'] as const) if (!isText(gap[key])) throw new OptionError(key, gap[key], 'a string');
}
