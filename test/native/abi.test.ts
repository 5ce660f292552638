import { execFileSync } from 'node:child_process';

import { beforeAll, describe, expect, test } from 'vitest';

import { findLibrary } from '../../src/ffi/library.ts';
import { abiVersion, Native, openNative, runtimeBinding, Status } from '../../src/ffi/native.ts';
import { symbols, type BoundSymbols } from '../../src/ffi/symbols.ts';
import { AbiError, buildInfo, DisposedError, LibraryError, OptionError, parseGates } from '../../src/index.ts';

let native: Native;
/** The same functions without the checks of src/ffi. */
let c: BoundSymbols;

beforeAll(async () => {
  native = await openNative();
  c = await (await runtimeBinding()).bind((await findLibrary()).path);
});

describe('the library', () => {
  test('has the ABI version that this code was written for', () => {
    expect(c.llama_duo_abi_version()).toBe(abiVersion);
  });

  test('is opened once', async () => {
    expect(await openNative()).toBe(native);
    expect(await openNative((await findLibrary()).path)).toBe(native);
  });

  test.runIf(process.platform === 'linux')('exports the functions of the header and nothing else', async () => {
    const lines = execFileSync('nm', ['-D', '--defined-only', (await findLibrary()).path], { encoding: 'utf8' })
      .trim()
      .split('\n');
    const names = lines.map((line) => line.split(' ').at(-1)?.replace(/@.*$/, ''));
    expect(names.sort()).toEqual(Object.keys(symbols).sort());
  });

  test('tells what it was built from', async () => {
    const info = await buildInfo();
    expect(info).toMatchObject({ abi: abiVersion, llamaCpp: { tag: 'v0.5.0', tree: 'fd570ef54b10ec5fecb739e7e04c8ce44a6f415a' } });
    expect(info.llamaCpp.patchedTree).toMatch(/^[0-9a-f]{40}$/);
    expect(info.backends).not.toHaveLength(0);
    expect(Array.isArray(info.simd)).toBe(true);
  });

  test('that is not there is a typed error', async () => {
    await expect(buildInfo({ library: '/nowhere/lib.so' })).rejects.toThrow(LibraryError);
  });

  test('that is no library is a typed error', async () => {
    await expect(buildInfo({ library: import.meta.filename })).rejects.toMatchObject({
      code: 'library',
      message: expect.stringMatching(/could not be opened/) as string,
    });
  });

  test('of another version is a typed error', () => {
    expect(new AbiError('/lib.so', 1, 2).message).toMatch(/ABI version 2, this version of llama-duo needs 1.*npm run setup/);
  });
});

describe('without the checks of src/ffi the library refuses by status', () => {
  const json = new TextEncoder().encode('{}');
  const number = new Int32Array(1);
  const job = new Uint32Array(1);

  test('null pointers', () => {
    expect(c.llama_duo_build_info(null, 0, null)).toBe(Status.argument);
    expect(c.llama_duo_build_info(null, 8, number)).toBe(Status.argument);
    expect(c.llama_duo_log_drain(null, 8, number)).toBe(Status.argument);
    expect(c.llama_duo_model_load(null, 2, job)).toBe(Status.argument);
    expect(c.llama_duo_model_load(json, json.length, null)).toBe(Status.argument);
  });

  test('negative sizes', () => {
    expect(c.llama_duo_build_info(new Uint8Array(8), -1, number)).toBe(Status.argument);
    expect(c.llama_duo_model_load(json, -1, job)).toBe(Status.argument);
    expect(c.llama_duo_gates_read(json, -2147483648, job)).toBe(Status.argument);
    expect(c.llama_duo_shutdown(-1)).toBe(Status.argument);
  });

  test('a buffer that is too small is told how large it must be, and stays untouched', () => {
    const buffer = new Uint8Array(8).fill(7);
    expect(c.llama_duo_build_info(buffer, buffer.length, number)).toBe(Status.space);
    expect(buffer).toEqual(new Uint8Array(8).fill(7));
    const needed = number[0] ?? 0;
    expect(needed).toBeGreaterThan(8);
    expect(c.llama_duo_build_info(null, 0, number)).toBe(Status.space);
    expect(c.llama_duo_build_info(new Uint8Array(needed), needed, number)).toBe(Status.ok);
  });

  test.each([0, 1, 0x00010000, 0x7fffffff, 0x80000000, 0xffffffff])('handles that never were: %i', (handle) => {
    const tokens = new Int32Array(16);
    const bytes = new Uint8Array(4096);
    expect(c.llama_duo_job_poll(handle, number, new Float64Array(1))).toBe(Status.handle);
    expect(c.llama_duo_job_result(handle, null, 0, number)).toBe(Status.handle);
    expect(c.llama_duo_job_error(handle, null, 0, number)).toBe(Status.handle);
    expect(c.llama_duo_job_cancel(handle)).toBe(Status.handle);
    expect(c.llama_duo_job_free(handle)).toBe(Status.handle);
    expect(c.llama_duo_job_drain(handle, tokens, 16, bytes, 4096, new Int32Array(4))).toBe(Status.handle);
    expect(c.llama_duo_model_free(handle, job)).toBe(Status.handle);
    expect(c.llama_duo_tokenize(handle, json, 2, 0, tokens, 16, number)).toBe(Status.handle);
    expect(c.llama_duo_detokenize(handle, tokens, 1, 0, bytes, 4096, number)).toBe(Status.handle);
    expect(c.llama_duo_context_create(handle, json, 2, job)).toBe(Status.handle);
    expect(c.llama_duo_context_plan(handle, json, 2, job)).toBe(Status.handle);
    expect(c.llama_duo_context_free(handle, job)).toBe(Status.handle);
    expect(c.llama_duo_generate(handle, tokens, 1, null, 0, json, 2, job)).toBe(Status.handle);
    expect(c.llama_duo_score(handle, null, -1, json, 2, json, 2, job)).toBe(Status.handle);
    expect(c.llama_duo_tokenize_long(handle, json, 2, 0, job)).toBe(Status.handle);
    expect(c.llama_duo_job_data(handle, null, 0, number)).toBe(Status.handle);
  });

  test('a job’s handle is stale once it is freed, and no other job gets it', () => {
    const seen = new Set<number>();
    for (let round = 0; round < 300; round++) {
      expect(c.llama_duo_gates_read(json, json.length, job)).toBe(Status.ok);
      const handle = job[0] ?? 0;
      expect(handle).not.toBe(0);
      expect(seen.has(handle)).toBe(false);
      seen.add(handle);
      expect(c.llama_duo_job_free(handle)).toBe(Status.ok);
      expect(c.llama_duo_job_free(handle)).toBe(Status.handle);
      expect(c.llama_duo_job_poll(handle, number, new Float64Array(1))).toBe(Status.handle);
    }
  });
});

describe('with the checks', () => {
  test('runtimes do not differ: numbers that are no handles', () => {
    for (const handle of [NaN, 1.5, -1, 2 ** 32, '1' as unknown as number]) expect(() => native.jobPoll(handle)).toThrow(OptionError);
  });

  test('stale handles are DisposedErrors', () => {
    expect(() => native.jobPoll(0xfffffffe)).toThrow(DisposedError);
    expect(() => native.tokenize(5, 'text', 0)).toThrow('This model has been disposed');
    expect(() => {
      native.contextFree(5);
    }).toThrow('This context has been disposed');
  });

  test('an empty text crosses', async () => {
    await expect(parseGates('')).rejects.toMatchObject({ code: 'gates' });
  });

  test('many jobs at once', async () => {
    const text = JSON.stringify({ llamaDuoPattern: 1, layers: 1, kvHeads: 2, gates: [[0.25, 0.75]] });
    const patterns = await Promise.all(Array.from({ length: 100 }, () => parseGates(text)));
    expect(patterns.every(({ gates }) => gates[0]?.[1] === 0.75)).toBe(true);
  });
});
