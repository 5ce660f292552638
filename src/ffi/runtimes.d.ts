// The little of Bun and Deno that src/ffi and the tests use. Their own type packages declare globals that clash with Node's.

declare module 'bun:ffi' {
  export function dlopen(path: string, symbols: Record<string, { args: string[]; returns: string }>): { symbols: Record<string, unknown> };
}

declare namespace Deno {
  function exit(code: number): never;

  function dlopen(path: string, symbols: Record<string, { parameters: string[]; result: string }>): { symbols: Record<string, unknown> };
}

// A platform's package, as scripts/pack.mjs makes them: PlatformPackage of packages.ts, which says what these are. (No file with types of its own may be imported here.)
declare module '@llama-duo/*' {
  export const library: string;
  export const buildId: string;
  export const glibc: string;
  export const cuda: { probe: string; oldestDriver: number; toolkit: number; architectures: readonly number[]; ptx: number } | undefined;
}
