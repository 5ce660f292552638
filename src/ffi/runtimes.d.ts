// The little of Bun and Deno that src/ffi and the tests use. Their own type packages declare globals that clash with Node's.

declare module 'bun:ffi' {
  export function dlopen(path: string, symbols: Record<string, { args: string[]; returns: string }>): { symbols: Record<string, unknown> };
}

declare namespace Deno {
  function exit(code: number): never;

  function dlopen(path: string, symbols: Record<string, { parameters: string[]; result: string }>): { symbols: Record<string, unknown> };
}

// A platform's package, as scripts/pack.mjs makes them: packages.ts says what these are.
declare module '@llama-duo/*' {
  export const library: string;
  export const buildId: string;
  export const glibc: string;
  export const cuda: import('./packages.ts').CudaPackage | undefined;
}
