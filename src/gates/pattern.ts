import { refuseBoth, type CacheTypeLosses, type GatePatternJson, type HeadChoice, type WindowLosses } from '../core/duo.ts';
import { headChoiceTable } from '../core/option-tables.ts';
import { OptionError } from '../errors.ts';
import type { Native } from '../ffi/native.ts';
import { comparePatterns, type PatternComparison } from './compare.ts';
import { embedTable } from './option-tables.ts';
import type { EmbedOptions } from './option-types.ts';
import { runJob } from '../ffi/job.ts';
import { absolutePath, checkOptions, toJson } from '../core/check-options.ts';

/** Which KV heads stream: `streaming[layer][kvHead]`. */
export type HeadSelection = { streaming: boolean[][]; retrievalHeads: number; streamingHeads: number };

/** How much each KV head of a model needs its whole cache. Nothing about it changes: it can be shared by models and contexts. Made by `readGates` and `parseGates`. */
export class GatePattern {
  readonly layers: number;
  /** KV heads of a layer, the widest one's where layers differ. */
  readonly kvHeads: number;
  /** `gates[layer][kvHead]`, 0 (streams well) to 1 (needs the whole cache). */
  readonly gates: readonly (readonly number[])[];
  /** The number of first keys that the gates were found with, where it is known. */
  readonly sink: number | undefined;
  /** The number of recent keys that the gates were found with, where it is known. */
  readonly recent: number | undefined;
  /** `windows[layer][kvHead]`: the number of recent keys that a head sees where it streams, where the pattern has one a head. */
  readonly windows: readonly (readonly number[])[] | undefined;
  /** `sinks[layer]`: the number of first keys that streaming heads of a layer see, where the pattern has one a layer. */
  readonly sinks: readonly number[] | undefined;
  readonly losses: Readonly<WindowLosses> | undefined;
  readonly cacheTypes: Readonly<CacheTypeLosses> | undefined;
  readonly provenance: Readonly<Record<string, unknown>> | undefined;
  readonly #native: Native;

  /** @internal */
  constructor(native: Native, json: GatePatternJson) {
    this.#native = native;
    this.layers = json.layers;
    this.kvHeads = json.kvHeads;
    this.gates = Object.freeze(json.gates.map((row) => Object.freeze(row)));
    this.sink = json.sink;
    this.recent = json.recent;
    this.windows = json.windows && Object.freeze(json.windows.map((row) => Object.freeze(row)));
    this.sinks = json.sinks && Object.freeze(json.sinks);
    this.losses = json.losses && Object.freeze(json.losses);
    this.cacheTypes = json.cacheTypes && Object.freeze(json.cacheTypes);
    this.provenance = json.provenance;
  }

  /**
   * Chooses which heads stream, by the same rule as a context does: the same pattern and choice always give the same heads.
   *
   * @param choice default `{ sparsity: 0.5 }`
   */
  async select(choice: HeadChoice = {}): Promise<HeadSelection> {
    checkHeadChoice(choice);
    const request = toJson({ pattern: this, sparsity: choice.sparsity, threshold: choice.threshold });
    const selection = await runJob<Omit<HeadSelection, 'streaming'> & { streaming: number[][] }>(this.#native, () =>
      this.#native.gatesSelect(request),
    );
    return { ...selection, streaming: selection.streaming.map((layer) => layer.map((bit) => bit === 1)) };
  }

  /**
   * How alike two patterns of one model are.
   *
   * @param sparsities where their choices of heads are compared. Default: 0.25, 0.5 and 0.75
   * @throws GatesError where the shapes differ
   */
  async compare(other: GatePattern, sparsities: readonly number[] = [0.25, 0.5, 0.75]): Promise<PatternComparison> {
    if (!(other instanceof GatePattern)) throw new OptionError('other', other, 'a gate pattern');
    if (!Array.isArray(sparsities)) throw new OptionError('sparsities', sparsities, 'an array of numbers from 0 to 1');
    return comparePatterns(this, other, sparsities);
  }

  /** The content of a pattern file: this project's JSON, or DuoAttention's table, which has the gates alone and no windows. */
  format(as: 'json' | 'tsv'): string {
    if (as === 'json') return jsonText(this.toJSON());
    if ((as as string) === 'tsv') return tsvText(this.gates);
    throw new OptionError('as', as, 'one of json, tsv');
  }

  /**
   * Copies a model with this pattern in its metadata, where `duo: { gates: 'auto' }` finds it. A split model is copied with all of its files: both paths name the
   * first one, as in `copy-00001-of-00003.gguf`.
   *
   * @throws GatesError where a file cannot be read or written, or the pattern has another shape
   */
  async embed(model: string | URL, target: string | URL, options: EmbedOptions = {}): Promise<void> {
    checkOptions(options, embedTable);
    const request = toJson({ pattern: this, model: absolutePath('model', model), target: absolutePath('target', target) });
    await runJob(this.#native, () => this.#native.gatesEmbed(request), options);
  }

  toJSON(): GatePatternJson {
    const { layers, kvHeads, gates, sink, recent, windows, sinks, losses, cacheTypes, provenance } = this;
    return {
      llamaDuoPattern: windows || sinks || losses || cacheTypes ? 2 : 1,
      layers,
      kvHeads,
      gates: gates.map((layer) => [...layer]),
      ...(sink !== undefined && { sink }),
      ...(recent !== undefined && { recent }),
      ...(windows !== undefined && { windows: windows.map((layer) => [...layer]) }),
      ...(sinks !== undefined && { sinks: [...sinks] }),
      ...(losses !== undefined && { losses: structuredClone(losses) }),
      ...(cacheTypes !== undefined && { cacheTypes: structuredClone(cacheTypes) }),
      ...(provenance !== undefined && { provenance: { ...provenance } }),
    };
  }
}

/** A layer a line, for people who look into the file. */
function jsonText(pattern: GatePatternJson): string {
  const rows = (layers: readonly unknown[]): string => `[\n${layers.map((row) => `    ${JSON.stringify(row)}`).join(',\n')}\n  ]`;
  const lines = Object.entries(pattern).map(([key, value]) => {
    const text = key === 'gates' || key === 'windows' ? rows(value as unknown[]) : JSON.stringify(value);
    return `  ${JSON.stringify(key)}: ${text}`;
  });
  return `{\n${lines.join(',\n')}\n}\n`;
}

/** As numpy.savetxt writes it, which DuoAttention uses. */
function tsvText(gates: readonly (readonly number[])[]): string {
  const number = (gate: number): string =>
    gate.toExponential(18).replace(/([+-])(\d)$/, (_, sign: string, digit: string) => `${sign}0${digit}`);
  return gates.map((row) => `${row.map(number).join('\t')}\n`).join('');
}

/** @throws OptionError where both a sparsity and a threshold are given, or one is out of range */
function checkHeadChoice(choice: HeadChoice): void {
  checkOptions<HeadChoice>(choice, headChoiceTable);
  refuseBoth(choice);
}
