import { describe, expect, test } from 'vitest';

import { DisposedError, LimitError, LlamaDuoError, ModelError, OptionError } from '../../../src/errors.ts';
import { decode, Status } from '../../../src/ffi/native.ts';
import { FakeLibrary, write } from '../fake-library.ts';

describe('what crosses is checked first', () => {
  const { native } = new FakeLibrary();
  test.each([NaN, 1.5, -1, 2 ** 32, Infinity, '1', null, undefined, 1n])('a handle of %s', (handle) => {
    expect(() => native.jobPoll(handle as number)).toThrow(OptionError);
  });
  test.each([NaN, 1.5, -1, 2 ** 31])('a timeout of %s', (timeout) => {
    expect(() => {
      native.shutdown(timeout);
    }).toThrow(/timeoutMs: expected an integer from 0 to 2147483647, got/);
  });
  test.each([new Uint8Array(4), [1, 2], 'tokens', new Float64Array(2), null])('tokens that are no Int32Array: %s', (tokens) => {
    expect(() => native.detokenize(1, tokens as unknown as Int32Array, 0)).toThrow(/Bad value for tokens: expected Int32Array/);
  });
  test('buffers that are too small to drain into', () => {
    expect(() => native.jobDrain(1, new Int32Array(15), new Uint8Array(4096))).toThrow(/at least 16/);
    expect(() => native.jobDrain(1, new Int32Array(16), new Uint8Array(4095))).toThrow(/at least 4096/);
  });
  test('options that are no text', () => {
    expect(() => native.modelLoad({} as string)).toThrow(OptionError);
  });
});

test('empty arrays cross as null', () => {
  const crossed: unknown[] = [];
  const { native } = new FakeLibrary({
    llama_duo_tokenize: (_, text, length, __, ___, ____, needed) => {
      crossed.push(text, length);
      needed?.set([0]);
      return Status.ok;
    },
    llama_duo_detokenize: (_, tokens, count, __, ___, ____, needed) => {
      crossed.push(tokens, count);
      needed?.set([0]);
      return Status.ok;
    },
  });
  expect(native.tokenize(1, '', 0)).toEqual(new Int32Array());
  expect(native.detokenize(1, new Int32Array(), 0)).toEqual(new Uint8Array());
  expect(crossed).toEqual([null, 0, null, 0]);
});

test('a model without a vocabulary is no fault of the library', () => {
  const refuse = (): number => Status.state;
  const { native } = new FakeLibrary({ llama_duo_tokenize: refuse, llama_duo_tokenize_long: refuse, llama_duo_detokenize: refuse });
  expect(() => native.tokenize(1, 'a', 0)).toThrow(ModelError);
  expect(() => native.tokenizeLong(1, 'a', 0)).toThrow(ModelError);
  expect(() => native.detokenize(1, Int32Array.of(1), 0)).toThrow(ModelError);
});

test('text that does not fit the first buffer is read again', () => {
  const long = 'ä'.repeat(5000);
  const capacities: number[] = [];
  const { native } = new FakeLibrary({
    llama_duo_build_info: (buffer, capacity, needed) => {
      capacities.push(capacity);
      return write(long, buffer, capacity, needed);
    },
  });
  expect(native.buildInfo()).toBe(long);
  expect(capacities).toEqual([4096, 10000]);
});

test('text keeps a byte order mark and marks broken sequences', () => {
  expect(decode(Uint8Array.of(0xef, 0xbb, 0xbf, 0x61, 0xc3))).toBe('\ufeffa\ufffd');
});

test.each([
  [Status.handle, DisposedError, /has been disposed/],
  [Status.argument, LlamaDuoError, /bad argument.*bug in llama-duo/],
  [Status.state, LlamaDuoError, /not possible in this state/],
  [Status.internal, LlamaDuoError, /internal failure/],
  [Status.limit, LimitError, /dispose of those/],
])('status %i becomes a typed error', (status, type, message) => {
  const { native } = new FakeLibrary({ llama_duo_job_cancel: () => status });
  expect(() => {
    native.jobCancel(1);
  }).toThrow(type);
  expect(() => {
    native.jobCancel(1);
  }).toThrow(message);
});
