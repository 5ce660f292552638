import type { GatePatternJson } from '../core/duo.ts';
import { absolutePath, checkOptions, toJson } from '../core/options.ts';
import { OptionError } from '../errors.ts';
import { runJob } from '../ffi/job.ts';
import { openNative, type Native } from '../ffi/native.ts';
import { readGatesTable } from './option-tables.ts';
import type { ReadGatesOptions } from './option-types.ts';
import { GatePattern } from './pattern.ts';

/** A pattern's text, where it isn't in a file. `source` names it in messages. */
export type GatesText = { text: string; source?: string | undefined };

/**
 * Reads a gate pattern: a DuoAttention folder, a TSV file, this project's JSON, the text of one of the two, or a GGUF model with a pattern in it.
 *
 * @param source a path, a file URL, or `{ text }`. A string with a line break or tab, or one that begins with `{`, is taken for a pattern's text
 * @throws GatesError that names the line and the column of what is wrong
 */
export async function readGates(source: string | URL | GatesText, options: ReadGatesOptions = {}): Promise<GatePattern> {
  checkOptions(options, readGatesTable);
  const request = gatesRequest(source);
  return readPattern(await openNative(options.library), request, options.signal);
}

/** @internal @throws GatesError */
export async function readPattern(native: Native, source: PatternSource, signal?: AbortSignal): Promise<GatePattern> {
  const request = toJson(source);
  const json = await runJob<GatePatternJson>(native, () => native.gatesRead(request), { signal });
  return new GatePattern(native, json);
}

type PatternSource = { path: string } | GatesText;

function gatesRequest(source: unknown): PatternSource {
  if (typeof source === 'string' && /^\s*\{|[\t\n]/.test(source)) return { text: source };
  if (typeof source === 'string' || source instanceof URL) return { path: absolutePath('source', source) };
  if (typeof source === 'object' && source !== null && 'text' in source) return source as GatesText;
  throw new OptionError('source', source, 'a path, a file URL or { text }');
}
