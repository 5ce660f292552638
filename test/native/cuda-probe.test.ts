import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';

import { cudaVersion } from '../../scripts/debian-root.mjs';
import { describeCuda } from '../../scripts/packages.mjs';
import { root } from '../../scripts/places.mjs';
import { whyNotCuda } from '../../src/ffi/cuda.ts';
import { findLibrary } from '../../src/ffi/library.ts';
import type { PlatformPackage } from '../../src/ffi/packages.ts';

// The probe itself, with a driver that says what a test wants: no GPU is needed.
const build = join(root, 'build');
const probe = join(build, 'cuda-probe');

/** What the CUDA package of linux-x64 says of itself. */
const cuda = { probe, ...describeCuda(cudaVersion) };

let library: string;
let empty: string;
beforeAll(async () => {
  library = (await findLibrary()).path;
  empty = mkdtempSync(join(tmpdir(), 'llama-duo-no-driver-'));
});
afterAll(() => {
  vi.unstubAllEnvs();
  rmSync(empty, { recursive: true });
});

async function why(environment: Record<string, string>, changes: Partial<PlatformPackage> = {}): Promise<string | undefined> {
  vi.unstubAllEnvs();
  vi.stubEnv('LD_LIBRARY_PATH', join(build, 'fake-driver'));
  for (const [name, value] of Object.entries(environment)) vi.stubEnv(name, value);
  return whyNotCuda({ library, buildId: '', glibc: '2.31', cuda, ...changes });
}

describe.runIf(process.platform === 'linux' && existsSync(probe))('the probe', () => {
  test.each(['8.0', '8.6', '8.7', '8.9', '9.0', '12.0', '12.0,9.0'])('takes GPUs of compute capability %s', async (devices) => {
    expect(await why({ FAKE_CUDA_DRIVER: '13000', FAKE_CUDA_DEVICES: devices })).toBeUndefined();
  });

  test('no driver', async () => {
    const hidden = execFileSync(probe, [library], { encoding: 'utf8', env: { LD_LIBRARY_PATH: empty } });
    if (hidden.includes('"driver"')) return; // this computer has one
    expect(await why({ LD_LIBRARY_PATH: empty })).toMatch(
      /^There is no NVIDIA driver that works: its library cannot be loaded: libcuda\.so\.1/,
    );
  });

  test('a driver that is too old', async () => {
    expect(await why({ FAKE_CUDA_DRIVER: '12090', FAKE_CUDA_DEVICES: '8.0' })).toBe(
      'The NVIDIA driver supports CUDA 12.9, and the package needs 13.0: install a newer driver.',
    );
  });

  test('a GPU that is too old, and one beside it that is not', async () => {
    expect(await why({ FAKE_CUDA_DRIVER: '13000', FAKE_CUDA_DEVICES: '7.5' })).toBe(
      'Fake "0" has compute capability 7.5, and the package needs 8.0 or later.',
    );
    expect(await why({ FAKE_CUDA_DRIVER: '13000', FAKE_CUDA_DEVICES: '9.0,6.1' })).toMatch(
      /Fake "1".*6\.1.*Hide that GPU with CUDA_VISIBLE_DEVICES\.$/,
    );
  });

  test('a GPU that the driver must compile for', async () => {
    expect(await why({ FAKE_CUDA_DRIVER: '13000', FAKE_CUDA_DEVICES: '10.0' })).toBeUndefined();
    expect(await why({ FAKE_CUDA_DRIVER: '13000', FAKE_CUDA_DEVICES: '10.0' }, { cuda: { ...cuda, toolkit: 13010 } })).toMatch(
      /10\.0, for which the driver must compile.*needs CUDA 13\.1 for that, not 13\.0/,
    );
  });

  test('no GPU', async () => {
    expect(await why({ FAKE_CUDA_DRIVER: '13000' })).toMatch(/sees no GPU \(CUDA_VISIBLE_DEVICES may hide them\)/);
  });

  test('a driver that does not start', async () => {
    expect(await why({ FAKE_CUDA_DRIVER: '13000', FAKE_CUDA: 'broken' })).toMatch(
      /is there, but it does not start: system has unsupported display driver/,
    );
  });

  test('a driver that crashes ends the probe alone', async () => {
    expect(await why({ FAKE_CUDA_DRIVER: '13000', FAKE_CUDA: 'crash' })).toMatch(/it was ended by SIGABRT, as where a driver crashes/);
  });

  test('a library that cannot be loaded, as without cuBLAS', async () => {
    expect(await why({ FAKE_CUDA_DRIVER: '13000', FAKE_CUDA_DEVICES: '9.0' }, { library: '/nowhere/lib.so' })).toMatch(
      /the package's library cannot be loaded: \/nowhere\/lib\.so/,
    );
  });

  test('a probe that is not there', async () => {
    expect(await why({}, { cuda: { ...cuda, probe: '/nowhere/probe' } })).toMatch(/The probe \/nowhere\/probe failed: .*ENOENT/);
  });
});
