import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { root, runtimePrograms, testModel } from '../../scripts/places.mjs';

/** The model that these tests run on: SmolLM2-135M-Instruct, 30 layers of 3 KV heads. */
export const modelPath = process.env['LLAMA_DUO_TEST_MODEL'] ?? testModel;
if (!existsSync(modelPath))
  throw new Error(`${modelPath} is missing. "npm run test:model" fetches it; LLAMA_DUO_TEST_MODEL names another place.`);

/** Two threads: more than the smallest machine that runs these tests has would crawl. */
export const threads = 2;

/** Gates that make a head stream if the sum of its layer and its place is odd: half of the heads, spread over all layers. */
export function chequered(layers: number, kvHeads: number): number[][] {
  return Array.from({ length: layers }, (_, layer) => Array.from({ length: kvHeads }, (_, head) => ((layer + head) % 2 === 0 ? 0.9 : 0.1)));
}

/** A pattern's file content. */
export function patternOf(gates: number[][]): string {
  return JSON.stringify({ llamaDuoPattern: 1, layers: gates.length, kvHeads: gates[0]?.length ?? 0, sink: 16, recent: 64, gates });
}

/** Text of many words that do not repeat in short cycles. */
export function longText(sentences: number): string {
  const who = ['The baker', 'A sailor', 'My aunt', 'The clerk', 'Some child', 'An engineer', 'The gardener'];
  const did = ['painted', 'lost', 'repaired', 'bought', 'described', 'measured', 'carried', 'forgot', 'found', 'drew', 'sold'];
  const what = ['a lamp', 'the boat', 'two maps', 'an old clock', 'the red door', 'a violin', 'seven letters', 'the bridge', 'a kite'];
  const pick = (list: string[], index: number): string => list[index % list.length] ?? '';
  const sentence = (index: number): string => `${pick(who, index)} ${pick(did, index)} ${pick(what, index)} on day ${index}.`;
  return Array.from({ length: sentences }, (_, index) => sentence(index)).join(' ');
}

/** The compiled package: Node 20 cannot run the sources as they are. */
export const dist = join(root, 'dist');

/** What starts a script on each runtime. */
export const runtimes: Record<string, string[]> = {
  node: [runtimePrograms.node24],
  bun: [runtimePrograms.bun],
  deno: [runtimePrograms.deno, 'run', '-A'],
};
if (!process.versions['bun'] && !('Deno' in globalThis)) runtimes[`node ${process.versions.node}`] = [process.execPath];
