import { Job, runJob } from '../ffi/job.ts';
import { decode, openNative, type Handle, type Native } from '../ffi/native.ts';
import { Owned } from '../ffi/owned.ts';
import { chatPrompt, type ChatPrompt } from './chat-prompt.ts';
import { absolutePath, checkOptions, nativeOptions, toJson } from './check-options.ts';
import { createContext, estimateContext, planContext, type Context, type ContextEstimate, type ContextPlan } from './context.ts';
import { createEmbedder, type Embedder } from './embedder.ts';
import { fetchWith, isRemote } from './fetch.ts';
import type { InfillTokens } from './infill.ts';
import { loadLora, type Lora } from './lora.ts';
import type { Message } from './message.ts';
import { detokenizeTable, loadModelTable, modelTable, tokenizeTable } from './option-tables.ts';
import type {
  ChatPromptOptions,
  ContextOptions,
  DetokenizeOptions,
  EmbedderOptions,
  ModelOptions,
  PlanOptions,
  TokenizeOptions,
} from './option-types.ts';
import { signal as signalOption } from './options.ts';
import { tokenIds } from './tokens.ts';

/** What the library tells of a model. */
export type ModelInfo = {
  /** Family, size and quantisation in words: `llama 135M Q4_1`. */
  description: string;
  /** The name of the architecture in GGUF: `llama`, `qwen2`. */
  architecture: string;
  /** Absolute. */
  path: string;
  sizeBytes: number;
  parameters: number;
  layers: number;
  embeddingSize: number;
  /** Tokens that the model was trained to see. */
  trainedContextSize: number;
  vocabularySize: number;
  /** Query heads, and KV heads, of each layer: 0 where it does not attend. */
  heads: number[];
  kvHeads: number[];
  /** KV heads of each layer that have a gate, a row of a pattern each: 0 where the layer has the model's own sliding window, no attention or no rows of its own. */
  gatedHeads: number[];
  /** Numbers in a K row, and in a V row, of one head. */
  headSizeK: number;
  headSizeV: number;
  bosToken: number | null;
  eosToken: number | null;
  /** All tokens that end a text. */
  endTokens: number[];
  /** Tokens that mark the parts of a text with a gap. */
  infillTokens: InfillTokens;
  /** Whether the model wants a BOS token before a text. */
  addBos: boolean;
  /** The Jinja template, where the model has one. */
  chatTemplate: string | null;
  /** All of the GGUF file's keys with plain values. */
  metadata: Record<string, string>;
};

function tokenizeFlags({ addSpecial = true, parseSpecial = false }: TokenizeOptions): number {
  return (addSpecial ? 1 : 0) | (parseSpecial ? 2 : 0);
}

/** What the library gives for a model that it has loaded. */
export type LoadedModel = ModelInfo & { model: Handle };

/** The same in the library's words. */
type NativeModel = Omit<LoadedModel, 'trainedContextSize'> & { contextSize: number };

/** Loads a model, and makes an object of it. */
export async function loadWith<M>(
  make: (native: Native, loaded: LoadedModel) => M | Promise<M>,
  source: string | URL,
  options: ModelOptions = {},
): Promise<M> {
  checkOptions(options, loadModelTable);
  const { onProgress, signal, library, file, token, offline, ...more } = options;
  if (!isRemote(source)) absolutePath('source', source); // a slip is told before the library is opened
  const native = await openNative(library);
  const path = isRemote(source)
    ? await fetchWith(native, source, { file, token, offline, signal, onProgress: onProgress && ((done) => onProgress(done, 'download')) })
    : absolutePath('source', source);
  const request = toJson({ ...nativeOptions(more, modelTable), path });
  const loaded = await runJob<NativeModel>(native, () => native.modelLoad(request), {
    signal,
    onProgress: onProgress && ((done) => onProgress(done, 'load')),
    discard: ({ model }) => {
      new Job(native, native.modelFree(model)).free();
    },
  });
  const { contextSize: trainedContextSize, ...info } = loaded;
  return make(native, { ...info, trainedContextSize });
}

/** A loaded model, but for what belongs to its gates. */
export class CoreModel {
  readonly info: Readonly<ModelInfo>;
  readonly #native: Native;
  readonly #owned: Owned;

  /** @internal */
  constructor(native: Native, loaded: LoadedModel) {
    const { model, ...info } = loaded;
    this.info = info;
    this.#native = native;
    this.#owned = new Owned(this, native, 'model', model, (handle) => native.modelFree(handle));
  }

  /**
   * The token ids of a text, at once: for text up to some ten kilobytes, which takes a few milliseconds. {@link tokenizeAsync} is for more.
   *
   * @throws ModelError where the model has no vocabulary
   */
  tokenize(text: string, options: TokenizeOptions = {}): Int32Array {
    checkOptions(options, tokenizeTable);
    return this.#native.tokenize(this.#owned.handle, text, tokenizeFlags(options));
  }

  /**
   * The token ids of a text of any length, worked out on a thread of the library's.
   *
   * @throws ModelError where the model has no vocabulary, `signal.reason` when aborted
   */
  async tokenizeAsync(text: string, options: TokenizeOptions & { signal?: AbortSignal | undefined } = {}): Promise<Int32Array> {
    checkOptions(options, { ...tokenizeTable, signal: signalOption('Stops the work.') });
    const { signal } = options;
    return runJob<Int32Array>(this.#native, () => this.#native.tokenizeLong(this.#owned.handle, text, tokenizeFlags(options)), {
      signal,
      owner: this,
      read: (job) => new Int32Array(job.data().buffer),
    });
  }

  /**
   * The text of tokens. A character whose bytes are not all there becomes U+FFFD.
   *
   * @throws OptionError for an id that is none of the vocabulary's, ModelError where the model has no vocabulary
   */
  detokenize(tokens: Int32Array | readonly number[], options: DetokenizeOptions = {}): string {
    checkOptions(options, detokenizeTable);
    const flags = (options.removeSpecial ? 1 : 0) | (options.renderSpecial ? 2 : 0);
    return decode(this.#native.detokenize(this.#owned.handle, tokenIds('tokens', tokens, this.info.vocabularySize), flags));
  }

  /**
   * Creates a context: a KV cache and the thread that works on it. With `duo`, heads of the cache are mixed; without, it is llama.cpp's own.
   *
   * @throws UnsupportedError where mixed heads cannot apply, before anything is allocated; GatesError; ContextError; OptionError
   */
  async createContext(options: ContextOptions = {}): Promise<Context> {
    return createContext(this.#native, this, this.#owned.handle, options);
  }

  /**
   * What {@link createContext} would make, and what its KV cache would take, without making it. Where llama.cpp's own cache is asked for and it is not the
   * standard one (sliding windows, recurrent layers), the model's file is read again, without its weights.
   *
   * @throws what createContext throws of bad options and gates
   */
  async planContext(options: PlanOptions = {}): Promise<ContextPlan> {
    return planContext(this.#native, this, this.#owned.handle, options);
  }

  /**
   * What {@link createContext} would take of each device: weights, cache and buffers to compute in, to the byte, without taking it. The model's file is
   * read again, without its weights.
   *
   * @throws what createContext throws of bad options and gates
   */
  async estimate(options: PlanOptions = {}): Promise<ContextEstimate> {
    return estimateContext(this.#native, this, this.#owned.handle, options);
  }

  /**
   * Creates what makes embeddings of texts, or ranks documents: a context of its own.
   *
   * @throws ContextError for a model with an encoder and a decoder, or with `pooling: 'rank'` one that is no reranker; MemoryError; OptionError
   */
  async createEmbedder(options: EmbedderOptions = {}): Promise<Embedder> {
    return createEmbedder(this.#native, this, this.#owned.handle, options);
  }

  /**
   * Loads a LoRA adapter of this model, for the option `loras` of contexts.
   *
   * @param path of its GGUF file
   * @throws ModelError where it is damaged, or of another model
   */
  async loadLora(path: string | URL, options: { signal?: AbortSignal | undefined } = {}): Promise<Lora> {
    checkOptions(options, { signal: signalOption('Stops the loading; the promise rejects with `signal.reason`.') });
    return loadLora(this.#native, this, this.#owned.handle, path, options.signal);
  }

  /**
   * A prompt of messages, by the model's chat template: what {@link Context.chat} generates from.
   *
   * @throws TemplateError where the template refuses the messages; OptionError
   */
  async chatPrompt(messages: readonly Message[], options: ChatPromptOptions = {}): Promise<ChatPrompt> {
    return chatPrompt(this.#native, this, () => this.#owned.handle, messages, options);
  }

  /**
   * Gives the model back; resolves when its memory is free. Contexts made from it, and calibrations under way, keep its weights and go on: then it
   * resolves at once, and the memory is free when they have ended.
   */
  dispose(): Promise<void> {
    return this.#owned.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  /** @internal @throws DisposedError */
  get handle(): Handle {
    return this.#owned.handle;
  }
}
