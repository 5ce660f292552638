import { AbiError, DisposedError, LibraryError, LimitError, LlamaDuoError, ModelError, OptionError } from '../errors.ts';
import { findLibrary, type FoundLibrary } from './library.ts';
import { cannotBind, cannotOpen, otherBuild } from './library-errors.ts';
import type { BoundSymbols } from './symbols.ts';
import { packageVersion } from './version.ts';

/** LLAMA_DUO_ABI_VERSION of the header that this code was written for. */
export const abiVersion = 3;

/** llama_duo_status. */
export const Status = { ok: 0, argument: -1, handle: -2, space: -3, state: -4, internal: -5, limit: -6 } as const;

/** llama_duo_job_state. */
export const JobState = { queued: 0, running: 1, done: 2, failed: 3, cancelled: 4 } as const;
export type JobState = (typeof JobState)[keyof typeof JobState];

/** A job, model, context or sequence of the library: a slot and a generation in one number, 0 never. */
export type Handle = number;

/** What one drain took. */
export type Drained = { tokens: Int32Array; text: Uint8Array; state: JobState; more: boolean };

const opened = new Map<string, Promise<Native>>();
const natives: Native[] = [];

/** The libraries that have been opened. */
export function openedNatives(): readonly Native[] {
  return natives;
}

/**
 * Opens the library, once for each path: it is never closed, since closing it under a thread that runs would crash.
 *
 * @param explicit the path that a caller's `library` option names
 * @throws LibraryError, AbiError
 */
export async function openNative(explicit?: string): Promise<Native> {
  const found = await findLibrary({ explicit });
  const { path } = found;
  let native = opened.get(path);
  if (!native) {
    native = open(found);
    opened.set(path, native);
    native.catch(() => opened.delete(path));
  }
  return native;
}

async function open({ path, buildId, warning }: FoundLibrary): Promise<Native> {
  const { bind } = await runtimeBinding().catch((cause: unknown) => {
    throw cannotBind('What calls the llama-duo library on this runtime', cause, [
      '- Install llama-duo again: a file of it is missing or damaged.',
    ]);
  });
  let bound: BoundSymbols;
  try {
    bound = await bind(path);
  } catch (cause) {
    throw cause instanceof LibraryError ? cause : cannotOpen(path, cause);
  }
  const found = bound.llama_duo_abi_version();
  if (found !== abiVersion) throw new AbiError(path, abiVersion, found);
  const native = new Native(bound, path);
  checkBuild(native, buildId);
  if (warning !== undefined) process.emitWarning(warning, 'LlamaDuoWarning');
  native.ownByThisThread();
  natives.push(native);
  return native;
}

/** Compares what a library says of its build with what its package does, and its version with this one: before the library does anything. */
function checkBuild(native: Native, expected: string | undefined): void {
  const found = native.buildId();
  const [version = ''] = found.split(' ');
  if (expected !== undefined && found !== expected) throw otherBuild(native.path, expected, found);
  if (version !== packageVersion) throw otherBuild(native.path, packageVersion, version);
}

/** What binds the library in this runtime. Each import is written out, so that bundlers see it; only the one that is taken is loaded. */
export function runtimeBinding(): Promise<{ bind: (path: string) => BoundSymbols | Promise<BoundSymbols> }> {
  if ('Deno' in globalThis) return import('./deno.ts');
  if (process.versions['bun']) return import('./bun.ts');
  return import('./koffi.ts');
}

/**
 * The ABI with JavaScript's types and errors. Runtimes differ on bad input (NaN is 0 here and throws there; a string passes as a buffer), so
 * whatever crosses is checked here first.
 */
export class Native {
  readonly path: string;
  readonly #c: BoundSymbols;

  constructor(bound: BoundSymbols, path: string) {
    this.#c = bound;
    this.path = path;
  }

  /** The version and the tree of llama.cpp that the library was built from, with a space between. */
  buildId(): string {
    return this.#text((buffer, capacity, needed) => this.#c.llama_duo_build_id(buffer, capacity, needed));
  }

  /** JSON about the library's build. */
  buildInfo(): string {
    return this.#text((buffer, capacity, needed) => this.#c.llama_duo_build_info(buffer, capacity, needed));
  }

  /** The log's oldest lines, at most 64 KiB, `level<TAB>message` each; '' where there are none. */
  logDrain(): string {
    const buffer = new Uint8Array(65536);
    const needed = new Int32Array(1);
    check(this.#c.llama_duo_log_drain(buffer, buffer.length, needed), 'log');
    return decode(buffer.subarray(0, needed[0]));
  }

  jobPoll(job: Handle): { state: JobState; progress: number } {
    const state = new Int32Array(1);
    const progress = new Float64Array(1);
    check(this.#c.llama_duo_job_poll(handle('job', job), state, progress), 'job');
    return { state: state[0] as JobState, progress: progress[0] ?? -1 };
  }

  jobResult(job: Handle): string {
    const checked = handle('job', job);
    return this.#text((buffer, capacity, needed) => this.#c.llama_duo_job_result(checked, buffer, capacity, needed), 'job');
  }

  jobError(job: Handle): string {
    const checked = handle('job', job);
    return this.#text((buffer, capacity, needed) => this.#c.llama_duo_job_error(checked, buffer, capacity, needed), 'job');
  }

  /** A done job's numbers, in a buffer of their own. */
  jobData(job: Handle): Uint8Array<ArrayBuffer> {
    const checked = handle('job', job);
    const bytes = this.#bytes((buffer, capacity, needed) => this.#c.llama_duo_job_data(checked, buffer, capacity, needed), 'job');
    return bytes.length === bytes.buffer.byteLength ? bytes : bytes.slice(); // a saved state is large, and copying it takes long
  }

  jobCancel(job: Handle): void {
    check(this.#c.llama_duo_job_cancel(handle('job', job)), 'job');
  }

  jobFree(job: Handle): void {
    check(this.#c.llama_duo_job_free(handle('job', job)), 'job');
  }

  /** Takes what waits of one of a generation's `n` texts into two buffers, which the result's views share. */
  jobDrain(job: Handle, tokens: Int32Array, text: Uint8Array, index = 0): Drained {
    array('tokens', tokens, Int32Array, 16);
    array('text', text, Uint8Array, 4096);
    index = integer('index', index, 0, int32Max);
    const info = new Int32Array(4);
    check(this.#c.llama_duo_job_drain_choice(handle('job', job), index, tokens, tokens.length, text, text.length, info), 'job');
    const [tokenCount = 0, byteCount = 0, state = JobState.failed, more = 0] = info;
    return { tokens: tokens.subarray(0, tokenCount), text: text.subarray(0, byteCount), state: state as JobState, more: more === 1 };
  }

  /** Log-probabilities of tokens that were drained, a record for each; the numbers are a view of the buffer, which holds at least one record. */
  jobDrainLogProbabilities(job: Handle, numbers: Float64Array, index = 0): Float64Array {
    array('numbers', numbers, Float64Array, 1);
    index = integer('index', index, 0, int32Max);
    const needed = new Int32Array(1);
    check(this.#c.llama_duo_job_drain_log_probs(handle('job', job), index, numbers, numbers.length, needed), 'job');
    return numbers.subarray(0, needed[0]);
  }

  devices(): Handle {
    return this.#submit('{}', (json, length, job) => this.#c.llama_duo_devices(json, length, job));
  }

  modelFetch(options: string): Handle {
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_model_fetch(json, length, job));
  }

  modelLoad(options: string): Handle {
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_model_load(json, length, job));
  }

  /** The job is done when the model's memory is free. */
  modelFree(model: Handle): Handle {
    const job = new Uint32Array(1);
    check(this.#c.llama_duo_model_free(handle('model', model), job), 'model');
    return job[0] ?? 0;
  }

  /** @param flags 1: add special tokens as the model wants them, 2: parse special tokens in the text */
  tokenize(model: Handle, text: string, flags: number): Int32Array {
    const checked = handle('model', model);
    const bytes = encode('text', text);
    flags = integer('flags', flags, 0, 3);
    const needed = new Int32Array(1);
    // A token is at least a byte, special tokens at either end aside: one call almost always does.
    let tokens = new Int32Array(bytes.length + 8);
    for (;;) {
      const status = this.#c.llama_duo_tokenize(checked, orNull(bytes), bytes.length, flags, tokens, tokens.length, needed);
      if (status !== Status.space) {
        checkVocabulary(status);
        check(status, 'model');
        return tokens.slice(0, needed[0]);
      }
      tokens = new Int32Array(needed[0] ?? 0);
    }
  }

  /** As {@link tokenize}, as a job whose data are the ids. */
  tokenizeLong(model: Handle, text: string, flags: number): Handle {
    const bytes = encode('text', text);
    flags = integer('flags', flags, 0, 3);
    const job = new Uint32Array(1);
    const status = this.#c.llama_duo_tokenize_long(handle('model', model), orNull(bytes), bytes.length, flags, job);
    checkVocabulary(status);
    check(status, 'model');
    return job[0] ?? 0;
  }

  /** @param flags 1: leave special tokens out, 2: render special tokens as text */
  detokenize(model: Handle, tokens: Int32Array, flags: number): Uint8Array {
    const checked = handle('model', model);
    array('tokens', tokens, Int32Array);
    flags = integer('flags', flags, 0, 3);
    return this.#bytes((buffer, capacity, needed) => {
      const status = this.#c.llama_duo_detokenize(checked, orNull(tokens), tokens.length, flags, buffer, capacity, needed);
      checkVocabulary(status);
      return status;
    }, 'model');
  }

  loraLoad(model: Handle, options: string): Handle {
    const checked = handle('model', model);
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_lora_load(checked, json, length, job), 'model');
  }

  loraFree(lora: Handle): void {
    check(this.#c.llama_duo_lora_free(handle('lora', lora)), 'lora');
  }

  gatesRead(options: string): Handle {
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_gates_read(json, length, job));
  }

  gatesSelect(options: string): Handle {
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_gates_select(json, length, job));
  }

  gatesEmbed(options: string): Handle {
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_gates_embed(json, length, job));
  }

  calibrate(model: Handle, options: string): Handle {
    const checked = handle('model', model);
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_calibrate(checked, json, length, job), 'model');
  }

  contextCreate(model: Handle, options: string): Handle {
    const checked = handle('model', model);
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_context_create(checked, json, length, job), 'model');
  }

  contextPlan(model: Handle, options: string): Handle {
    const checked = handle('model', model);
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_context_plan(checked, json, length, job), 'model');
  }

  contextEstimate(model: Handle, options: string): Handle {
    const checked = handle('model', model);
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_context_estimate(checked, json, length, job), 'model');
  }

  /** The job is done when the context's memory is free. */
  contextFree(context: Handle): Handle {
    const job = new Uint32Array(1);
    check(this.#c.llama_duo_context_free(handle('context', context), job), 'context');
    return job[0] ?? 0;
  }

  /** @param prompt token ids, or text, which the context's thread tokenizes */
  generate(context: Handle, prompt: Int32Array | string, options: string): Handle {
    const { tokens, count, text, bytes } = given('prompt', prompt);
    const checked = handle('context', context);
    return this.#submit(
      options,
      (json, length, job) => this.#c.llama_duo_generate(checked, tokens, count, text, bytes, json, length, job),
      'context',
    );
  }

  /** @param prompt as for {@link generate} */
  score(context: Handle, prompt: Int32Array | string, options: string): Handle {
    const { tokens, count, text, bytes } = given('text', prompt);
    const checked = handle('context', context);
    return this.#submit(
      options,
      (json, length, job) => this.#c.llama_duo_score(checked, tokens, count, text, bytes, json, length, job),
      'context',
    );
  }

  /** A job that makes an empty sequence once one is free. */
  sequenceCreate(context: Handle): Handle {
    const checked = handle('context', context);
    return this.#start((job) => this.#c.llama_duo_sequence_create(checked, job), 'context');
  }

  /** Cancels its jobs, too. */
  sequenceFree(sequence: Handle): void {
    check(this.#c.llama_duo_sequence_free(handle('sequence', sequence)), 'sequence');
  }

  /** As of the last job that has ended. */
  sequenceSize(sequence: Handle): { length: number; resumableFrom: number } {
    const length = new Int32Array(1);
    const resumableFrom = new Int32Array(1);
    check(this.#c.llama_duo_sequence_size(handle('sequence', sequence), length, resumableFrom), 'sequence');
    return { length: length[0] ?? 0, resumableFrom: resumableFrom[0] ?? 0 };
  }

  sequenceFork(sequence: Handle): Handle {
    const checked = handle('sequence', sequence);
    return this.#start((job) => this.#c.llama_duo_sequence_fork(checked, job), 'sequence');
  }

  sequenceAppend(sequence: Handle, prompt: Int32Array | string, options: string): Handle {
    const { tokens, count, text, bytes } = given('text', prompt);
    const checked = handle('sequence', sequence);
    return this.#submit(
      options,
      (json, length, job) => this.#c.llama_duo_sequence_append(checked, tokens, count, text, bytes, json, length, job),
      'sequence',
    );
  }

  sequenceTruncate(sequence: Handle, length: number): Handle {
    const checked = handle('sequence', sequence);
    length = integer('length', length, 0, int32Max);
    return this.#start((job) => this.#c.llama_duo_sequence_truncate(checked, length, job), 'sequence');
  }

  /** The job's data are floats. */
  sequenceLogits(sequence: Handle): Handle {
    const checked = handle('sequence', sequence);
    return this.#start((job) => this.#c.llama_duo_sequence_logits(checked, job), 'sequence');
  }

  sequenceGenerate(sequence: Handle, prompt: Int32Array | string, options: string): Handle {
    const { tokens, count, text, bytes } = given('prompt', prompt);
    const checked = handle('sequence', sequence);
    return this.#submit(
      options,
      (json, length, job) => this.#c.llama_duo_sequence_generate(checked, tokens, count, text, bytes, json, length, job),
      'sequence',
    );
  }

  sequenceScore(sequence: Handle, prompt: Int32Array | string, options: string): Handle {
    const { tokens, count, text, bytes } = given('text', prompt);
    const checked = handle('sequence', sequence);
    return this.#submit(
      options,
      (json, length, job) => this.#c.llama_duo_sequence_score(checked, tokens, count, text, bytes, json, length, job),
      'sequence',
    );
  }

  /** The job's data are the state where the options name no file. */
  sequenceSave(sequence: Handle, options: string): Handle {
    const checked = handle('sequence', sequence);
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_sequence_save(checked, json, length, job), 'sequence');
  }

  sequenceLoad(sequence: Handle, state: Uint8Array, options: string): Handle {
    const checked = handle('sequence', sequence);
    array('state', state, Uint8Array);
    if (state.length > int32Max) throw new OptionError('state', state, 'at most 2 GiB: larger ones are loaded from a file');
    return this.#submit(
      options,
      (json, length, job) => this.#c.llama_duo_sequence_load(checked, orNull(state), state.length, json, length, job),
      'sequence',
    );
  }

  embedderCreate(model: Handle, options: string): Handle {
    const checked = handle('model', model);
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_embedder_create(checked, json, length, job), 'model');
  }

  /** The job is done when the embedder's memory is free. */
  embedderFree(embedder: Handle): Handle {
    const checked = handle('embedder', embedder);
    return this.#start((job) => this.#c.llama_duo_embedder_free(checked, job), 'embedder');
  }

  /** The job's data are floats: the texts' embeddings one after the other. */
  embed(embedder: Handle, options: string): Handle {
    const checked = handle('embedder', embedder);
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_embed(checked, json, length, job), 'embedder');
  }

  /** The job's data are floats: a score for each document. */
  rank(embedder: Handle, options: string): Handle {
    const checked = handle('embedder', embedder);
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_rank(checked, json, length, job), 'embedder');
  }

  /** The job's data are the prompt's ids. */
  chatApply(model: Handle, options: string): Handle {
    const checked = handle('model', model);
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_chat_apply(checked, json, length, job), 'model');
  }

  chatParse(options: string): Handle {
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_chat_parse(json, length, job));
  }

  schemaGrammar(options: string): Handle {
    return this.#submit(options, (json, length, job) => this.#c.llama_duo_schema_grammar(json, length, job));
  }

  /** What this thread makes from now on ends with it: a worker may end without another word. */
  ownByThisThread(): void {
    check(this.#c.llama_duo_own_by_this_thread(), 'library');
  }

  /** Cancels all jobs and waits until the library's threads rest. */
  shutdown(timeoutMs: number): void {
    check(this.#c.llama_duo_shutdown(integer('timeoutMs', timeoutMs, 0, int32Max)), 'library');
  }

  #start(call: (job: Uint32Array) => number, owner: string): Handle {
    const job = new Uint32Array(1);
    check(call(job), owner);
    return job[0] ?? 0;
  }

  #submit(options: string, call: (json: Uint8Array | null, length: number, job: Uint32Array) => number, owner = 'library'): Handle {
    const json = encode('options', options);
    const job = new Uint32Array(1);
    check(call(orNull(json), json.length, job), owner);
    return job[0] ?? 0;
  }

  #text(read: Read, owner = 'library'): string {
    return decode(this.#bytes(read, owner));
  }

  #bytes(read: Read, owner: string): Uint8Array<ArrayBuffer> {
    const needed = new Int32Array(1);
    let buffer = new Uint8Array(4096);
    for (;;) {
      const status = read(buffer, buffer.length, needed);
      if (status !== Status.space) {
        check(status, owner);
        return buffer.subarray(0, needed[0]);
      }
      buffer = new Uint8Array(needed[0] ?? 0);
    }
  }
}

type Read = (buffer: Uint8Array, capacity: number, needed: Int32Array) => number;

const int32Max = 2 ** 31 - 1;
const uint32Max = 2 ** 32 - 1;

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/** UTF-8 bytes as text; broken sequences become U+FFFD. */
export function decode(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

function encode(name: string, value: string): Uint8Array {
  if (typeof value !== 'string') throw new OptionError(name, value, 'a string');
  const bytes = encoder.encode(value);
  if (bytes.length > int32Max) throw new OptionError(name, value, 'at most 2 GiB of text');
  return bytes;
}

/** Token ids or text, as the functions take them that take either. */
function given(
  name: string,
  prompt: Int32Array | string,
): { tokens: Int32Array | null; count: number; text: Uint8Array | null; bytes: number } {
  if (typeof prompt === 'string') {
    const text = encode(name, prompt);
    return { tokens: null, count: -1, text: orNull(text), bytes: text.length };
  }
  array('tokens', prompt, Int32Array);
  return { tokens: orNull(prompt), count: prompt.length, text: null, bytes: 0 };
}

function handle(name: string, value: number): number {
  return integer(name, value, 0, uint32Max);
}

function integer(name: string, value: number, minimum: number, maximum: number): number {
  if (Number.isInteger(value) && value >= minimum && value <= maximum) return value + 0; // + 0 makes -0 a 0
  throw new OptionError(name, value, `an integer from ${minimum} to ${maximum}`);
}

function array<T extends Int32Array | Uint8Array | Float64Array>(
  name: string,
  value: T,
  type: new (length: number) => T,
  minimum = 0,
): void {
  if (!(value instanceof type)) throw new OptionError(name, value, type.name);
  if (value.length < minimum) throw new OptionError(name, value, `${type.name} of at least ${minimum}`);
}

/** Empty arrays have an address in Bun and none elsewhere. */
function orNull<T extends { length: number }>(array: T): T | null {
  return array.length > 0 ? array : null;
}

/** Of a function on tokens and text: it can do nothing but count where a model has no vocabulary. */
function checkVocabulary(status: number): void {
  if (status === Status.state) throw new ModelError('The model has no vocabulary: give it token ids, and take token ids from it.');
}

function check(status: number, owner: string): void {
  if (status === Status.ok) return;
  if (status === Status.handle) throw new DisposedError(owner);
  if (status === Status.limit) {
    throw new LimitError(
      'Too many models, contexts, sequences, adapters and generations are live: dispose of those that are no longer needed.',
    );
  }
  const meaning =
    status === Status.argument ? 'a bad argument' : status === Status.state ? 'not possible in this state' : 'an internal failure';
  throw new LlamaDuoError('internal', `The llama-duo library reports ${meaning} (status ${status}, ${owner}). This is a bug in llama-duo.`);
}
