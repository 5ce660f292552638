import { existsSync } from 'node:fs';

import type { ModelInfo } from '../core/model.ts';
import type { Native } from '../ffi/native.ts';
import type { GatePattern } from './pattern.ts';
import { readPattern } from './read.ts';

/** The GGUF key of gates within a model, and the end of the name of a file with them beside it; as cpp/memory/duo-config.cpp looks for `auto`. */
const metadataKey = 'llama_duo.pattern';
const sidecarEnd = '.duo.json';

/** Where the gates beside a model would be: `model.duo.json` for `model.gguf`, and for `model-00001-of-00003.gguf`. */
export function sidecarPath(modelPath: string): string {
  const name = modelPath.replace(/\.[^./\\]*$/, '');
  return name.replace(/-\d{5}-of-\d{5}$/, '') + sidecarEnd;
}

/** A model's own gates, from its metadata or beside it; undefined where it has none. */
export async function ownGates(native: Native, info: Pick<ModelInfo, 'metadata' | 'path'>): Promise<GatePattern | undefined> {
  const embedded = info.metadata[metadataKey];
  if (embedded !== undefined) return readPattern(native, { text: embedded, source: `the model's metadata key ${metadataKey}` });
  const sidecar = sidecarPath(info.path);
  return existsSync(sidecar) ? readPattern(native, { path: sidecar }) : undefined;
}
