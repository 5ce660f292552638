import { basename } from 'node:path';

import type { TopLevelSpec } from 'vega-lite';

import { rowTypes } from '../core/cache-types.ts';
import { preparePictures, writePictures } from '../eval/pictures.ts';
import { GatesError, readGates, type CacheType, type DuoOptions, type FinerLayers, type Model, type PlanOptions } from '../index.ts';
import type { Command } from './command.ts';
import { contextFlags, duoOptions, loadGiven, planOptions } from './context-flags.ts';
import { parseFlags, type Flags } from './flags.ts';
import { formatBytes, formatCount, formatRange, print, printJson } from './output.ts';
import { resolveUserPath } from './paths.ts';
import { heading, table } from './table.ts';
import { tradeOffPicture } from './trade-off-picture.ts';
import { budgetsOfCurve, budgetsOfTable, tradeOffs, type TradeOff } from './trade-off.ts';
import { warn } from './warnings.ts';

const flags = {
  ...contextFlags,
  plot: { names: ['--plot'], kind: 'path', value: 'FOLDER', help: 'draw what the model is expected to lose against KV bytes (SVG)' },
  json: { names: ['--json'], kind: 'switch', help: 'print one JSON object and nothing else' },
} as const satisfies Flags;

export const inspect: Command = {
  summary: 'Tells whether a model can have mixed heads, and what contexts cost.',
  usage: 'inspect -m MODEL [--duo-gates FILE] [flags]',
  flags,
  async run(args, signal) {
    const given = parseFlags(args, flags);
    const plan = planOptions(given);
    const duo = duoOptions(given);
    const folder = given.plot === undefined ? undefined : resolveUserPath(given.plot);
    if (folder !== undefined) await preparePictures(folder, { png: false });
    // Nothing is computed, so no weights are needed.
    await using model = await loadGiven(given, { weights: false, signal });
    if (plan.contextSize !== undefined) warn((await model.planContext(plan)).warnings);
    const report = await inspectModel(model, plan, duo);
    const picture = folder === undefined ? undefined : await pictureOf(model, plan, duo);
    await (given.json ? printJson(report) : print(render(report)));
    if (folder !== undefined && picture) await writePictures(folder, { 'trade-off': picture }, { png: false });
  },
};

/** Context sizes to show, in tokens. */
const contextSizes = [4096, 16384, 65536, 262144, 1048576];
/** Sizes of the computed batch to show. */
const ubatchSizes = [64, 128, 256, 512, 1024, 2048];

type ContextCost = {
  contextSize: number;
  fullBytes: number;
  /** With the heads that were asked for; with half of them streaming where nothing was asked for. null: the budget is too small. */
  mixedBytes: number | null;
  streamingBytes: number;
};

type RingCost = { ubatchSize: number; cells: number; streamingBytes: number };

type Report = {
  model: Pick<
    Model['info'],
    'description' | 'architecture' | 'path' | 'sizeBytes' | 'parameters' | 'layers' | 'trainedContextSize' | 'headSizeK' | 'headSizeV'
  > & {
    heads: string;
    kvHeads: string;
    kvHeadsTotal: number;
    /** KV heads that a pattern chooses from. */
    gatedHeads: number;
    /** Layers that attend, those of them whose heads have gates. */
    attendingLayers: number;
    gatedLayers: number;
  };
  mixedHeads: { supported: boolean; reason: string | null };
  heads: { retrieval: number; streaming: number } | null;
  window: { sink: number; recent: number; windowStep: number } | null;
  /** Heads of layers with the model's own sliding windows, and the cells of each: no gates apply to them. */
  slidingWindows: { heads: number; cells: number; bytes: number } | null;
  /** Bytes of recurrent layers' states, whatever the context. */
  recurrentBytes: number;
  contexts: ContextCost[];
  /** What a context of this size can be had for; empty where there are no gates. */
  tradeOffs: { contextSize: number; choices: TradeOff[] };
  rings: RingCost[];
};

async function inspectModel(model: Model, plan: PlanOptions, duo: DuoOptions | undefined): Promise<Report> {
  // Every head streaming needs no gates.
  const { supported, reason, kv } = await model.planContext({ ...plan, duo: duo ?? { sparsity: 1 } });
  const none = {
    heads: null,
    window: null,
    slidingWindows: null,
    recurrentBytes: 0,
    contexts: [],
    tradeOffs: { contextSize: 0, choices: [] },
    rings: [],
  };
  const report = { model: modelFacts(model), mixedHeads: { supported, reason }, ...none };
  if (!supported) return report;
  const window = { sink: kv.sink, recent: kv.recent, windowStep: kv.windowStep };
  const streaming = duo ? { ...duo, sparsity: 1, threshold: undefined, budget: undefined } : { sparsity: 1, ...window };
  return {
    ...report,
    heads: duo ? { retrieval: kv.retrievalHeads, streaming: kv.streamingHeads } : null,
    window,
    slidingWindows: kv.windowedHeads > 0 ? { heads: kv.windowedHeads, cells: kv.windowedCells, bytes: kv.windowedBytes } : null,
    recurrentBytes: kv.recurrentBytes,
    contexts: await contextCosts(model, plan, duo, streaming),
    tradeOffs: await tradeOffsOf(model, plan, duo),
    rings: await ringCosts(model, plan, duo ?? streaming),
  };
}

function modelFacts({ info }: Model): Report['model'] {
  const { description, architecture, path, sizeBytes, parameters, layers, trainedContextSize, headSizeK, headSizeV } = info;
  const plain = { description, architecture, path, sizeBytes, parameters, layers, trainedContextSize, headSizeK, headSizeV };
  return {
    ...plain,
    heads: formatRange(info.heads.filter(isSome)),
    kvHeads: formatRange(info.kvHeads.filter(isSome)),
    kvHeadsTotal: total(info.kvHeads),
    gatedHeads: total(info.gatedHeads),
    attendingLayers: info.kvHeads.filter(isSome).length,
    gatedLayers: info.gatedHeads.filter(isSome).length,
  };
}

const isSome = (count: number): boolean => count > 0;
const total = (counts: readonly number[]): number => counts.reduce((sum, count) => sum + count, 0);

async function contextCosts(model: Model, plan: PlanOptions, duo: DuoOptions | undefined, streaming: DuoOptions): Promise<ContextCost[]> {
  const { contextSize: asked } = plan;
  const sizes = new Set(
    asked === undefined ? contextSizes : [...contextSizes, typeof asked === 'number' ? asked : model.info.trainedContextSize],
  );
  const costs: ContextCost[] = [];
  for (const contextSize of [...sizes].sort((a, b) => a - b)) {
    const { kv: allStream } = await model.planContext({ ...plan, contextSize, duo: streaming });
    if (!allStream) continue;
    const { fullBytes, totalBytes: streamingBytes } = allStream;
    const mixedBytes = duo ? await bytesOf(model, { ...plan, contextSize }, duo) : (fullBytes + streamingBytes) / 2;
    costs.push({ contextSize, fullBytes, mixedBytes, streamingBytes });
  }
  return costs;
}

/** null: there is nothing that a budget could choose for so large a context. */
async function bytesOf(model: Model, plan: PlanOptions, duo: DuoOptions): Promise<number | null> {
  try {
    return (await model.planContext({ ...plan, duo })).kv?.totalBytes ?? null;
  } catch (error) {
    if (error instanceof GatesError && duo.budget !== undefined) return null;
    throw error;
  }
}

/** Of the context that is asked for, or of the largest that the model was trained for. */
async function tradeOffsOf(
  model: Model,
  plan: PlanOptions,
  duo: DuoOptions | undefined,
  budgets = budgetsOfTable,
): Promise<Report['tradeOffs']> {
  const contextSize = typeof plan.contextSize === 'number' ? plan.contextSize : model.info.trainedContextSize;
  const { gates: given = 'auto', sink, recent } = duo ?? {};
  const gates = given === 'auto' ? model.gates : typeof given === 'string' ? await readGates(given) : undefined;
  return { contextSize, choices: gates ? await tradeOffs(model, { ...plan, contextSize }, gates, { sink, recent }, budgets) : [] };
}

/** @throws GatesError where no losses are known */
async function pictureOf(model: Model, plan: PlanOptions, duo: DuoOptions | undefined): Promise<TopLevelSpec> {
  const { contextSize, choices } = await tradeOffsOf(model, plan, duo, budgetsOfCurve);
  const measured = choices.flatMap(({ expectedLoss, ...choice }) => (expectedLoss === null ? [] : [{ ...choice, expectedLoss }]));
  if (measured.length > 0) return tradeOffPicture(contextSize, measured);
  const file = basename(model.info.path);
  throw new GatesError(`--plot draws losses, and no gates of ${file} have any that were measured: find them with llama-duo calibrate.`);
}

async function ringCosts(model: Model, plan: PlanOptions, duo: DuoOptions): Promise<RingCost[]> {
  const costs: RingCost[] = [];
  for (const ubatchSize of ubatchSizes) {
    // A batch is computed in pieces of ubatchSize, so it has to be as large.
    const batchSize = Math.max(ubatchSize, plan.batchSize ?? 2048);
    const { kv } = await model.planContext({ ...plan, ubatchSize, batchSize, duo });
    if (kv) costs.push({ ubatchSize, cells: kv.streamingCells, streamingBytes: kv.streamingBytes });
  }
  return costs;
}

function layersInWords({ layers, attendingLayers }: Report['model']): string {
  return attendingLayers === layers ? formatCount(layers) : `${formatCount(layers)}, of which ${formatCount(attendingLayers)} attend`;
}

function gatesInWords({ gatedHeads, kvHeadsTotal, gatedLayers, layers }: Report['model']): string {
  const where = gatedLayers < layers ? `, in ${formatCount(gatedLayers)} layers that see the whole context` : '';
  return gatedHeads === kvHeadsTotal ? `all${where}` : `${formatCount(gatedHeads)}${where}`;
}

function finerInWords(typeK: CacheType, { type, layers }: FinerLayers): string {
  return `  ${typeK}+${type}: K rows of layer${layers.length === 1 ? '' : 's'} ${layers.join(', ')} are ${type}, the others' ${typeK}`;
}

function lossInWords({ expectedLoss, breaks }: TradeOff): string {
  const loss = expectedLoss === null ? 'not measured' : expectedLoss.toPrecision(3);
  return breaks === null ? loss : `${loss}, breaks the model: keeps ${(100 * breaks).toFixed(0)}% of answers`;
}

function render(report: Report): string {
  const { model, mixedHeads, heads, window, slidingWindows } = report;
  const facts = [
    ['architecture', model.architecture],
    ['layers', layersInWords(model)],
    ['heads per layer', `${model.heads} for queries, ${model.kvHeads} for keys and values (${formatCount(model.kvHeadsTotal)} in all)`],
    ['heads with gates', gatesInWords(model)],
    ['head size', model.headSizeK === model.headSizeV ? String(model.headSizeK) : `${model.headSizeK} (K), ${model.headSizeV} (V)`],
    ['trained context', `${formatCount(model.trainedContextSize)} tokens`],
    ['mixed heads', mixedHeads.supported ? 'yes' : `no: ${mixedHeads.reason ?? ''}`],
  ];
  if (heads) facts.push(['chosen', `${formatCount(heads.retrieval)} keep the whole cache, ${formatCount(heads.streaming)} stream`]);
  if (window)
    facts.push(['streaming heads see', `${window.sink} first and ${window.recent} recent keys, in steps of ${window.windowStep}`]);
  if (slidingWindows) {
    const { heads: count, cells, bytes } = slidingWindows;
    facts.push([
      'sliding windows',
      `${formatCount(count)} heads have the model's own, ${formatCount(cells)} cells each: ${formatBytes(bytes)}`,
    ]);
  }
  if (report.recurrentBytes > 0) facts.push(['recurrent states', `${formatBytes(report.recurrentBytes)}, whatever the context`]);
  const sections = [`${heading(model.description)}\n${facts.map(([name = '', fact = '']) => `  ${name.padEnd(21)}${fact}`).join('\n')}`];
  if (report.contexts.length > 0) {
    const rows = report.contexts.map((cost) => [
      formatCount(cost.contextSize),
      formatBytes(cost.fullBytes),
      cost.mixedBytes === null ? 'too small a budget' : formatBytes(cost.mixedBytes),
      formatBytes(cost.streamingBytes),
    ]);
    const mixed = heads ? 'mixed' : 'half of the heads stream';
    sections.push(`${heading('KV cache')}\n${table(['context', 'full', mixed, 'all stream'], rows)}`);
  }
  const { contextSize, choices } = report.tradeOffs;
  if (choices.length > 0) {
    const rows = choices.map((row) => [
      row.choice,
      formatBytes(row.bytes),
      `${(100 * row.share).toFixed(0)}%`,
      rowTypes(row.typeK, row.typeV, row.finerK?.type ?? null),
      `${row.retrievalHeads} + ${row.streamingHeads}`,
      lossInWords(row),
    ]);
    const title = heading(`What ${formatCount(contextSize)} tokens can be had for`);
    const notes = [...new Set(choices.flatMap(({ typeK, finerK }) => (finerK ? [finerInWords(typeK, finerK)] : [])))];
    const choiceTable = table(['choice', 'KV cache', 'of f16', 'K/V', 'full + windowed heads', 'expected loss'], rows);
    sections.push([title, choiceTable, ...notes].join('\n'));
  }
  if (report.rings.length > 0) {
    const rows = report.rings.map((ring) => [formatCount(ring.ubatchSize), formatCount(ring.cells), formatBytes(ring.streamingBytes)]);
    const which = heads ? 'the streaming heads' : 'all heads, streaming';
    sections.push(`${heading('Rings by batch size')}\n${table(['-ub', 'cells per head', which], rows)}`);
  }
  return `${sections.join('\n\n')}\n`;
}
