import { readFile } from 'node:fs/promises';

import { drainLog, loadModel, type Context, type GenerateOptions } from '../index.ts';
import type { Command } from './command.ts';
import { contextFlags, defined, duoOptions, modelOptions, planOptions } from './context-flags.ts';
import { parseFlags, UsageError, type Flags, type Given } from './flags.ts';
import { print, printJson } from './output.ts';
import { resolveUserPath } from './paths.ts';

const flags = {
  ...contextFlags,
  prompt: { names: ['-p', '--prompt'], kind: 'text', value: 'TEXT', help: 'the prompt, as it is: no chat template' },
  promptFile: { names: ['-f', '--file'], kind: 'path', value: 'FILE', help: 'a file with the prompt' },
  maxTokens: {
    names: ['-n', '--predict', '--n-predict'],
    kind: 'integer',
    value: 'N',
    help: 'tokens to generate (default: -1, until the end)',
  },
  ignoreEos: { names: ['--ignore-eos'], kind: 'switch', help: 'go on after the end of the text' },
  temperature: { names: ['--temp', '--temperature'], kind: 'number', value: 'T', help: '0 is greedy (default: 0.8)' },
  topK: { names: ['--top-k'], kind: 'integer', value: 'K', help: 'sample from the K likeliest tokens (default: 40)' },
  topP: { names: ['--top-p'], kind: 'number', value: 'P', help: 'sample from tokens of this joint probability (default: 0.95)' },
  minP: { names: ['--min-p'], kind: 'number', value: 'P', help: 'leave out tokens below this share of the likeliest (default: 0.05)' },
  seed: {
    names: ['-s', '--seed'],
    kind: 'integer',
    value: 'N',
    help: 'the same seed gives the same text (default: -1, another each time)',
  },
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
    const contextOptions = { ...planOptions(given), ...defined({ duo: duoOptions(given) }), signal };
    const generateOptions = { ...samplingOptions(given), signal };
    const source = modelOptions(given);
    const prompt = await readPrompt(given);

    try {
      await using model = await loadModel(source, { signal });
      await using context = await model.createContext(contextOptions);
      if (given.json) await printJson(await answer(context, model.tokenize(prompt, { parseSpecial: true }), generateOptions));
      else await stream(context, prompt, generateOptions);
    } finally {
      if (given.verbose) await printLog();
    }
  },
};

async function stream(context: Context, prompt: string, options: GenerateOptions): Promise<void> {
  for await (const { text } of context.generate(prompt, options)) await print(text);
  await print('\n');
}

/** On stderr, without what only llama.cpp's developers want to know. */
async function printLog(): Promise<void> {
  const lines = (await drainLog()).filter(({ level }) => level !== 'debug');
  process.stderr.write(lines.map(({ level, message }) => `${level}: ${message}\n`).join(''));
}

/** What --json prints. */
async function answer(context: Context, promptTokens: Int32Array, options: GenerateOptions): Promise<Record<string, unknown>> {
  const { text, tokens, stop, prefillTokensPerSecond, decodeTokensPerSecond } = await context.generate(promptTokens, options).collect();
  const { retrievalBytes, streamingBytes, totalBytes, fullBytes, retrievalHeads, streamingHeads } = context.memory();
  return {
    text,
    promptTokens,
    tokens,
    stop,
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
  return defined({ maxTokens, ignoreEos, temperature, topK, topP, minP, seed });
}

async function readPrompt(given: RunFlags): Promise<string> {
  if (given.prompt !== undefined && given.promptFile !== undefined) throw new UsageError('Give the prompt with -p or with -f, not both.');
  if (given.prompt !== undefined) return given.prompt;
  if (given.promptFile === undefined) throw new UsageError('Which prompt? Give it with -p TEXT or -f FILE.');
  // As llama.cpp does: the line break that editors put at the end of a file is not meant.
  return (await readFile(resolveUserPath(given.promptFile), 'utf8')).replace(/\n$/, '');
}
