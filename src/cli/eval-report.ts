// papaparse quotes what needs quotes, and reads tables of others as well.
import Papa from 'papaparse';

import { preparePictures } from '../eval/pictures.ts';
import { writePlots } from '../eval/plots.ts';
import type { Row } from '../eval/rows.ts';
import type { GatePatternJson } from '../core/duo.ts';
import { checkOutput, writeOutput } from '../core/outputs.ts';
import type { Difference } from '../eval/differences.ts';
import { differencesTable } from './differences-table.ts';
import { evalTables } from './eval-table.ts';
import { print, printJson } from './output.ts';

/** Where results go besides stdout: files and a folder, as absolute paths. */
export type Outputs = { resume?: string | undefined; csv: string | undefined; plot: string | undefined; png: boolean };

/**
 * Makes sure, before hours of work, that its results can be written.
 *
 * @param inputs files that are read, none of which an output may be
 * @throws OutputError that says what cannot be written, and what to do
 */
export async function prepareOutputs({ resume, csv, plot, png }: Outputs, inputs: readonly string[] = []): Promise<void> {
  if (resume !== undefined) await checkOutput({ path: resume, name: '--resume', inputs, appended: true });
  if (csv !== undefined) await checkOutput({ path: csv, name: '--csv', inputs: resume === undefined ? inputs : [...inputs, resume] });
  if (plot !== undefined) await preparePictures(plot, { png });
}

/** What an evaluation came to. */
export type Findings = {
  rows: readonly Row[];
  /** None where there is nothing to compare with. */
  differences: readonly Difference[];
  gates: GatePatternJson | undefined;
};

/** Prints what was found and then writes what is to be written, for a disk may be full by now. */
export async function report(
  { rows, differences, gates }: Findings,
  outputs: Outputs & { json: 'rows' | 'all' | undefined },
): Promise<void> {
  const { csv, plot, png, json } = outputs;
  if (json === undefined) await print(evalTables(rows) + differencesTable(differences));
  else await printJson(json === 'rows' ? rows : { rows, differences });
  if (csv !== undefined) await writeOutput(csv, `${Papa.unparse([...rows], { newline: '\n' })}\n`);
  if (plot !== undefined) await writePlots(plot, { rows, gates, png });
}
