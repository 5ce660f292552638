import type { TopLevelSpec } from 'vega-lite';

import { config } from '../eval/pictures.ts';
import type { MeasuredTradeOff } from './trade-off.ts';

/** What choices of a context are expected to lose, against the bytes of their caches: a curve of budgets, and the other choices as points with their names. */
export function tradeOffPicture(contextSize: number, choices: readonly MeasuredTradeOff[]): TopLevelSpec {
  const kinds = { budget: 'budgets', stream: 'shares of heads that stream', full: 'all heads full, of one type' };
  const values = choices.map(({ choice, kind, bytes, expectedLoss, breaks }) => ({
    kind: kinds[kind],
    mebibytes: bytes / 2 ** 20,
    loss: expectedLoss,
    name: kind === 'budget' ? '' : breaks === null ? choice : `${choice} (breaks the model)`,
  }));
  const isCurve = { test: `datum.kind === '${kinds.budget}'` };
  return {
    config: { ...config, view: { stroke: '#ddd' } },
    data: { values },
    title: `What ${contextSize.toLocaleString('en')} tokens can be had for`,
    width: 480,
    height: 320,
    encoding: {
      x: { field: 'mebibytes', type: 'quantitative', title: 'KV cache, MiB', scale: { zero: true } },
      // Losses are from nothing to what breaks a model: a root shows the small ones, which a logarithm would, too, but for 0.
      y: { field: 'loss', type: 'quantitative', title: 'expected loss', scale: { type: 'sqrt' } },
      color: { field: 'kind', type: 'nominal', sort: Object.values(kinds), title: null, legend: { labelLimit: 0 } },
    },
    layer: [
      { transform: [{ filter: isCurve.test }], mark: { type: 'line' } },
      { mark: { type: 'point', filled: true, opacity: 1 }, encoding: { size: { condition: { ...isCurve, value: 12 }, value: 70 } } },
      {
        mark: { type: 'text', align: 'left', angle: -45, dx: 7, dy: -7, fontSize: 10 },
        encoding: { text: { field: 'name', type: 'nominal' } },
      },
    ],
  };
}
