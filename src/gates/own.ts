import { existsSync } from 'node:fs';

import { readGates, type GatePattern } from './pattern.ts';
import type { Model } from '../core/model.ts';

/** The GGUF key of gates within a model, and the end of the name of a file with them beside it; as cpp/memory/duo-config.cpp looks for `auto`. */
const metadataKey = 'llama_duo.pattern';
const sidecarEnd = '.duo.json';

/** Where the gates beside a model would be: `model.duo.json` for `model.gguf`. */
export function sidecarPath(modelPath: string): string {
  return modelPath.replace(/\.[^./\\]*$/, '') + sidecarEnd;
}

/** A model's own gates, from its metadata or beside it; undefined where it has none. */
export async function modelGates({ info }: Model): Promise<GatePattern | undefined> {
  const embedded = info.metadata[metadataKey];
  if (embedded !== undefined) return readGates({ text: embedded, source: `the model's metadata key ${metadataKey}` });
  const sidecar = sidecarPath(info.path);
  return existsSync(sidecar) ? readGates(sidecar) : undefined;
}
