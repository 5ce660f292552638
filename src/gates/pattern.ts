import { OptionError } from '../errors.ts';
import { openNative, type Native } from '../ffi/native.ts';
import { runJob } from '../ffi/job.ts';
import { abortSignal, absolutePath, callback, checkOptions, number, oneOf, text, toJson } from '../core/options.ts';

/** A gate pattern as JSON: the form of llama-duo's pattern files. */
export type GatePatternJson = {
  /** The version of this form. */
  llamaDuoPattern: 1;
  layers: number;
  kvHeads: number;
  /** `gates[layer][kvHead]`, 0 (streams well) to 1 (needs the whole cache). */
  gates: number[][];
  /** The number of first keys, and of recent keys, that the gates were found with. */
  sink?: number | undefined;
  recent?: number | undefined;
  /** Where it comes from: model, method, data, seed, version, date. */
  provenance?: Record<string, unknown> | undefined;
};

/**
 * How heads are chosen (default: sparsity 0.5): a share of all KV heads that streams (those with the lowest gates), or a gate from which a head keeps its whole cache.
 * Never both.
 */
export type HeadChoice = { sparsity?: number | undefined; threshold?: undefined } | { sparsity?: undefined; threshold: number };

/** Which KV heads stream: `streaming[layer][kvHead]`. */
export type HeadSelection = { streaming: boolean[][]; retrievalHeads: number; streamingHeads: number };

/** A pattern's text, where it isn't in a file. `source` names it in messages. */
export type GatesText = { text: string; source?: string | undefined };

export type ReadGatesOptions = {
  signal?: AbortSignal | undefined;
  /** The path of the native library. Default: LLAMA_DUO_LIBRARY, else the local build. */
  library?: string | undefined;
};

/**
 * Reads a gate pattern: a DuoAttention folder, a TSV file, this project's JSON, the text of one of the two, or a GGUF model with a pattern in it.
 *
 * @param source a path, a file URL, or `{ text }`. A string with a line break or tab, or one that begins with `{`, is taken for a pattern's text
 * @throws GatesError that names the line and the column of what is wrong
 */
export async function readGates(source: string | URL | GatesText, options: ReadGatesOptions = {}): Promise<GatePattern> {
  checkOptions(options, { signal: abortSignal, library: text });
  const request = toJson(gatesRequest(source));
  const native = await openNative(options.library);
  const json = await runJob<GatePatternJson>(native, () => native.gatesRead(request), { signal: options.signal });
  return new GatePattern(native, json);
}

function gatesRequest(source: unknown): { path: string } | GatesText {
  if (typeof source === 'string' && /^\s*\{|[\t\n]/.test(source)) return { text: source };
  if (typeof source === 'string' || source instanceof URL) return { path: absolutePath('source', source) };
  if (typeof source === 'object' && source !== null && 'text' in source) return source as GatesText;
  throw new OptionError('source', source, 'a path, a file URL or { text }');
}

/** How much each KV head of a model needs its whole cache. Made by {@link readGates}. */
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
  readonly provenance: Readonly<Record<string, unknown>> | undefined;
  readonly #native: Native;

  /** @internal */
  constructor(native: Native, json: GatePatternJson) {
    this.#native = native;
    this.layers = json.layers;
    this.kvHeads = json.kvHeads;
    this.gates = json.gates;
    this.sink = json.sink;
    this.recent = json.recent;
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

  /** The content of a pattern file: this project's JSON, or DuoAttention's table, which has the gates alone. */
  format(as: 'json' | 'tsv'): string {
    const formats = oneOf('json', 'tsv');
    if (!formats.accepts(as)) throw new OptionError('as', as, formats.expected);
    return as === 'json' ? jsonText(this.toJSON()) : tsvText(this.gates);
  }

  /**
   * Copies a model with this pattern in its metadata, where `duo: { gates: 'auto' }` finds it.
   *
   * @throws GatesError where a file cannot be read or written, the model is split into several files, or the pattern has another shape
   */
  async embed(model: string | URL, target: string | URL, options: EmbedOptions = {}): Promise<void> {
    checkOptions(options, { onProgress: callback, signal: abortSignal });
    const request = toJson({ pattern: this, model: absolutePath('model', model), target: absolutePath('target', target) });
    await runJob(this.#native, () => this.#native.gatesEmbed(request), options);
  }

  toJSON(): GatePatternJson {
    const { layers, kvHeads, gates, sink, recent, provenance } = this;
    return {
      llamaDuoPattern: 1,
      layers,
      kvHeads,
      gates: gates.map((layer) => [...layer]),
      ...(sink !== undefined && { sink }),
      ...(recent !== undefined && { recent }),
      ...(provenance !== undefined && { provenance: { ...provenance } }),
    };
  }
}

export type EmbedOptions = {
  /** Gets a number that grows from 0 to 1. */
  onProgress?: ((progress: number) => void) | undefined;
  /** Stops the copying; nothing is left of the copy. */
  signal?: AbortSignal | undefined;
};

/** A row of gates a line, for people who look into the file. */
function jsonText(pattern: GatePatternJson): string {
  const lines = Object.entries(pattern).map(([key, value]) => {
    const text =
      key === 'gates' ? `[\n${pattern.gates.map((row) => `    ${JSON.stringify(row)}`).join(',\n')}\n  ]` : JSON.stringify(value);
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

export const headChoiceChecks = { sparsity: number(0, 1), threshold: number(0, 1) };

/** @throws OptionError where both a sparsity and a threshold are given, or one is out of range */
function checkHeadChoice(choice: HeadChoice): void {
  checkOptions(choice, headChoiceChecks);
  refuseBoth(choice);
}

export function refuseBoth(choice: { sparsity?: number | undefined; threshold?: number | undefined }, prefix = ''): void {
  if (choice.sparsity === undefined || choice.threshold === undefined) return;
  throw new OptionError(`${prefix}threshold`, choice.threshold, 'no threshold beside a sparsity: they are two ways to choose heads');
}
