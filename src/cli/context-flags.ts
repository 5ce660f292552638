import { cacheTypes, type PlanOptions } from '../core/context.ts';
import type { DuoOptions } from '../core/duo.ts';
import { UsageError, type Flags, type Given } from './flags.ts';
import { resolveUserPath } from './paths.ts';

/** The flags that say which model, how large a context and which heads stream: the same for every command, named as llama.cpp names them. */
export const contextFlags = {
  model: { names: ['-m', '--model'], kind: 'path', value: 'FILE', help: 'the GGUF model' },
  gpuLayers: {
    names: ['-ngl', '--gpu-layers', '--n-gpu-layers'],
    kind: 'text',
    value: 'N',
    help: 'layers on the GPU: a number or all; auto means all (default: all)',
  },
  contextSize: {
    names: ['-c', '--ctx-size'],
    kind: 'integer',
    min: 0,
    value: 'N',
    help: 'tokens that the context holds; 0: as many as the model was trained for (default: 0)',
  },
  batchSize: { names: ['-b', '--batch-size'], kind: 'integer', min: 1, value: 'N', help: 'tokens submitted at once' },
  ubatchSize: { names: ['-ub', '--ubatch-size'], kind: 'integer', min: 1, value: 'N', help: 'tokens computed at once' },
  threads: { names: ['-t', '--threads'], kind: 'integer', min: 1, value: 'N', help: 'CPU threads' },
  threadsBatch: { names: ['-tb', '--threads-batch'], kind: 'integer', min: 1, value: 'N', help: 'CPU threads while the prompt is read' },
  typeK: { names: ['-ctk', '--cache-type-k'], kind: 'text', value: 'TYPE', help: 'type of the cache for K (default: f16)' },
  typeV: { names: ['-ctv', '--cache-type-v'], kind: 'text', value: 'TYPE', help: 'type of the cache for V (default: f16)' },
  flashAttention: { names: ['-fa', '--flash-attn'], kind: 'text', value: 'WHEN', help: 'flash attention: auto, on or off (default: auto)' },
  duoGates: {
    names: ['--duo-gates'],
    kind: 'path',
    value: 'FILE|auto',
    help: "gate pattern: DuoAttention folder, TSV, JSON or GGUF; auto: the model's own",
  },
  duoSparsity: {
    names: ['--duo-sparsity'],
    kind: 'number',
    min: 0,
    max: 1,
    value: 'S',
    help: 'share of KV heads that stream, 0 to 1 (default: 0.5)',
  },
  duoThreshold: {
    names: ['--duo-threshold'],
    kind: 'number',
    min: 0,
    value: 'T',
    help: 'a head with at least this gate keeps its whole cache',
  },
  duoSink: {
    names: ['--duo-sink'],
    kind: 'integer',
    min: 0,
    value: 'N',
    help: 'first keys that streaming heads see (default: as in the gates, else 64)',
  },
  duoRecent: {
    names: ['--duo-recent'],
    kind: 'integer',
    min: 0,
    value: 'N',
    help: 'recent keys that streaming heads see (default: as in the gates, else 256)',
  },
  duoChunk: {
    names: ['--duo-chunk'],
    kind: 'integer',
    min: 1,
    value: 'N',
    help: "streaming heads' window of recent keys moves in steps of N positions, so they see up to N - 1 more (default: 1)",
  },
} as const satisfies Flags;

type ContextFlags = Given<typeof contextFlags>;

/** The model's path. */
export function modelPath(given: Pick<ContextFlags, 'model'>): string {
  if (given.model === undefined) throw new UsageError('Which model? Give a GGUF file with -m FILE.');
  return resolveUserPath(given.model);
}

/** The model as `loadModel` takes it. */
export function modelOptions(given: Pick<ContextFlags, 'model' | 'gpuLayers'>): { path: string; gpuLayers: number | undefined } {
  return { path: modelPath(given), gpuLayers: gpuLayersOf(given.gpuLayers) };
}

function gpuLayersOf(text: string | undefined): number | undefined {
  if (text === undefined || text === 'auto') return undefined;
  const layers = text === 'all' || text === '-1' ? -1 : /^\d+$/.test(text) ? Number(text) : NaN;
  if (!Number.isSafeInteger(layers)) throw new UsageError(`-ngl needs a number of layers, all or auto, got ${JSON.stringify(text)}.`);
  return layers;
}

/** How work is split: of a command that chooses the context's size and types itself. */
export function workOptions(given: Pick<ContextFlags, 'batchSize' | 'ubatchSize' | 'threads' | 'threadsBatch'>): PlanOptions {
  const { batchSize, ubatchSize, threads, threadsBatch } = given;
  return { batchSize, ubatchSize, threads, threadsBatch };
}

/** The context without mixed heads. */
export function planOptions(given: ContextFlags): PlanOptions {
  const { contextSize } = given;
  const typeK = oneOf('-ctk', given.typeK, cacheTypes);
  const typeV = oneOf('-ctv', given.typeV, cacheTypes);
  const flashAttention = oneOf('-fa', given.flashAttention, ['auto', 'on', 'off']);
  return { ...workOptions(given), contextSize, typeK, typeV, flashAttention };
}

/**
 * The mixed heads that are asked for; any --duo flag asks for them.
 *
 * @throws UsageError where sparsity and threshold are both given, or gates are wanted and none are named
 */
export function duoOptions(given: ContextFlags): DuoOptions | undefined {
  const { duoGates, duoSparsity: sparsity, duoThreshold: threshold, duoSink: sink, duoRecent: recent, duoChunk: chunk } = given;
  const asked = [duoGates, sparsity, threshold, sink, recent, chunk].some((value) => value !== undefined);
  if (!asked) return undefined;
  if (sparsity !== undefined && threshold !== undefined) throw new UsageError('Give --duo-sparsity or --duo-threshold, not both.');
  if (duoGates === undefined && sparsity !== 0 && sparsity !== 1) {
    throw new UsageError(
      'Which heads stream? Name a gate pattern with --duo-gates FILE, or take the one of the model with --duo-gates auto. ' +
        'Only --duo-sparsity 0 (every head keeps all) and 1 (every head streams) need none.',
    );
  }
  const gates = duoGates === undefined || duoGates === 'auto' ? duoGates : resolveUserPath(duoGates);
  const choice = threshold === undefined ? { sparsity } : { threshold };
  return { ...choice, gates, sink, recent, chunk };
}

function oneOf<const T extends string>(flag: string, value: string | undefined, choices: readonly T[]): T | undefined {
  const known = choices.find((choice) => choice === value);
  if (value !== undefined && known === undefined)
    throw new UsageError(`${flag} needs one of ${choices.join(', ')}, got ${JSON.stringify(value)}.`);
  return known;
}
