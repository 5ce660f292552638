import { existsSync } from 'node:fs';
import { open, rm, writeFile } from 'node:fs/promises';

// papaparse quotes what needs quotes, and reads tables of others as well.
import Papa from 'papaparse';

import { EvaluationError } from '../errors.ts';
import { preparePlots, writePlots } from '../eval/plots.ts';
import type { Row } from '../eval/rows.ts';
import type { GatePatternJson } from '../gates.ts';
import { evalTables } from './eval-table.ts';
import { print, printJson } from './output.ts';

/** Where results go besides stdout: a file and a folder, as absolute paths. */
export type Outputs = { csv: string | undefined; plot: string | undefined; png: boolean };

/**
 * Makes sure, before hours of work, that its results can be written.
 *
 * @throws EvaluationError that says what cannot be written, and what to do
 */
export async function prepareOutputs({ csv, plot, png }: Outputs): Promise<void> {
  if (csv !== undefined) await requireWritable(csv);
  if (plot !== undefined) await preparePlots(plot, { png });
}

/** Prints the rows and then writes what is to be written, for a disk may be full by now. */
export async function report(
  rows: readonly Row[],
  gates: GatePatternJson | undefined,
  outputs: Outputs & { json: boolean },
): Promise<void> {
  const { csv, plot, png, json } = outputs;
  await (json ? printJson(rows) : print(evalTables(rows)));
  if (csv !== undefined) await writeFile(csv, `${Papa.unparse([...rows], { newline: '\n' })}\n`);
  if (plot !== undefined) await writePlots(plot, { rows, gates, png });
}

/** Nothing but opening a file tells whether it can be written. What is in it stays. */
async function requireWritable(file: string): Promise<void> {
  const isNew = !existsSync(file);
  try {
    await (await open(file, 'a')).close();
    if (isNew) await rm(file);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new EvaluationError(`The rows cannot be written to ${file} (${why}): name a file in a folder that is there with --csv.`);
  }
}
