import { OptionError } from '../errors.ts';
import { Job, runJob } from '../ffi/job.ts';
import type { Handle, Native } from '../ffi/native.ts';
import { Owned } from '../ffi/owned.ts';
import { checkOptions, toJson } from './check-options.ts';
import type { CoreModel } from './model.ts';
import { embedderTable } from './option-tables.ts';
import type { EmbedderOptions } from './option-types.ts';
import { boolean, signal as signalOption } from './options.ts';

/** An embedder's sizes as they came out. */
export type EmbedderInfo = {
  /** Numbers of an embedding. */
  size: number;
  pooling: 'mean' | 'cls' | 'last' | 'rank';
  /** Tokens of a text at most. */
  contextSize: number;
  /** Texts that are computed at once. */
  sequences: number;
};

/** A document, and how well it answers. */
export type Ranked = {
  /** Where it stands among those given. */
  index: number;
  /** More is better; there is no scale. */
  score: number;
};

type Signalled = { signal?: AbortSignal | undefined };
const signalled = { signal: signalOption('Stops the work; the promise rejects with `signal.reason`.') };
const embedTable = { ...signalled, normalize: boolean({ default: true, doc: 'Give embeddings length 1.' }) };

/**
 * Makes embeddings of texts, or ranks documents. What is asked of it is done in turn. Made by {@link Model.createEmbedder}; dispose of it with `await using` or
 * {@link Embedder.dispose}.
 */
export class Embedder {
  readonly info: Readonly<EmbedderInfo>;
  readonly #native: Native;
  readonly #owned: Owned;

  /** @internal */
  constructor(native: Native, { embedder, ...info }: EmbedderInfo & { embedder: Handle }) {
    this.info = info;
    this.#native = native;
    this.#owned = new Owned(this, native, 'embedder', embedder, (handle) => native.embedderFree(handle));
  }

  /**
   * Embeddings of texts. Names of special tokens in them are text.
   *
   * @param options normalize: whether they have length 1, so that their dot product is the cosine (default: true)
   * @returns one for each text, of `info.size` numbers
   * @throws ContextFullError for a text of more than `info.contextSize` tokens; OptionError; `signal.reason` when aborted
   */
  embed(text: string, options?: Signalled & { normalize?: boolean | undefined }): Promise<Float32Array>;
  embed(texts: readonly string[], options?: Signalled & { normalize?: boolean | undefined }): Promise<Float32Array[]>;
  async embed(
    texts: string | readonly string[],
    options: Signalled & { normalize?: boolean | undefined } = {},
  ): Promise<Float32Array | Float32Array[]> {
    checkOptions(options, embedTable);
    const { normalize, signal } = options;
    const all = [texts].flat();
    checkTexts('texts', all);
    if (all.length === 0) return [];
    const most = Math.floor((2 ** 31 - 1) / (4 * this.info.size));
    if (all.length > most) throw new OptionError('texts', texts, `at most ${most} texts at once`);
    const request = toJson({ texts: all, normalize });
    const numbers = await this.#run((handle) => this.#native.embed(handle, request), signal);
    const { size } = this.info;
    const embeddings = all.map((_, index) => numbers.slice(index * size, (index + 1) * size));
    return typeof texts === 'string' ? (embeddings[0] as Float32Array) : embeddings;
  }

  /**
   * How well documents answer a query, by a model that is a reranker and an embedder with `pooling: 'rank'`.
   *
   * @returns the best first
   * @throws as {@link embed}
   */
  async rank(query: string, documents: readonly string[], options: Signalled = {}): Promise<Ranked[]> {
    checkOptions(options, signalled);
    checkTexts('query', [query]);
    checkTexts('documents', documents);
    if (documents.length === 0) return [];
    const request = toJson({ query, documents });
    const scores = await this.#run((handle) => this.#native.rank(handle, request), options.signal);
    return Array.from(scores, (score, index) => ({ index, score })).sort((a, b) => b.score - a.score);
  }

  /** Gives it back; resolves when its memory is free. */
  dispose(): Promise<void> {
    return this.#owned.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #run(submit: (handle: Handle) => Handle, signal: AbortSignal | undefined): Promise<Float32Array> {
    return runJob<Float32Array>(this.#native, () => submit(this.#owned.handle), {
      signal,
      owner: this,
      read: (job) => new Float32Array(job.data().buffer),
    });
  }
}

/** @internal {@link CoreModel.createEmbedder} */
export async function createEmbedder(native: Native, model: CoreModel, handle: Handle, options: EmbedderOptions): Promise<Embedder> {
  checkOptions(options, embedderTable);
  const { signal, ...rest } = options;
  const request = toJson(rest);
  const created = await runJob<EmbedderInfo & { embedder: Handle }>(native, () => native.embedderCreate(handle, request), {
    signal,
    owner: model,
    discard: ({ embedder }) => {
      new Job(native, native.embedderFree(embedder)).free();
    },
  });
  return new Embedder(native, created);
}

function checkTexts(name: string, texts: readonly string[]): void {
  if (!Array.isArray(texts)) throw new OptionError(name, texts, 'an array of texts');
  const wrong = texts.findIndex((text: unknown) => typeof text !== 'string');
  if (wrong >= 0) throw new OptionError(`${name}[${wrong}]`, texts[wrong], 'a text');
}
