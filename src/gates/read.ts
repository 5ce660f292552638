import { randomUUID } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { GatePatternJson } from '../core/duo.ts';
import { absolutePath, checkOptions, toJson } from '../core/check-options.ts';
import { GatesError, OptionError } from '../errors.ts';
import { runJob } from '../ffi/job.ts';
import { openNative, type Native } from '../ffi/native.ts';
import { readGatesTable } from './option-tables.ts';
import type { ReadGatesOptions } from './option-types.ts';
import { GatePattern } from './pattern.ts';

/**
 * Reads a gate pattern: a DuoAttention folder, a TSV file, this project's JSON, a side-car of a model, or a GGUF model with a pattern in it.
 *
 * @param source a path, a URL (file:, http: or https:), or the bytes of such a file
 * @throws GatesError that names the source, and the line and the column of what is wrong
 */
export async function readGates(source: string | URL | Uint8Array, options: ReadGatesOptions = {}): Promise<GatePattern> {
  checkOptions(options, readGatesTable);
  const { signal } = options;
  const native = await openNative(options.library);
  if (source instanceof Uint8Array) return readBytes(native, source, '<bytes>', signal);
  if (source instanceof URL && /^https?:$/.test(source.protocol))
    return readBytes(native, await download(source, signal), source.href, signal);
  if (typeof source !== 'string' && !(source instanceof URL)) throw new OptionError('source', source, 'a path, a URL or bytes');
  return readPattern(native, { path: absolutePath('source', source) }, signal);
}

/**
 * Reads a gate pattern's text: DuoAttention's table or this project's JSON.
 *
 * @param source names the text in messages
 * @throws GatesError that names the line and the column of what is wrong
 */
export async function parseGates(text: string, source = '<text>', options: ReadGatesOptions = {}): Promise<GatePattern> {
  checkOptions(options, readGatesTable);
  if (typeof text !== 'string') throw new OptionError('text', text, 'a string');
  if (typeof source !== 'string') throw new OptionError('source', source, 'a string');
  return readPattern(await openNative(options.library), { text, source }, options.signal);
}

type PatternSource = { path: string } | { text: string; source: string };

/** @internal @throws GatesError */
export async function readPattern(native: Native, source: PatternSource, signal?: AbortSignal): Promise<GatePattern> {
  const request = toJson(source);
  const json = await runJob<GatePatternJson>(native, () => native.gatesRead(request), { signal });
  return new GatePattern(native, json);
}

/** A model's bytes go through a file, which llama.cpp's reader of GGUF wants. */
async function readBytes(native: Native, bytes: Uint8Array, source: string, signal: AbortSignal | undefined): Promise<GatePattern> {
  if (!isGguf(bytes)) return readPattern(native, { text: textOf(bytes, source), source }, signal);
  const path = join(tmpdir(), `llama-duo-${randomUUID()}.gguf`);
  try {
    await writeFile(path, bytes, { flag: 'wx', signal });
    return await readPattern(native, { path }, signal);
  } catch (error) {
    signal?.throwIfAborted(); // the reason itself, not writeFile's AbortError about it
    throw error instanceof GatesError ? new GatesError(error.message.replaceAll(path, source)) : error;
  } finally {
    await rm(path, { force: true });
  }
}

function isGguf(bytes: Uint8Array): boolean {
  return Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(4, bytes.length)).toString('latin1') === 'GGUF';
}

function textOf(bytes: Uint8Array, source: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new GatesError(`${source}: it is neither UTF-8 text nor a GGUF file; expected a gate pattern as TSV, JSON or GGUF.`);
  }
}

/** More than any pattern takes; whole models are not fetched for theirs. */
const downloadLimit = 64 * 2 ** 20;

async function download(url: URL, signal: AbortSignal | undefined): Promise<Uint8Array> {
  const failed = (why: string, cause?: unknown): GatesError => new GatesError(`${url.href}: ${why}.`, { cause });
  signal?.throwIfAborted();
  const parts: Uint8Array[] = [];
  try {
    const response = await fetch(url, { ...(signal && { signal }) });
    if (!response.ok) throw failed(`the server answers ${response.status} ${response.statusText}; expected a gate pattern`);
    let size = 0;
    for await (const part of response.body ?? []) {
      parts.push(part as Uint8Array);
      size += (part as Uint8Array).length;
      if (size > downloadLimit) throw failed(`it has more than ${downloadLimit / 2 ** 20} MiB. Download the model, and name its file`);
    }
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof GatesError) throw error;
    const { cause, message } = error as Error;
    throw failed(`it cannot be fetched (${cause instanceof Error ? cause.message : message})`, error);
  }
  return Buffer.concat(parts);
}
