import { OptionError } from '../errors.ts';
import { runJob, type JobOptions } from '../ffi/job.ts';
import type { Handle } from '../ffi/native.ts';
import { Owned } from '../ffi/owned.ts';
import { absolutePath, checkOptions, nativeOptions, toJson } from './check-options.ts';
import { Generation, type GenerationSource } from './generation.ts';
import { appendTable, generateTable } from './option-tables.ts';
import type { AppendOptions, GenerateOptions } from './option-types.ts';
import { signal as signalOption } from './options.ts';
import type { Infer, Schema, WithSchema } from './schema.ts';
import { scoreOf, type Score } from './score.ts';
import { textOrIds, type Tokens } from './tokens.ts';

type Signalled = { signal?: AbortSignal | undefined };
const signalled = { signal: signalOption('Stops the work; the promise rejects with `signal.reason`.') };

/**
 * A sequence of a context that a program keeps to itself: what it has read stays in the cache until it is disposed of. Made by {@link Context.sequence}. Its calls
 * are worked on in their order, beside all others of the context. One that fails or is aborted leaves what was computed of what it appended.
 */
export class Sequence {
  readonly #source: Omit<GenerationSource, 'submit'>;
  readonly #context: object;
  readonly #owned: Owned;

  /** @internal @param context is kept alive */
  constructor(source: Omit<GenerationSource, 'submit'>, context: object, sequence: Handle) {
    const { native } = source;
    this.#source = source;
    this.#context = context;
    this.#owned = new Owned(this, native, 'sequence', sequence, (handle) => {
      native.sequenceFree(handle);
      return undefined;
    });
  }

  /** Tokens that it holds, when the last of its calls had ended. */
  get length(): number {
    return this.#size().length;
  }

  /** The shortest length, beside 0, that {@link truncate} can leave: with streaming heads a sequence goes back only so far, with recurrent layers not at all. */
  get resumableFrom(): number {
    return this.#size().resumableFrom;
  }

  /**
   * Reads on.
   *
   * @param text read without BOS unless `addSpecial` asks for it, or token ids: at least one token
   * @returns how many tokens were appended
   * @throws ContextFullError where it cannot hold them; OptionError; `signal.reason` when aborted
   */
  async append(text: Tokens, options: AppendOptions = {}): Promise<number> {
    checkOptions(options, appendTable);
    const given = textOrIds('text', text);
    const request = toJson(nativeOptions(options, appendTable));
    const { appendedTokens } = await this.#run<{ appendedTokens: number }>(
      (handle) => this.#source.native.sequenceAppend(handle, given, request),
      options,
    );
    return appendedTokens;
  }

  /**
   * Leaves the first tokens, exactly as if the others had never come.
   *
   * @param length of what is left; 0 can always be had
   * @throws StateError where the cache cannot go back so far; it has `resumableFrom`
   */
  async truncate(length: number, options: Signalled = {}): Promise<void> {
    checkOptions(options, signalled);
    await this.#run((handle) => this.#source.native.sequenceTruncate(handle, length), options);
  }

  /**
   * A copy that goes its own way, once the context has a sequence free for it.
   *
   * @throws OptionError where the context has but one
   */
  async fork(options: Signalled = {}): Promise<Sequence> {
    checkOptions(options, signalled);
    const { native, sequences } = this.#source;
    if (sequences === 1) throw new OptionError('sequences', 1, 'a context of at least 2: a copy is a sequence of its own');
    const { sequence } = await this.#run<{ sequence: Handle }>((handle) => native.sequenceFork(handle), {
      ...options,
      discard: ({ sequence }) => native.sequenceFree(sequence),
    });
    return new Sequence(this.#source, this.#context, sequence);
  }

  /**
   * What the model expects after the last token.
   *
   * @returns a logit for each token of the vocabulary
   * @throws StateError where it holds nothing
   */
  async logits(options: Signalled = {}): Promise<Float32Array> {
    checkOptions(options, signalled);
    return this.#run((handle) => this.#source.native.sequenceLogits(handle), {
      ...options,
      read: (job) => new Float32Array(job.data().buffer),
    });
  }

  /**
   * Appends a text and tells how likely the model found it.
   *
   * @returns a log-probability for each of its tokens, after all before it; where the sequence was empty the first has none
   * @throws as {@link append}
   */
  async score(text: Tokens, options: AppendOptions = {}): Promise<Score> {
    checkOptions(options, appendTable);
    const given = textOrIds('text', text);
    const request = toJson(nativeOptions(options, appendTable));
    return this.#run((handle) => this.#source.native.sequenceScore(handle, given, request), { ...options, read: scoreOf });
  }

  /**
   * Continues what it holds, after a prompt if one is given. It then holds the prompt and what was generated.
   *
   * @param prompt as of {@link Context.generate}; may be empty where the sequence holds something
   */
  generate<const S extends Schema>(prompt: Tokens | undefined, options: WithSchema<GenerateOptions, S>): Generation<Infer<S>>;
  generate<const Choice extends string>(
    prompt: Tokens | undefined,
    options: GenerateOptions & { choices: readonly Choice[] },
  ): Generation<Choice>;
  generate(prompt?: Tokens, options?: GenerateOptions & { schema?: undefined; choices?: undefined }): Generation<string>;
  generate(prompt?: Tokens, options?: GenerateOptions): Generation;
  generate(prompt: Tokens = [], options: GenerateOptions = {}): Generation {
    this.#owned.assertLive();
    checkOptions(options, generateTable);
    const given = textOrIds('prompt', prompt);
    const { native } = this.#source;
    return new Generation({ ...this.#source, submit: (request) => native.sequenceGenerate(this.#owned.handle, given, request) }, options);
  }

  /**
   * What it holds, with a header that says of which model, heads, cache types and version it is. At most 2 GiB, which are copied at once: {@link saveFile} takes more, and
   * leaves the event loop alone.
   *
   * @throws StateError where it is larger
   */
  async save(options: Signalled = {}): Promise<Uint8Array> {
    checkOptions(options, signalled);
    return this.#run((handle) => this.#source.native.sequenceSave(handle, '{}'), { ...options, read: (job) => job.data() });
  }

  /**
   * The same to a file, which is written beside its place first. Nothing else of the context is computed meanwhile.
   *
   * @returns its bytes
   * @throws OutputError
   */
  async saveFile(path: string | URL, options: Signalled = {}): Promise<number> {
    checkOptions(options, signalled);
    const request = toJson({ path: absolutePath('path', path) });
    const { bytes } = await this.#run<{ bytes: number }>((handle) => this.#source.native.sequenceSave(handle, request), options);
    return bytes;
  }

  /**
   * Makes it hold what was saved, in place of what it holds. A context of another size and with another number of sequences may take a state, where it fits.
   *
   * @param state what {@link save} gave, or the path of a file
   * @throws StateError where it is damaged, or of another model, heads, cache types or version, ContextFullError where it is too long: then the sequence is as
   *   before
   */
  async load(state: Uint8Array | string | URL, options: Signalled = {}): Promise<void> {
    checkOptions(options, signalled);
    const { native } = this.#source;
    const [bytes, request] =
      state instanceof Uint8Array ? [state, '{}'] : [new Uint8Array(), toJson({ path: absolutePath('state', state) })];
    await this.#run((handle) => native.sequenceLoad(handle, bytes, request), options);
  }

  /** Gives it back and ends its calls. What it holds may still be reused by others. */
  dispose(): Promise<void> {
    return this.#owned.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #size(): { length: number; resumableFrom: number } {
    return this.#source.native.sequenceSize(this.#owned.handle);
  }

  #run<T>(submit: (handle: Handle) => Handle, options: JobOptions<T>): Promise<T> {
    return runJob<T>(this.#source.native, () => submit(this.#owned.handle), { ...options, owner: this });
  }
}
