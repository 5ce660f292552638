import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { faults } from '../../scripts/native-checks.mjs';
import { capture } from '../../scripts/tools.mjs';

describe.runIf(process.platform === 'linux')('a library that a package cannot hold', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'llama-duo-checks-'));
    writeFileSync(join(folder, 'cublas.c'), 'int cublas(void) { return 0; }');
    writeFileSync(join(folder, 'library.c'), 'int cublas(void); int llama_duo_call(void) { return cublas(); }');
    capture('cc', ['-shared', '-fPIC', '-Wl,-soname,libcublas.so.13', '-o', 'libcublas.so.13', 'cublas.c'], { cwd: folder });
  });
  afterAll(() => {
    rmSync(folder, { recursive: true });
  });

  const library = (...options: string[]): string => {
    capture('cc', ['-shared', '-fPIC', '-o', 'library.so', 'library.c', './libcublas.so.13', ...options], { cwd: folder });
    return join(folder, 'library.so');
  };

  test('one that needs cuBLAS, unless it is the CUDA package’s', () => {
    const file = library();
    expect(faults(file, { glibc: '2.31', library: true }).join()).toMatch(/it needs libcublas\.so\.13, which not every system has/);
    expect(faults(file, { glibc: '2.31', library: true, cuda: true })).toEqual([]);
  });

  test('one that looks into folders of the computer that built it', () => {
    expect(faults(library('-Wl,-rpath,/opt/cuda/lib'), { glibc: '2.31', library: true, cuda: true })).toEqual([
      'it looks for libraries in /opt/cuda/lib',
    ]);
  });
});
