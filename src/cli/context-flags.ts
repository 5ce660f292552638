import { duoTable, fetchTable, modelTable, planTable } from '../core/option-tables.ts';
import { loadModel, type DuoOptions, type Model, type ModelOptions, type PlanOptions } from '../index.ts';
import { flagOf, UsageError, type Flags, type Given } from './flags.ts';
import { resolveUserPath } from './paths.ts';

/** The flags that say which model, how large a context and which heads stream: the same for every command, named as llama.cpp names them. */
export const contextFlags = {
  model: { names: ['-m', '--model'], kind: 'path', value: 'FILE', help: 'the GGUF model; of a split model the first part' },
  gpuLayers: { ...flagOf(modelTable.gpuLayers), kind: 'text', help: 'layers on the GPU: a number or all; auto means all (default: all)' },
  contextSize: {
    ...flagOf(planTable.contextSize),
    kind: 'integer',
    min: 0,
    help: `tokens of one sequence; 0: as many as the model was trained for (default: ${planTable.contextSize.otherwise})`,
  },
  batchSize: flagOf(planTable.batchSize),
  ubatchSize: flagOf(planTable.ubatchSize),
  threads: flagOf(planTable.threads),
  threadsBatch: flagOf(planTable.threadsBatch),
  typeK: flagOf(planTable.typeK),
  typeV: flagOf(planTable.typeV),
  flashAttention: flagOf(planTable.flashAttention),
  duoGates: {
    ...flagOf(duoTable.gates),
    kind: 'path',
    help: "gate pattern: DuoAttention folder, TSV, JSON or GGUF; auto: the model's own (default with another --duo flag: auto)",
  },
  duoSparsity: flagOf(duoTable.sparsity),
  duoThreshold: flagOf(duoTable.threshold),
  duoBudget: flagOf(duoTable.budget),
  duoSink: flagOf(duoTable.sink),
  duoRecent: flagOf(duoTable.recent),
  duoWindowStep: flagOf(duoTable.windowStep),
} as const satisfies Flags;

type ContextFlags = Given<typeof contextFlags>;

/** The flags that say which model is meant where it may be elsewhere. */
export const sourceFlags = {
  model: contextFlags.model,
  modelRepo: {
    names: ['-hf', '-hfr', '--hf-repo'],
    kind: 'text',
    value: 'USER/MODEL[:QUANT]',
    help: 'a model of Hugging Face, downloaded once (default quantisation: Q4_K_M, else the first there is)',
  },
  modelFile: flagOf(fetchTable.file),
  modelUrl: { names: ['-mu', '--model-url'], kind: 'text', value: 'URL', help: 'a model of the web, downloaded once' },
  token: flagOf(fetchTable.token),
  offline: flagOf(fetchTable.offline),
} as const satisfies Flags;

type SourceFlags = Given<typeof sourceFlags>;

/** What `loadModel` takes: a path, a repository or a URL. */
export function modelSource({ model, modelRepo, modelUrl }: SourceFlags): string {
  const [source, ...others] = [model && resolveUserPath(model), modelRepo && `hf:${modelRepo}`, modelUrl].filter(
    (given) => given !== undefined,
  );
  if (source === undefined)
    throw new UsageError('Which model? Give a GGUF file with -m FILE, or one to download with -hf USER/MODEL or -mu URL.');
  if (others.length > 0) throw new UsageError('Give the model with -m, -hf or -mu, not with several of them.');
  return source;
}

/** Loads it, downloaded where it is not here. */
export function loadSource(given: SourceFlags & Pick<ContextFlags, 'gpuLayers'>, options: ModelOptions): Promise<Model> {
  const { modelFile: file, token, offline } = given;
  return loadModel(modelSource(given), { gpuLayers: gpuLayersOf(given), file, token, offline, ...options });
}

/** The model's path. */
export function modelPath(given: Pick<ContextFlags, 'model'>): string {
  if (given.model === undefined) throw new UsageError('Which model? Give a GGUF file with -m FILE.');
  return resolveUserPath(given.model);
}

/** Loads the model that is named. */
export function loadGiven(given: Pick<ContextFlags, 'model' | 'gpuLayers'>, options: ModelOptions): Promise<Model> {
  return loadModel(modelPath(given), { gpuLayers: gpuLayersOf(given), ...options });
}

/** The layers that go to the GPU; undefined: all. */
export function gpuLayersOf({ gpuLayers: text }: Pick<ContextFlags, 'gpuLayers'>): number | undefined {
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
  const { contextSize, typeK, typeV, flashAttention } = given;
  return { ...workOptions(given), contextSize: contextSize === 0 ? 'trained' : contextSize, typeK, typeV, flashAttention };
}

/**
 * The mixed heads that are asked for; any --duo flag asks for them.
 *
 * @throws UsageError where sparsity and threshold are both given
 */
export function duoOptions(given: ContextFlags): DuoOptions | undefined {
  const {
    duoGates,
    duoSparsity: sparsity,
    duoThreshold: threshold,
    duoBudget: budget,
    duoSink: sink,
    duoRecent: recent,
    duoWindowStep: windowStep,
  } = given;
  const asked = [duoGates, sparsity, threshold, budget, sink, recent, windowStep].some((value) => value !== undefined);
  if (!asked) return undefined;
  if (sparsity !== undefined && threshold !== undefined) throw new UsageError('Give --duo-sparsity or --duo-threshold, not both.');
  if (budget !== undefined && (sparsity !== undefined || threshold !== undefined))
    throw new UsageError('Give --duo-budget without --duo-sparsity and --duo-threshold: they are ways to choose heads.');
  const gates = duoGates === undefined || duoGates === 'auto' ? duoGates : resolveUserPath(duoGates);
  const choice = threshold === undefined ? { sparsity } : { threshold };
  return { ...choice, budget, gates, sink, recent, windowStep };
}
