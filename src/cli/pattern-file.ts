import { extname } from 'node:path';

import { UsageError } from './flags.ts';

const formats: Readonly<Record<string, 'json' | 'tsv'>> = { '.json': 'json', '.tsv': 'tsv' };

/**
 * The form of a pattern file that is to be written, by its name's ending.
 *
 * @throws UsageError for other endings: under the name of a model, for instance, nobody wants a pattern
 */
export function formatOf(path: string): 'json' | 'tsv' {
  const found = formats[extname(path).toLowerCase()];
  if (found) return found;
  const hint = /\.gguf$/i.test(path) ? ' llama-duo pattern embed FILE -m MODEL -o COPY puts a pattern into a model.' : '';
  throw new UsageError(`A pattern is written as .json or .tsv, not as ${extname(path) || 'a file without an ending'} (${path}).${hint}`);
}
