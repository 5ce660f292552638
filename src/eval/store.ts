import { createHash } from 'node:crypto';
import { appendFileSync, existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';

import { EvaluationError, OutputError } from '../errors.ts';
import type { MemoryReport } from '../core/context.ts';
import type { Outcome } from './item.ts';

/** What one prompt came to in one variant. */
export type Result = {
  /** The variant's label. */
  variant: string;
  task: string;
  length: number;
  depth: number | null;
  index: number;
  kv: MemoryReport;
  outcome: Outcome;
};

/** What results depend on, in words for people: the model, the tasks, the modes. */
export type Settings = Readonly<Record<string, unknown>>;

/** Results as they come, in memory or also in a file that an interrupted run goes on from. */
export class ResultStore {
  readonly #file: string | undefined;
  readonly #results = new Map<string, Result>();

  /**
   * @param file lines of JSON: the settings and then a result each. It is made if it isn't there
   * @throws EvaluationError where the file has results of other settings, or is no such file
   */
  constructor(settings: Settings, file?: string) {
    this.#file = file;
    if (file === undefined) return;
    if (existsSync(file) && readFileSync(file).length > 0) this.#read(file, settings);
    else this.#write(file, () => writeFileSync(file, line(header(settings))));
  }

  get size(): number {
    return this.#results.size;
  }

  has(result: Omit<Result, 'kv' | 'outcome'>): boolean {
    return this.#results.has(keyOf(result));
  }

  /** Keeps a result; it is in the file before the next prompt begins. */
  add(result: Result): void {
    this.#results.set(keyOf(result), result);
    const file = this.#file;
    if (file !== undefined) this.#write(file, () => appendFileSync(file, line(result)));
  }

  all(): Result[] {
    return [...this.#results.values()];
  }

  #write(file: string, write: () => void): void {
    try {
      write();
    } catch (error) {
      // The messages of writing name no file. What was written before is kept; a line that was cut short is dropped when the file is read.
      throw new OutputError(`${file} (--resume) cannot be written: ${error instanceof Error ? error.message : String(error)}.`, {
        cause: error,
      });
    }
  }

  #read(file: string, settings: Settings): void {
    const bytes = readFileSync(file);
    // A run that was killed may have left a part of a line.
    const whole = bytes.lastIndexOf(0x0a) + 1;
    const [first = '', ...rest] = bytes.toString('utf8', 0, whole).split('\n').slice(0, -1);
    requireSame(file, first, settings);
    rest.forEach((text, index) => {
      const result = parse(text) as Result | undefined;
      if (typeof result?.variant !== 'string')
        throw new EvaluationError(`${file}, line ${index + 2}: this is no result of llama-duo eval.`);
      this.#results.set(keyOf(result), result);
    });
    if (whole < bytes.length) truncateSync(file, whole);
  }
}

const formatVersion = 1;

function header(settings: Settings): { llamaDuoEval: number; hash: string; settings: Settings } {
  const hash = createHash('sha256').update(JSON.stringify(settings)).digest('hex');
  return { llamaDuoEval: formatVersion, hash, settings };
}

function requireSame(file: string, first: string, settings: Settings): void {
  const found = parse(first) as Partial<ReturnType<typeof header>> | undefined;
  if (found?.llamaDuoEval !== formatVersion || found.settings === undefined) {
    throw new EvaluationError(`${file} is not a file of llama-duo eval's results: name another one with --resume.`);
  }
  if (found.hash === header(settings).hash) return;
  const names = new Set([...Object.keys(settings), ...Object.keys(found.settings)]);
  const differences = [...names].flatMap((name) => {
    const [here, there] = [settings[name], found.settings?.[name]].map((value) => (value === undefined ? 'none' : JSON.stringify(value)));
    return here === there ? [] : [`  ${name}: ${short(there)} there, ${short(here)} here`];
  });
  throw new EvaluationError(
    [`${file} has results of other settings:`, ...differences, 'Give the same settings, or name another file with --resume.'].join('\n'),
  );
}

function short(text = ''): string {
  return text.length > 200 ? `${text.slice(0, 200)}...` : text;
}

function keyOf({ variant, task, length, depth, index }: Omit<Result, 'kv' | 'outcome'>): string {
  return JSON.stringify([variant, task, length, depth, index]);
}

function line(value: unknown): string {
  return `${JSON.stringify(value)}\n`;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
