import { join } from 'node:path';

import type { TopLevelSpec } from 'vega-lite';

import { checkFolder, writeOutput } from '../core/outputs.ts';
import { EvaluationError } from '../errors.ts';

/** What all pictures look like. */
export const config = {
  font: 'Arial, Helvetica, DejaVu Sans, sans-serif',
  background: 'white',
  view: { stroke: null },
  header: { titleFontSize: 12, labelFontSize: 12 },
} as const;

/**
 * Makes the folder and loads what draws, so that what is missing is known before the work whose results are to be drawn.
 *
 * @throws EvaluationError where a package that draws is not installed, OutputError where the folder cannot be made or written to
 */
export async function preparePictures(folder: string, { png }: { png: boolean }): Promise<void> {
  await Promise.all([loadVega(), loadVegaLite(), ...(png ? [loadResvg()] : [])]);
  await checkFolder(folder, '--plot');
}

/**
 * Draws pictures into a folder, which is made if need be.
 *
 * @param pictures by name, as vega-lite describes them
 * @param png whether to write each as PNG too
 * @returns the paths of the files
 * @throws EvaluationError, OutputError as {@link preparePictures} does
 */
export async function writePictures(
  folder: string,
  pictures: Readonly<Record<string, TopLevelSpec>>,
  { png }: { png: boolean },
): Promise<string[]> {
  await preparePictures(folder, { png });
  const files: string[] = [];
  for (const [name, spec] of Object.entries(pictures)) {
    const svg = await render(spec);
    const contents: [string, string | Uint8Array][] = [
      [`${name}.svg`, svg],
      ...(png ? [[`${name}.png`, await rasterize(svg)] as [string, Uint8Array]] : []),
    ];
    for (const [file, content] of contents) {
      files.push(join(folder, file));
      await writeOutput(join(folder, file), content);
    }
  }
  return files;
}

/** A description as SVG, drawn without a browser. */
async function render(spec: TopLevelSpec): Promise<string> {
  const [{ parse, View }, { compile }] = await Promise.all([loadVega(), loadVegaLite()]);
  const view = new View(parse(compile(spec).spec), { renderer: 'none' });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}

async function rasterize(svg: string): Promise<Uint8Array> {
  const { Resvg } = await loadResvg();
  return new Resvg(svg, { fitTo: { mode: 'zoom', value: 2 } }).render().asPng();
}

// Packages that are large and needed by few, so they may have been left out.
const loadVega = () => optional('vega', () => import('vega'));
const loadVegaLite = () => optional('vega-lite', () => import('vega-lite'));
const loadResvg = () => optional('@resvg/resvg-js', () => import('@resvg/resvg-js'));

async function optional<T>(name: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (error) {
    throw new EvaluationError(`Pictures need the package ${name}: "npm install ${name}" (${textOf(error)}).`);
  }
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
