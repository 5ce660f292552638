import type { TopLevelSpec } from 'vega-lite';

import type { GatePatternJson } from '../core/duo.ts';
import { rowTypes } from '../core/cache-types.ts';
import { config, writePictures } from './pictures.ts';
import type { Row } from './rows.ts';

/** What pictures are made of. */
export type Pictured = { rows: readonly Row[]; gates: GatePatternJson | undefined };

/**
 * Draws what there is to draw into a folder: `heat-map-TASK.svg` for tasks with depths, `accuracy-by-bytes.svg`, `gates.svg`.
 *
 * @param png whether to write each as PNG too
 * @returns the paths of the files
 * @throws EvaluationError, OutputError as {@link preparePictures} does
 */
export function writePlots(folder: string, { rows, gates, png }: Pictured & { png: boolean }): Promise<string[]> {
  return writePictures(folder, plots({ rows, gates }), { png });
}

/** The pictures by name, as vega-lite describes them. */
export function plots({ rows, gates }: Pictured): Record<string, TopLevelSpec> {
  const withDepth = [...new Set(rows.filter(({ depth, accuracy }) => depth !== null && accuracy !== null).map(({ task }) => task))];
  return {
    ...Object.fromEntries(withDepth.map((task) => [`heat-map-${task}`, heatMap(rows.filter((row) => row.task === task))])),
    ...(rows.some(({ accuracy }) => accuracy !== null) && { 'accuracy-by-bytes': accuracyByBytes(rows) }),
    ...(rows.some(({ perplexity }) => perplexity !== null) && { perplexity: perplexityByPosition(rows) }),
    ...(gates && { gates: gateMap(gates) }),
  };
}

/** Bad to good; told apart by people who do not see red or green as others do, and in grey. */
const scheme = 'viridis';

/** Accuracy by length and depth, one panel a variant. */
function heatMap(rows: readonly Row[]): TopLevelSpec {
  const variants = [...new Set(rows.map(({ variant }) => variant))];
  const cell = { step: rows.length > 200 ? 28 : 40 };
  return {
    config,
    data: { values: rows.map(({ variant, length, depth, accuracy, n }) => ({ variant, length, depth, accuracy, n })) },
    title: `${rows[0]?.task ?? ''}: accuracy by length and depth`,
    facet: { field: 'variant', type: 'nominal', sort: variants, title: null },
    columns: Math.min(variants.length, 4),
    spec: {
      width: cell,
      height: { step: 22 },
      encoding: {
        x: { field: 'length', type: 'ordinal', title: 'tokens', axis: { labelAngle: 0, format: ',d' } },
        y: { field: 'depth', type: 'ordinal', title: 'depth', axis: { format: '.0%' } },
      },
      layer: [
        {
          mark: { type: 'rect', stroke: 'white' },
          encoding: {
            color: {
              field: 'accuracy',
              type: 'quantitative',
              scale: { domain: [0, 1], scheme },
              legend: { format: '.0%', title: 'accuracy' },
            },
          },
        },
        {
          mark: { type: 'text', fontSize: 9 },
          encoding: {
            text: { field: 'accuracy', type: 'quantitative', format: '.0%' },
            color: { condition: { test: 'datum.accuracy < 0.6', value: 'white' }, value: 'black' },
          },
        },
      ],
    },
  };
}

/** What accuracy a number of bytes buys: a line a mode over its sparsities, a panel for each task and length. */
function accuracyByBytes(rows: readonly Row[]): TopLevelSpec {
  const points = new Map<string, { row: Row; sum: number; count: number }>();
  for (const row of rows) {
    if (row.accuracy === null) continue;
    const key = JSON.stringify([row.variant, row.task, row.length]);
    const point = points.get(key) ?? { row, sum: 0, count: 0 };
    points.set(key, { row, sum: point.sum + row.accuracy, count: point.count + 1 });
  }
  const series = ({ mode, chunk, typeK, typeV, finerK }: Row): string =>
    [
      mode,
      ...(chunk !== null && chunk > 1 ? [`chunk ${chunk}`] : []),
      ...(typeK === 'f16' && typeV === 'f16' ? [] : [rowTypes(typeK, typeV, finerK)]),
    ].join(' ');
  const values = [...points.values()].map(({ row, sum, count }) => ({
    panel: `${row.task}, ${row.length.toLocaleString('en')} tokens`,
    mode: series(row),
    mebibytes: row.kvBytes / 2 ** 20,
    accuracy: sum / count,
    sparsity: row.mode === 'duo' || row.mode === 'random' || row.mode === 'inverted' ? `${+(100 * (row.sparsity ?? 0)).toFixed(1)}%` : '',
  }));
  const panels = [...new Set(values.map(({ panel }) => panel))];
  return {
    config: { ...config, view: { stroke: '#ddd' } },
    data: { values },
    title: 'Accuracy against the bytes of the KV cache; labels say how many heads stream',
    facet: { field: 'panel', type: 'nominal', sort: panels, title: null },
    columns: Math.min(panels.length, 3),
    resolve: { scale: { x: 'independent' } },
    spec: {
      width: 260,
      height: 180,
      encoding: {
        x: { field: 'mebibytes', type: 'quantitative', title: 'KV cache, MiB', scale: { zero: true } },
        y: { field: 'accuracy', type: 'quantitative', title: 'accuracy', scale: { domain: [0, 1] }, axis: { format: '.0%' } },
        color: { field: 'mode', type: 'nominal', sort: [...new Set(values.map(({ mode }) => mode))], title: 'mode' },
      },
      layer: [
        { mark: { type: 'line', opacity: 0.6 } },
        { mark: { type: 'point', filled: true, size: 60, opacity: 1 } },
        { mark: { type: 'text', dy: -9, fontSize: 9 }, encoding: { text: { field: 'sparsity', type: 'nominal' } } },
      ],
    },
  };
}

/** Perplexity along the text, a line a variant, a panel a length. */
function perplexityByPosition(rows: readonly Row[]): TopLevelSpec {
  const values = rows
    .filter(({ perplexity }) => perplexity !== null)
    .map(({ variant, length, depth, perplexity }) => ({
      variant,
      panel: `${length.toLocaleString('en')} tokens`,
      position: (depth ?? 0) * length,
      perplexity,
    }));
  const panels = [...new Set(values.map(({ panel }) => panel))];
  return {
    config: { ...config, view: { stroke: '#ddd' } },
    data: { values },
    title: 'Perplexity by position',
    facet: { field: 'panel', type: 'nominal', sort: panels, title: null },
    columns: Math.min(panels.length, 3),
    resolve: { scale: { x: 'independent' } },
    spec: {
      width: 260,
      height: 180,
      mark: { type: 'line', point: true },
      encoding: {
        x: { field: 'position', type: 'quantitative', title: 'tokens from' },
        y: { field: 'perplexity', type: 'quantitative', scale: { zero: false } },
        color: { field: 'variant', type: 'nominal', sort: [...new Set(values.map(({ variant }) => variant))], title: 'mode' },
      },
    },
  };
}

/** The gate of each layer's KV heads. */
function gateMap(pattern: GatePatternJson): TopLevelSpec {
  const values = pattern.gates.flatMap((gates, layer) => gates.map((gate, head) => ({ layer, head, gate })));
  return {
    config,
    data: { values },
    title: 'Gates: 1 needs the whole cache',
    width: { step: 22 },
    height: { step: pattern.layers > 40 ? 10 : 16 },
    mark: { type: 'rect', stroke: 'white' },
    encoding: {
      x: { field: 'head', type: 'ordinal', title: 'KV head', axis: { labelAngle: 0 } },
      y: { field: 'layer', type: 'ordinal', title: 'layer' },
      color: { field: 'gate', type: 'quantitative', scale: { domain: [0, 1], scheme }, title: 'gate' },
    },
  };
}
