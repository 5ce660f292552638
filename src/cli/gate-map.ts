// picocolors respects NO_COLOR and FORCE_COLOR, and writes no colours where stdout is neither a terminal nor the log of a CI.
import colors from 'picocolors';

import type { GatePatternJson } from '../core/duo.ts';
import type { HeadSelection } from '../gates/pattern.ts';

/** Gates as a picture in characters: a column a layer, a row a KV head, darker for a higher gate; heads that stream are dim. */
export function gateMap({ gates, layers, kvHeads }: GatePatternJson, { streaming }: HeadSelection): string {
  const cell = (layer: number, head: number): string => {
    const gate = gates[layer]?.[head];
    if (gate === undefined) return ' ';
    const shade = shades[Math.min(shades.length - 1, Math.floor(gate * shades.length))] ?? '';
    return streaming[layer]?.[head] ? colors.dim(shade) : colors.cyan(shade);
  };
  const margin = String(kvHeads - 1).length;
  const ruler = Array.from({ length: Math.ceil(layers / 10) }, (_, ten) => String(10 * ten).padEnd(10)).join('');
  const rows = Array.from({ length: kvHeads }, (_, head) => {
    const cells = Array.from({ length: layers }, (_, layer) => cell(layer, head)).join('');
    return `  ${String(head).padStart(margin)} ${cells}`;
  });
  return [`  ${' '.repeat(margin)} ${colors.dim(ruler.slice(0, layers).trimEnd())}`, ...rows].join('\n');
}

const shades = ['·', '░', '▒', '▓', '█'];

export const gateMapLegend = `a column is a layer, a row a KV head; gates ${shades.map((shade, index) => `${shade} from ${index / shades.length}`).join(', ')}`;
