import { readFileSync } from 'node:fs';

import { expect, test } from 'vitest';

import { abiVersion, JobState, Status } from '../../../src/ffi/native.ts';
import { symbols } from '../../../src/ffi/symbols.ts';

const header = readFileSync(new URL('../../../cpp/abi/llama-duo-abi.h', import.meta.url), 'utf8').replaceAll(/\/\/.*$/gm, '');

/** The header's functions: name to parameter types, in C's words. */
function declared(): Record<string, string[]> {
  const functions = header.matchAll(/LLAMA_DUO_API\s+int32_t\s+(\w+)\s*\(([^)]*)\)\s*;/g);
  return Object.fromEntries(
    [...functions].map(([, name = '', list = '']) => [name, list.trim() === 'void' ? [] : list.split(',').map(type)]),
  );
}

/** `const void * json` is `const void *`. */
function type(parameter: string): string {
  return parameter
    .trim()
    .replace(/\s*\w+$/, '')
    .replace(/\s*\*/, ' *');
}

function enumeration(name: string): Record<string, number> {
  const body = new RegExp(`enum ${name} \\{([^}]*)\\}`).exec(header)?.[1] ?? '';
  return Object.fromEntries([...body.matchAll(/(\w+)\s*=\s*(-?\d+)/g)].map(([, key = '', value]) => [key, Number(value)]));
}

test('the table of symbols is the header, name by name and type by type', () => {
  expect(symbols).toEqual(declared());
});

test('every exported function is declared with one macro and returns int32_t', () => {
  expect(header.match(/LLAMA_DUO_API\s+int32_t/g)).toHaveLength(Object.keys(symbols).length);
  expect(header.match(/^LLAMA_DUO_API/gm)).toHaveLength(Object.keys(symbols).length);
});

test('constants are the header’s', () => {
  expect(header).toContain(`#define LLAMA_DUO_ABI_VERSION ${abiVersion}`);
  const { ok, argument, handle, space, state, internal, limit } = Status;
  expect(enumeration('llama_duo_status')).toEqual({
    LLAMA_DUO_OK: ok,
    LLAMA_DUO_E_ARGUMENT: argument,
    LLAMA_DUO_E_HANDLE: handle,
    LLAMA_DUO_E_SPACE: space,
    LLAMA_DUO_E_STATE: state,
    LLAMA_DUO_E_INTERNAL: internal,
    LLAMA_DUO_E_LIMIT: limit,
  });
  const { queued, running, done, failed, cancelled } = JobState;
  expect(enumeration('llama_duo_job_state')).toEqual({
    LLAMA_DUO_JOB_QUEUED: queued,
    LLAMA_DUO_JOB_RUNNING: running,
    LLAMA_DUO_JOB_DONE: done,
    LLAMA_DUO_JOB_FAILED: failed,
    LLAMA_DUO_JOB_CANCELLED: cancelled,
  });
});
