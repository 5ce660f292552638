// What a token and a prompt cost at contexts that nobody has measured: a cost model of the Llama-3-8B shape on one H100 (docs/scaling.md has it in words), held against every
// measured row that it was not fitted on.
//
//   node bench/scaling.mjs [--json]

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

import { root } from '../scripts/places.mjs';

/** @typedef {'f16' | 'q8_0' | 'q4_0'} CacheType
 *
 * @typedef {object} Row a measured row of bench/results/h100.json
 * @property {string} case
 * @property {number} depth
 * @property {CacheType} kv
 * @property {number} sparsity
 * @property {number} batch
 * @property {number} tokens
 * @property {number} duoMs
 *
 * @typedef {{ copyBytesPerSecond: number, rows: Row[] }} Measured
 */

/** Llama-3-8B's. */
export const shape = { layers: 32, heads: 32, headsKv: 8, headSize: 128, weightBytes: { q8_0: 8.5e9, q4_0: 4.5e9 } };
/** What the measured contexts' streaming heads see. */
const window = { sink: 64, recent: 256, ubatch: 2048 };
/** Bytes a value: blocks of 32 values and a scale of two bytes, but for f16.
 * @type {Readonly<Record<CacheType, number>>} */
const valueBytes = { f16: 2, q8_0: 34 / 32, q4_0: 18 / 32 };

/** Bytes that a context's KV cache takes and, but for what streaming heads have, that every token reads.
 * @param {CacheType} kv
 * @param {number} tokens
 * @param {number} sparsity the share of KV heads that stream
 */
export function cacheBytes(kv, tokens, sparsity) {
  const { layers, headsKv, headSize } = shape;
  const streaming = Math.min(tokens, window.sink + window.recent + window.ubatch);
  return 2 * layers * headsKv * headSize * valueBytes[kv] * ((1 - sparsity) * tokens + sparsity * streaming);
}

/** Operations of the attention of `tokens` that come after `depth` others: a product and a sum for each value of K, and the same for V.
 * @param {number} depth
 * @param {number} tokens
 * @param {number} sparsity
 */
export function attentionOperations(depth, tokens, sparsity) {
  const { layers, heads, headSize } = shape;
  const seen = depth + tokens / 2;
  // within a ubatch a streaming head computes with the keys of the whole ubatch
  const streaming = Math.min(seen, window.sink + window.recent + window.ubatch / 2);
  return 4 * layers * heads * headSize * tokens * ((1 - sparsity) * seen + sparsity * streaming);
}

/** The model: what it takes from measurements, and what it says of others.
 * @param {Measured} measured
 */
export function costModel({ copyBytesPerSecond, rows }) {
  /** @param {Partial<Row>} wanted */
  const ms = (wanted) => {
    const found = rows.find((row) => Object.entries(wanted).every(([key, value]) => row[/** @type {keyof Row} */ (key)] === value));
    if (!found) throw new Error(`h100.json has no row ${JSON.stringify(wanted)}`);
    return found.duoMs;
  };
  /** @param {CacheType} kv */
  const step = (kv) => ms({ case: 'decode', depth: 0, kv, sparsity: 0 });
  // What a step takes beyond an empty cache's and the reading of rows: kernels that are split and merged.
  const start =
    ms({ case: 'decode', depth: 131072, kv: 'q4_0', sparsity: 0.5 }) -
    step('q4_0') -
    (1e3 * cacheBytes('q4_0', 131072, 0.5)) / copyBytesPerSecond;
  /** @param {CacheType} kv */
  const prompt = (kv) => ms({ case: 'prefill4096', depth: 0, kv, sparsity: 0 }) / 4096;
  /** @param {CacheType} kv */
  const operationsPerMs = (kv) =>
    attentionOperations(65536, 4096, 0) / (ms({ case: 'prefill4096', depth: 65536, kv, sparsity: 0 }) - 4096 * prompt(kv));
  return {
    start,
    operationsPerMs,
    /** Milliseconds a token.
     * @param {CacheType} kv
     * @param {number} depth
     * @param {number} sparsity */
    decodeMs: (kv, depth, sparsity) => step(kv) + (depth > 0 ? start + (1e3 * cacheBytes(kv, depth, sparsity)) / copyBytesPerSecond : 0),
    /** Milliseconds for tokens that come after others.
     * @param {CacheType} kv
     * @param {number} depth
     * @param {number} tokens
     * @param {number} sparsity */
    prefillMs: (kv, depth, tokens, sparsity) => tokens * prompt(kv) + attentionOperations(depth, tokens, sparsity) / operationsPerMs(kv),
  };
}

/** Rows that the model is not made from, and what it says of them.
 * @param {Measured} measured */
export function predictions(measured) {
  const { decodeMs, prefillMs } = costModel(measured);
  const fitted = (/** @type {Row} */ { case: name, depth, sparsity, kv }) =>
    depth === 0 || (name === 'prefill4096' && sparsity === 0) || (depth === 131072 && kv === 'q4_0' && sparsity === 0.5);
  return measured.rows
    .filter((row) => row.batch === 1 && !fitted(row))
    .map((row) => {
      const { depth, kv, sparsity, tokens, duoMs } = row;
      const predicted = row.case === 'decode' ? decodeMs(kv, depth, sparsity) : prefillMs(kv, depth, tokens, sparsity);
      return { case: row.case, depth, kv, sparsity, measured: duoMs, predicted, error: predicted / duoMs - 1 };
    });
}

/** @returns {Measured} */
export function measurements() {
  return /** @type {Measured} */ (JSON.parse(readFileSync(join(root, 'bench/results/h100.json'), 'utf8')));
}

function main() {
  const { json = false } = parseArgs({ options: { json: { type: 'boolean' } } }).values;
  const measured = measurements();
  const checked = predictions(measured);
  const model = costModel(measured);
  const contexts = [131072, 1048576, 3300000, 4194304, 10e6, 100e6];
  const types = /** @type {const} */ (['f16', 'q8_0', 'q4_0']);
  const beyond = contexts.flatMap((tokens) =>
    types.map((kv) => ({
      tokens,
      kv,
      gib: cacheBytes(kv, tokens, 0.5) / 2 ** 30,
      decodeMs: model.decodeMs(kv, tokens, 0.5),
      prefillSeconds: model.prefillMs(kv, 0, tokens, 0.5) / 1e3,
      attentionShare: 1 - (tokens * model.prefillMs(kv, 0, 1, 0.5)) / model.prefillMs(kv, 0, tokens, 0.5),
    })),
  );
  if (json) console.log(JSON.stringify({ checked, beyond }, undefined, 2));
  else {
    console.table(checked.map(({ error, ...row }) => ({ ...row, 'error, %': Math.round(error * 1e3) / 10 })));
    console.table(beyond);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) main();
