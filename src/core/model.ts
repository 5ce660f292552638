import { createContext, planContext, type Context, type ContextOptions, type ContextPlan, type PlanOptions } from './context.ts';
import { decode, openNative, type Handle, type Native } from '../ffi/native.ts';
import { Job, runJob } from '../ffi/job.ts';
import { abortSignal, absolutePath, boolean, callback, checkOptions, filePath, integer, text, toJson } from './options.ts';
import { abandoned, Owned } from '../ffi/owned.ts';
import { tokenIds } from './tokens.ts';

export type ModelOptions = {
  /** A GGUF file; of a split model the first part. Relative to the folder that the process is in now. */
  path: string | URL;
  /** Layers kept on the GPU, -1 for all. Default: llama.cpp's own choice. */
  gpuLayers?: number | undefined;
  /** Map the file into memory instead of reading it. Default: true. */
  useMmap?: boolean | undefined;
  /** Load the vocabulary only: enough to tokenize. Default: false. */
  vocabOnly?: boolean | undefined;
  /** Load the weights. Without them a model tells what it is, tokenizes and plans contexts, and takes memory for its vocabulary only. Default: true. */
  weights?: boolean | undefined;
};

/** @internal */
export const modelChecks = { path: filePath, gpuLayers: integer(-1), useMmap: boolean, vocabOnly: boolean, weights: boolean };

export type LoadModelOptions = {
  /** Gets a number that grows from 0 to 1. */
  onProgress?: ((progress: number) => void) | undefined;
  /** Stops the loading; the promise rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
  /** The path of the native library. Default: LLAMA_DUO_LIBRARY, else the local build. */
  library?: string | undefined;
};

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
  contextSize: number;
  vocabularySize: number;
  /** Query heads, and KV heads, of each layer. */
  heads: number[];
  kvHeads: number[];
  /** Numbers in a K row, and in a V row, of one head. */
  headSizeK: number;
  headSizeV: number;
  bosToken: number | null;
  eosToken: number | null;
  /** Whether the model wants a BOS token before a text. */
  addBos: boolean;
  /** The Jinja template, where the model has one. */
  chatTemplate: string | null;
  /** All of the GGUF file's keys with plain values. */
  metadata: Record<string, string>;
};

export type TokenizeOptions = {
  /** Add BOS and EOS as the model wants them. Default: true. */
  addSpecial?: boolean | undefined;
  /** Read `<|im_start|>` and the like as the tokens that they name. Default: false. */
  parseSpecial?: boolean | undefined;
};

export type DetokenizeOptions = {
  /** Leave special tokens out. Default: false. */
  removeSpecial?: boolean | undefined;
  /** Write special tokens as their names. Default: false. */
  renderSpecial?: boolean | undefined;
};

const tokenizeChecks = { addSpecial: boolean, parseSpecial: boolean };

function tokenizeFlags({ addSpecial = true, parseSpecial = false }: TokenizeOptions): number {
  return (addSpecial ? 1 : 0) | (parseSpecial ? 2 : 0);
}

/** What the library gives for a model that it has loaded. */
export type LoadedModel = ModelInfo & { model: Handle };

/** Loads a model, and makes an object of it. */
export async function loadWith<M>(
  make: (native: Native, loaded: LoadedModel) => M | Promise<M>,
  source: string | URL | ModelOptions,
  options: LoadModelOptions = {},
): Promise<M> {
  const model = typeof source === 'string' || source instanceof URL ? { path: source } : source;
  checkOptions<Partial<ModelOptions>>(model, modelChecks);
  checkOptions(options, { onProgress: callback, signal: abortSignal, library: text });
  const { onProgress, signal, library } = options;

  const request = toJson({ ...model, path: absolutePath('path', model.path) });
  const native = await openNative(library);
  const loaded = await runJob<LoadedModel>(native, () => native.modelLoad(request), {
    signal,
    onProgress,
    discard: ({ model }) => {
      new Job(native, native.modelFree(model)).free();
    },
  });
  return make(native, loaded);
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
    this.#owned = new Owned(native, 'model', model, (handle) => native.modelFree(handle));
    abandoned.register(this, this.#owned, this);
  }

  /**
   * The token ids of a text, at once: for text up to some ten kilobytes, which takes a few milliseconds. {@link tokenizeAsync} is for more.
   *
   * @throws ModelError where the model has no vocabulary
   */
  tokenize(text: string, options: TokenizeOptions = {}): Int32Array {
    checkOptions(options, tokenizeChecks);
    return this.#native.tokenize(this.#owned.handle, text, tokenizeFlags(options));
  }

  /**
   * The token ids of a text of any length, worked out on a thread of the library's.
   *
   * @throws ModelError where the model has no vocabulary, `signal.reason` when aborted
   */
  async tokenizeAsync(text: string, options: TokenizeOptions & { signal?: AbortSignal | undefined } = {}): Promise<Int32Array> {
    checkOptions(options, { ...tokenizeChecks, signal: abortSignal });
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
    checkOptions(options, { removeSpecial: boolean, renderSpecial: boolean });
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
   * Gives the model back; resolves when its memory is free. Contexts made from it, and calibrations under way, keep its weights and go on: then it
   * resolves at once, and the memory is free when they have ended.
   */
  dispose(): Promise<void> {
    abandoned.unregister(this);
    return this.#owned.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  /** @internal @throws DisposedError */
  protected get handle(): Handle {
    return this.#owned.handle;
  }
}
