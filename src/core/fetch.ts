import { OptionError } from '../errors.ts';
import { runJob } from '../ffi/job.ts';
import { openNative, type Native } from '../ffi/native.ts';
import { absolutePath, checkOptions, nativeOptions, toJson } from './check-options.ts';
import { fetchTable } from './option-tables.ts';
import type { FetchOptions } from './option-types.ts';

/** Whether a model is elsewhere: `hf:user/repository`, `hf:user/repository:Q4_K_M`, or a URL of the web. */
export function isRemote(source: string | URL): boolean {
  const text = source instanceof URL ? source.href : source;
  return typeof text === 'string' && /^(hf:|https?:)/.test(text);
}

/**
 * Makes sure that a model's file, or all files of a split one, are here, with llama.cpp's downloader and cache: what llama.cpp's own tools have loaded is not
 * loaded again.
 *
 * @param source `hf:user/repository`, with `:quantisation` behind it or not, or a URL of a GGUF file; a path is given back as it is
 * @returns the path of the (first) file, for `loadModel`
 * @throws DownloadError where it cannot be had; OptionError; `signal.reason` when aborted
 */
export async function fetchModel(source: string | URL, options: FetchOptions = {}): Promise<string> {
  checkOptions(options, fetchTable);
  return isRemote(source) ? fetchWith(await openNative(options.library), source, options) : absolutePath('source', source);
}

/** @internal The same, where the library is there. */
export async function fetchWith(native: Native, source: string | URL, options: FetchOptions): Promise<string> {
  const { onProgress, signal, file, offline } = options;
  if (!/^(hf:[^/]+\/[^/]+|https?:\/\/.+)$/s.test(String(source))) {
    throw new OptionError('source', source, 'a path, hf:user/repository, with :quantisation behind it or not, or a URL of a GGUF file');
  }
  // the hub's is for the hub: another server is told of it where a program says so
  const token = options.token ?? (String(source).startsWith('hf:') ? process.env['HF_TOKEN'] : undefined);
  const request = toJson({ ...nativeOptions({ file, offline }, fetchTable), token, model: String(source) });
  const { path } = await runJob<{ path: string }>(native, () => native.modelFetch(request), { signal, onProgress });
  return path;
}
