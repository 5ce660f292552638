import { openNative } from '../ffi/native.ts';

/** What the native library was built from. */
export type BuildInfo = {
  /** The version of the C ABI. */
  abi: number;
  version: string;
  /** The release of llama.cpp, and the git trees before and after this project's patches. */
  llamaCpp: { tag: string; tree: string; patchedTree: string };
  compiler: string;
  simd: string[];
  backends: string[];
};

/** Tells what the native library was built from. */
export async function buildInfo(options: { library?: string | undefined } = {}): Promise<BuildInfo> {
  const native = await openNative(options.library);
  return JSON.parse(native.buildInfo()) as BuildInfo;
}
