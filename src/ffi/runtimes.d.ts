// The little of Bun and Deno that src/ffi and the tests use. Their own type packages declare globals that clash with Node's.

declare module 'bun:ffi' {
  export function dlopen(path: string, symbols: Record<string, { args: string[]; returns: string }>): { symbols: Record<string, unknown> };
}

declare namespace Deno {
  function exit(code: number): never;

  function dlopen(path: string, symbols: Record<string, { parameters: string[]; result: string }>): { symbols: Record<string, unknown> };
}
