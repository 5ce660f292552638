import { runJob } from '../ffi/job.ts';
import type { Handle, Native } from '../ffi/native.ts';
import { UnsupportedError } from '../errors.ts';
import type { ModelInfo } from './model.ts';

/** A file that may tell what belongs into a gap. */
export type InfillFile = { name: string; text: string };

/** A text with a gap. */
export type Gap = {
  prefix: string;
  suffix: string;
  /** The file's name, for models that are told of files. */
  name?: string | undefined;
  /** Other files of the repository. */
  files?: readonly InfillFile[] | undefined;
};

/** Tokens of a model that mark the parts of a text with a gap: null where it has none. */
export type InfillTokens = Record<'prefix' | 'suffix' | 'middle' | 'padding' | 'repository' | 'file', number | null>;

/**
 * A prompt whose continuation belongs between prefix and suffix, in the order that models are trained on: other files, prefix, suffix. None of the texts is read for special tokens.
 *
 * @param handle of the model, or of a context of it
 * @throws UnsupportedError where the model has no tokens for that
 */
export async function infillPrompt(
  native: Native,
  owner: object,
  handle: () => Handle,
  { infillTokens, addBos, bosToken }: ModelInfo,
  { prefix, suffix, name = 'file', files = [] }: Gap,
  signal: AbortSignal | undefined,
): Promise<Int32Array> {
  const { prefix: before, suffix: after, middle, repository, file } = infillTokens;
  if (before === null || after === null || middle === null) {
    throw new UnsupportedError(
      'The model has no tokens that mark a gap in a text: take one that was trained to fill gaps, a coder mostly.',
    );
  }
  const tokens = (text: string): Promise<Int32Array> =>
    runJob<Int32Array>(native, () => native.tokenizeLong(handle(), text, 0), {
      signal,
      owner,
      read: (job) => new Int32Array(job.data().buffer),
    });
  const prompt: number[] = addBos && bosToken !== null ? [bosToken] : [];
  const add = (more: Iterable<number>): void => {
    for (const token of more) prompt.push(token);
  };
  if (files.length > 0) {
    // The order that Qwen2.5-Coder's report has (arXiv 2409.12186), and llama.cpp's server.
    if (repository !== null) add([repository, ...(await tokens('repository\n'))]);
    for (const other of files)
      add(file === null ? await tokens(`\n\n${other.text}`) : [file, ...(await tokens(`${other.name}\n${other.text}\n`))]);
    if (file !== null) add([file, ...(await tokens(`${name}\n`))]);
  }
  prompt.push(before);
  add(await tokens(prefix));
  prompt.push(after);
  add(await tokens(suffix));
  prompt.push(middle);
  return Int32Array.from(prompt);
}
