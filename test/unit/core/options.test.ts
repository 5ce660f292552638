import { describe, expect, test } from 'vitest';

import type { HeadChoice } from '../../../src/core/duo.ts';
import type { DuoOptions, PlanOptions } from '../../../src/core/option-types.ts';
import { JobState } from '../../../src/ffi/native.ts';
import { OptionError } from '../../../src/errors.ts';
import type { ModelInfo } from '../../../src/core/model.ts';
import { loadModel, Model } from '../../../src/gates/model.ts';
import { checkOptions, nearest, toJson } from '../../../src/core/check-options.ts';
import { integer, number, text } from '../../../src/core/options.ts';
import { tokenIds } from '../../../src/core/tokens.ts';
import { FakeLibrary } from '../fake-library.ts';

const checks = { count: integer({ min: 1, max: 10, doc: '' }), share: number({ min: 0, max: 1, doc: '' }), name: text({ doc: '' }) };

test('good options pass, undefined ones count as left out', () => {
  expect(() => {
    checkOptions<{ count?: unknown; share?: unknown; name?: unknown }>({ count: 10, share: 0.5, name: undefined }, checks);
  }).not.toThrow();
});

test.each([
  [{ count: 0 }, 'count', 'an integer from 1 to 10'],
  [{ count: 1.5 }, 'count', 'an integer from 1 to 10'],
  [{ count: NaN }, 'count', 'an integer from 1 to 10'],
  [{ count: '1' }, 'count', 'an integer from 1 to 10'],
  [{ share: Infinity }, 'share', 'a number from 0 to 1'],
  [{ share: -0.1 }, 'share', 'a number from 0 to 1'],
  [{ share: null }, 'share', 'a number from 0 to 1'],
  [{ name: 5 }, 'name', 'a string'],
])('%o names the option, the value and what was expected', (options, option, expected) => {
  const check = (): void => {
    checkOptions<{ count?: unknown; share?: unknown; name?: unknown }>(options, checks, 'duo.');
  };
  expect(check).toThrow(OptionError);
  expect(check).toThrow(`Bad value for duo.${option}: expected ${expected}, got`);
});

test('an unknown option suggests the one that was meant', () => {
  expect(() => {
    checkOptions<object>({ cuont: 1 }, checks);
  }).toThrow('Unknown option cuont (1). Did you mean count?');
  expect(() => {
    checkOptions<object>({ somethingElse: 'x' }, checks);
  }).toThrow('Unknown option somethingElse ("x"). Known: count, share, name.');
  expect(() => {
    checkOptions<object>({ toString: 1 }, checks);
  }).toThrow(OptionError);
});

test.each([null, [], 5, 'text'])('%o is no options object', (options) => {
  expect(() => {
    checkOptions(options as unknown as object, {});
  }).toThrow(/expected an object/);
});

test.each([
  [{ stop: ['a', '\ud83d'] }, 'stop[1]'],
  [{ duo: { gates: { provenance: { by: '\udc00' } } } }, 'duo.gates.provenance.by'],
  [{ duo: { gates: { '\ud83d': 1 } } }, 'a key'],
])('half of a surrogate pair has no UTF-8: %j', (options, name) => {
  expect(() => toJson(options)).toThrow(OptionError);
  expect(() => toJson(options)).toThrow(`Bad value for ${name}: expected text without halves of surrogate pairs`);
});

test('what looks like one in JSON may be none', () => {
  expect(JSON.parse(toJson({ a: '\\ud83d', b: '\u{1f600}' }))).toEqual({ a: '\\ud83d', b: '\u{1f600}' });
});

test('the nearest name is offered only where it is near', () => {
  expect(nearest('--duo-sparcity', ['--duo-sink', '--duo-sparsity'])).toBe('--duo-sparsity');
  expect(nearest('contextsize', ['contextSize'])).toBe('contextSize');
  expect(nearest('--frobnicate', ['--temp', '-n'])).toBeUndefined();
});

describe('token ids', () => {
  test('arrays are copied, an Int32Array is taken as it is', () => {
    const ids = Int32Array.of(1, 2);
    expect(tokenIds('prompt', ids)).toBe(ids);
    expect(tokenIds('prompt', [1, 2])).toEqual(ids);
  });
  test.each([[[1.5]], [[-1]], [[2 ** 31]], [[NaN]], [['1']]])('%o is refused', (tokens) => {
    expect(() => tokenIds('prompt', tokens as number[])).toThrow(/Bad value for prompt\[0\]: expected a token id/);
  });
  test('those of an Int32Array are looked at, too, and all may have to be of a vocabulary', () => {
    expect(() => tokenIds('tokens', Int32Array.of(1, -1))).toThrow(/tokens\[1\]: expected a token id, got -1/);
    expect(() => tokenIds('tokens', [1, 10], 10)).toThrow(/tokens\[1\]: expected a token id, from 0 to 9, got 10/);
  });
  test.each([null, {}, new Uint8Array(2), 5])('%o is refused', (tokens) => {
    expect(() => tokenIds('prompt', tokens as unknown as number[])).toThrow(/Int32Array or an array/);
  });
});

describe('public functions check before they call the library', () => {
  test.each([
    ['', {}, /source: expected a path or a file URL/],
    [new URL('ftp://example.org/m.gguf'), {}, /source: expected a path or a file URL, got ftp:\/\/example\.org\/m\.gguf/],
    [undefined, {}, /source: expected a path or a file URL, got undefined/],
    ['m.gguf', { gpuLayers: -2 }, /gpuLayers: expected an integer of at least -1/],
    ['m.gguf', { gpuLayer: 1 }, /Did you mean gpuLayers/],
    ['m.gguf', { useMmap: 1 }, /useMmap: expected true or false/],
    ['m.gguf', { tensorSplit: [0, 0] }, /tensorSplit: expected an array of at most 16 shares/],
    ['m.gguf', { devices: 'CPU' }, /devices: expected an array of names/],
    ['m.gguf', 5, /options: expected an object/],
  ])('loadModel(%o, %o)', async (source, options, message) => {
    await expect(loadModel(source as string, options as object)).rejects.toThrow(message);
  });

  const { native } = new FakeLibrary();
  const model = new Model(native, { model: 1 } as ModelInfo & { model: number });
  test.each([
    [{ contextSize: 0 }, /contextSize: expected an integer from 1 to 2147483392, "auto", "fit" or "trained"/],
    [{ contextSize: 'train' }, /contextSize: expected an integer/],
    [{ typeK: 'f15' }, /typeK: expected one of f32, f16/],
    [{ duo: 5 }, /duo: expected "auto" or an object/],
    [{ duo: { sparsity: 2 } }, /duo\.sparsity: expected a number from 0 to 1, got 2/],
    [{ duo: { sparsity: 0.5, threshold: 0.5 } }, /duo\.threshold: expected no threshold beside a sparsity/],
    [{ duo: { gates: 5 } }, /duo\.gates: expected "auto", a path or a gate pattern/],
    [{ duo: { windowStep: 0 } }, /duo\.windowStep: expected an integer of at least 1/],
    [{ duo: { sinks: 4 } }, /Did you mean duo\.sink\?/],
    [{ duo: [] }, /duo: expected "auto" or an object/],
    [{ duo: { gates: new URL('https://example.org/') } }, /duo\.gates: expected .*, got https:\/\/example\.org\//],
    [{ sequences: 0 }, /sequences: expected an integer from 1 to 256/],
    [{ loras: [{}] }, /loras: expected LoRA adapters/],
    [{ signal: {} }, /signal: expected an AbortSignal/],
  ])('createContext(%o)', async (options, message) => {
    await expect(model.createContext(options as object)).rejects.toThrow(message);
  });
});

describe('what the library is asked for', () => {
  const { native, jobs, play } = (() => {
    const library = new FakeLibrary();
    return { native: library.native, jobs: library.jobs, play: library.play.bind(library) };
  })();
  const planned = async (trainedContextSize: number, options: PlanOptions): Promise<unknown> => {
    play([{ state: JobState.done }], { supported: true, kv: null });
    await new Model(native, { model: 1, trainedContextSize } as ModelInfo & { model: number }).planContext(options);
    return JSON.parse(jobs.at(-1)?.request ?? '') as unknown;
  };

  test('a size that is none is left to the library', async () => {
    expect(await planned(131072, {})).toEqual({ contextSize: 'auto' });
    expect(await planned(131072, { contextSize: 'fit' })).toEqual({ contextSize: 'fit' });
    expect(await planned(131072, { contextSize: 'trained' })).toEqual({ contextSize: 0 });
    expect(await planned(2048, { contextSize: 4096, duo: undefined })).toEqual({ contextSize: 4096 });
  });

  test("mixed heads take the model's own gates where none are named and some are needed", async () => {
    const contextSize = 512;
    const duoOf = async (duo: DuoOptions): Promise<unknown> => ((await planned(2048, { contextSize, duo })) as { duo: unknown }).duo;
    expect(await duoOf({})).toEqual({ gates: 'auto' });
    expect(await duoOf({ sparsity: 0.25 })).toEqual({ sparsity: 0.25, gates: 'auto' });
    expect(await duoOf({ threshold: 0.5, windowStep: 8 })).toEqual({ threshold: 0.5, chunk: 8, gates: 'auto' });
    expect(await duoOf({ sparsity: 0 })).toEqual({ sparsity: 0 });
    expect(await duoOf({ sparsity: 1, sink: 4 })).toEqual({ sparsity: 1, sink: 4 });
    expect(await duoOf({ sparsity: 1, gates: 'auto' })).toEqual({ sparsity: 1, gates: 'auto' });
    expect(await duoOf({ gates: '/a.tsv' })).toEqual({ gates: '/a.tsv' });
  });
});

test('sparsity and threshold exclude each other in the types', () => {
  const sparsity: HeadChoice = { sparsity: 0.5 };
  const threshold: DuoOptions = { threshold: 0.5, sink: 4 };
  // @ts-expect-error -- one of the two
  const both: DuoOptions = { sparsity: 0.5, threshold: 0.5 };
  expect([sparsity, threshold, both]).toHaveLength(3);
});
