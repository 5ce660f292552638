import { describe, expect, test } from 'vitest';

import { cudaVersion } from '../../scripts/debian-root.mjs';
import { describeCuda } from '../../scripts/packages.mjs';

describe('what the CUDA package says of itself', () => {
  test('is what its preset compiles it for', () => {
    expect(describeCuda(cudaVersion)).toEqual({ oldestDriver: 13000, toolkit: 13000, architectures: [80, 86, 89, 90, 120], ptx: 80 });
  });

  test('names the major version of CUDA that a driver needs, and the oldest GPU that a driver can compile for', () => {
    expect(describeCuda('12.8', '75-real;90a-real;90-virtual;75-virtual')).toEqual({
      oldestDriver: 12000,
      toolkit: 12080,
      architectures: [75, 90],
      ptx: 75,
    });
  });
});
