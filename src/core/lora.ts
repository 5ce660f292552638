import { runJob } from '../ffi/job.ts';
import type { Handle, Native } from '../ffi/native.ts';
import { Owned } from '../ffi/owned.ts';
import { absolutePath, toJson } from './check-options.ts';
import { isObject } from './options.ts';

/** What the library tells of an adapter. */
export type LoraInfo = {
  /** The factor that its changes were trained with. */
  alpha: number;
  /** How many of the model's tensors it adapts. */
  tensors: number;
  /** All of its file's keys with plain values. */
  metadata: Record<string, string>;
};

/** An adapter, and how much of it. */
export type ScaledLora = { lora: Lora; scale?: number | undefined };

/** A LoRA adapter of a model, for the option `loras` of contexts. Dispose of it with `await using` or {@link Lora.dispose}; contexts that use it keep it. */
export class Lora {
  readonly info: Readonly<LoraInfo>;
  readonly #owned: Owned;

  /** @internal */
  constructor(native: Native, { lora, ...info }: LoraInfo & { lora: Handle }) {
    this.info = info;
    this.#owned = new Owned(this, native, 'LoRA adapter', lora, (handle) => {
      native.loraFree(handle);
      return undefined;
    });
  }

  /** Gives it back. Its memory is free once no context uses it. */
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

/** @internal {@link CoreModel.loadLora} */
export async function loadLora(
  native: Native,
  owner: object,
  model: Handle,
  path: string | URL,
  signal: AbortSignal | undefined,
): Promise<Lora> {
  const request = toJson({ path: absolutePath('path', path) });
  const loaded = await runJob<LoraInfo & { lora: Handle }>(native, () => native.loraLoad(model, request), {
    signal,
    owner,
    discard: ({ lora }) => native.loraFree(lora),
  });
  return new Lora(native, loaded);
}

/** Whether a value is an adapter, or one with its scale. */
export function isLora(value: unknown): boolean {
  if (value instanceof Lora) return true;
  if (!isObject(value) || !(value['lora'] instanceof Lora)) return false;
  const { scale } = value;
  return Object.keys(value).every((key) => key === 'lora' || key === 'scale') && (scale === undefined || Number.isFinite(scale));
}

/** Adapters as the library takes them. */
export function nativeLoras(loras: Lora | ScaledLora | readonly (Lora | ScaledLora)[]): object[] {
  return [loras].flat().map((given) => (given instanceof Lora ? { lora: given.handle } : { lora: given.lora.handle, scale: given.scale }));
}
