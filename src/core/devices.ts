import { runJob } from '../ffi/job.ts';
import { openNative } from '../ffi/native.ts';
import { checkOptions } from './check-options.ts';
import { loadModelTable } from './option-tables.ts';

/** What a model can be on. */
export type Device = {
  /** llama.cpp's name: `CPU`, `CUDA0`. */
  name: string;
  description: string;
  type: 'cpu' | 'gpu';
  totalBytes: number;
  /** What could be taken now. Weights that are mapped from their file count as free. */
  freeBytes: number;
};

/** A device, and what a context and its model take of it. */
export type DeviceMemory = Device & {
  weightsBytes: number;
  /** The KV cache, and states of recurrent layers. */
  contextBytes: number;
  /** Buffers to compute in. */
  computeBytes: number;
};

/**
 * The devices that models can be on: the host first.
 *
 * @throws LibraryError, AbiError
 */
export async function devices(options: { library?: string | undefined } = {}): Promise<Device[]> {
  checkOptions(options, { library: loadModelTable.library });
  const native = await openNative(options.library);
  return (await runJob<{ devices: Device[] }>(native, () => native.devices())).devices;
}
