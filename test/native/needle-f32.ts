import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { writeInF32 } from '../gguf.ts';
import { needleGates, needlePath } from './needle-model.ts';

/** models/needle.gguf in F32, with its gates beside it, in a folder of its own. */
export function needleInF32(): { path: string; remove: () => void } {
  const folder = mkdtempSync(join(tmpdir(), 'llama-duo-f32-'));
  const path = join(folder, 'needle.gguf');
  writeInF32(needlePath, path);
  copyFileSync(needleGates, join(folder, 'needle.duo.json'));
  return {
    path,
    remove: () => {
      rmSync(folder, { recursive: true });
    },
  };
}
