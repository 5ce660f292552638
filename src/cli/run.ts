import { readFile } from 'node:fs/promises';

import { ContextFullError, setLog, type Context, type GenerateOptions } from '../index.ts';
import { generateTable } from '../core/option-tables.ts';
import type { Command } from './command.ts';
import { contextFlags, duoOptions, loadGiven, planOptions } from './context-flags.ts';
import { flagOf, parseFlags, UsageError, type Flags, type Given } from './flags.ts';
import { print, printJson } from './output.ts';
import { withoutEscapes } from './escapes.ts';
import { resolveUserPath } from './paths.ts';
import { warn } from './warnings.ts';

const flags = {
  ...contextFlags,
  prompt: { names: ['-p', '--prompt'], kind: 'text', value: 'TEXT', help: 'the prompt, which is continued: no chat template' },
  promptFile: { names: ['-f', '--file'], kind: 'path', value: 'FILE', help: 'a file with the prompt' },
  escape: {
    names: ['-e', '--escape'],
    kind: 'switch',
    help: `in the prompt, \\n, \\r, \\t, \\', \\", \\\\ and \\xHH are what they stand for (default)`,
  },
  noEscape: { names: ['--no-escape'], kind: 'switch', help: 'take the prompt as it is' },
  maxTokens: flagOf(generateTable.maxTokens),
  ignoreEos: flagOf(generateTable.ignoreEos),
  temperature: flagOf(generateTable.temperature),
  topK: flagOf(generateTable.topK),
  topP: flagOf(generateTable.topP),
  minP: flagOf(generateTable.minP),
  seed: { ...flagOf(generateTable.seed), min: -1, help: 'the same seed gives the same text (default: -1, another each time)' },
  verbose: { names: ['-v', '--verbose'], kind: 'switch', help: "print llama.cpp's log on stderr" },
  json: { names: ['--json'], kind: 'switch', help: 'print one JSON object and nothing else' },
} as const satisfies Flags;

type RunFlags = Given<typeof flags>;

export const run: Command = {
  summary: 'Continues a prompt.',
  usage: 'run -m MODEL -p PROMPT [flags]',
  flags,
  async run(args, signal) {
    const given = parseFlags(args, flags);
    const plan = { ...planOptions(given), duo: duoOptions(given), signal };
    const generateOptions = { ...samplingOptions(given), signal };
    const prompt = await readPrompt(given);
    if (given.verbose) setLog(({ level, message }) => process.stderr.write(`${level}: ${message}\n`));

    try {
      await using model = await loadGiven(given, { signal });
      await using context = await model.createContext(plan);
      warn(context.info.warnings);
      if (given.json)
        await printJson(await answer(context, await model.tokenizeAsync(prompt, { parseSpecial: true, signal }), generateOptions));
      else await stream(context, prompt, generateOptions);
    } catch (error) {
      throw error instanceof ContextFullError ? new ContextFullError(`${error.message}: give a larger one with -c N.`) : error;
    }
  },
};

async function stream(context: Context, prompt: string, options: GenerateOptions): Promise<void> {
  for await (const { text } of context.generate(prompt, options)) await print(text);
  await print('\n');
}

/** What --json prints. */
async function answer(context: Context, promptTokens: Int32Array, options: GenerateOptions): Promise<Record<string, unknown>> {
  const { text, tokens, finishReason, prefillTokensPerSecond, decodeTokensPerSecond } = await context
    .generate(promptTokens, options)
    .result();
  const { retrievalBytes, streamingBytes, totalBytes, fullBytes, retrievalHeads, streamingHeads } = context.memory();
  return {
    text,
    promptTokens,
    tokens,
    finishReason,
    prefillTokensPerSecond,
    decodeTokensPerSecond,
    kv: { retrievalBytes, streamingBytes, totalBytes, fullBytes },
    heads: { retrieval: retrievalHeads, streaming: streamingHeads },
  };
}

function samplingOptions(given: RunFlags): GenerateOptions {
  const { maxTokens, ignoreEos, temperature, topK, topP, minP } = given;
  // llama.cpp's own word for another seed each time.
  const seed = given.seed === -1 ? undefined : given.seed;
  // Special tokens are read, as in llama.cpp's own completion: who writes a prompt on the command line may write a template by hand.
  return { maxTokens, ignoreEos, temperature, topK, topP, minP, seed, parseSpecial: true };
}

async function readPrompt(given: RunFlags): Promise<string> {
  if (given.prompt !== undefined && given.promptFile !== undefined) throw new UsageError('Give the prompt with -p or with -f, not both.');
  if (given.escape && given.noEscape) throw new UsageError('Give --escape or --no-escape, not both.');
  const text = given.prompt ?? (await readPromptFile(given.promptFile));
  return given.noEscape ? text : withoutEscapes(text);
}

async function readPromptFile(file: string | undefined): Promise<string> {
  if (file === undefined) throw new UsageError('Which prompt? Give it with -p TEXT or -f FILE.');
  // As llama.cpp does: the line break that editors put at the end of a file is not meant.
  return (await readFile(resolveUserPath(file), 'utf8')).replace(/\n$/, '');
}
