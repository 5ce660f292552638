import { readFile } from 'node:fs/promises';

// picocolors writes no colours where stdout is no terminal.
import colors from 'picocolors';

import { generateTable, samplingTable } from '../core/option-tables.ts';
import {
  ContextFullError,
  setLog,
  type Chat,
  type Context,
  type GenerateOptions,
  type Message,
  type Model,
  type SamplingOptions,
} from '../index.ts';
import type { Command } from './command.ts';
import { contextFlags, duoOptions, loadSource, modelSource, planOptions, sourceFlags } from './context-flags.ts';
import { withoutEscapes } from './escapes.ts';
import { flagOf, parseFlags, UsageError, type Flags, type Given } from './flags.ts';
import { onInterrupt } from './interrupts.ts';
import { print, printJson } from './output.ts';
import { resolveUserPath } from './paths.ts';
import { ProgressBar } from './progress.ts';
import { UserMessages } from './user-messages.ts';
import { readVariables } from './variables.ts';
import { warn } from './warnings.ts';

/** What is sampled from, and how: the options that llama.cpp's tools have as one number or text each. */
const samplingFlags = {
  temperature: flagOf(samplingTable.temperature),
  topK: flagOf(samplingTable.topK),
  topP: flagOf(samplingTable.topP),
  minP: flagOf(samplingTable.minP),
  typicalP: flagOf(samplingTable.typicalP),
  topNSigma: flagOf(samplingTable.topNSigma),
  xtcProbability: flagOf(samplingTable.xtcProbability),
  xtcThreshold: flagOf(samplingTable.xtcThreshold),
  dynamicTemperatureRange: flagOf(samplingTable.dynamicTemperatureRange),
  dynamicTemperatureExponent: flagOf(samplingTable.dynamicTemperatureExponent),
  repeatPenalty: flagOf(samplingTable.repeatPenalty),
  repeatLastN: flagOf(samplingTable.repeatLastN),
  frequencyPenalty: flagOf(samplingTable.frequencyPenalty),
  presencePenalty: flagOf(samplingTable.presencePenalty),
  dryMultiplier: flagOf(samplingTable.dryMultiplier),
  dryBase: flagOf(samplingTable.dryBase),
  dryAllowedLength: flagOf(samplingTable.dryAllowedLength),
  dryLastN: flagOf(samplingTable.dryLastN),
  mirostat: flagOf(samplingTable.mirostat),
  mirostatTau: flagOf(samplingTable.mirostatTau),
  mirostatEta: flagOf(samplingTable.mirostatEta),
  adaptiveTarget: flagOf(samplingTable.adaptiveTarget),
  adaptiveDecay: flagOf(samplingTable.adaptiveDecay),
  grammar: flagOf(samplingTable.grammar),
} as const satisfies Flags;

const flags = {
  ...sourceFlags,
  ...contextFlags,
  contextSize: {
    ...contextFlags.contextSize,
    help: 'tokens of the context; 0: as many as the model was trained for (default: the same, or as many as leave a tenth of the free memory)',
  },
  prompt: { names: ['-p', '--prompt'], kind: 'text', value: 'TEXT', help: 'the prompt; in a conversation what the user says first' },
  promptFile: { names: ['-f', '--file'], kind: 'path', value: 'FILE', help: 'a file with the prompt' },
  escape: {
    names: ['-e', '--escape'],
    kind: 'switch',
    help: `in the prompt, \\n, \\r, \\t, \\', \\", \\\\ and \\xHH are what they stand for (default)`,
  },
  noEscape: { names: ['--no-escape'], kind: 'switch', help: 'take the prompt as it is' },
  displayPrompt: { names: ['--display-prompt'], kind: 'switch', help: 'print the prompt before what follows it (default)' },
  noDisplayPrompt: { names: ['--no-display-prompt'], kind: 'switch', help: 'print only what follows the prompt' },
  conversation: {
    names: ['-cnv', '--conversation'],
    kind: 'switch',
    help: "talk: the model's chat template is applied, and more messages are read from stdin (default where the model has a template)",
  },
  noConversation: { names: ['-no-cnv', '--no-conversation'], kind: 'switch', help: 'continue the prompt, without a template' },
  singleTurn: { names: ['-st', '--single-turn'], kind: 'switch', help: 'end after one answer' },
  system: { names: ['-sys', '--system-prompt'], kind: 'text', value: 'TEXT', help: 'what the model is told first in a conversation' },
  systemFile: { names: ['-sysf', '--system-prompt-file'], kind: 'path', value: 'FILE', help: 'a file with that' },
  templateFile: { names: ['--chat-template-file'], kind: 'path', value: 'FILE', help: "a Jinja template in the place of the model's own" },
  maxTokens: flagOf(generateTable.maxTokens),
  ignoreEos: flagOf(generateTable.ignoreEos),
  ...samplingFlags,
  seed: { ...flagOf(generateTable.seed), min: -1, help: 'the same seed gives the same text (default: -1, another each time)' },
  verbose: { names: ['-v', '--verbose', '--log-verbose'], kind: 'switch', help: "print llama.cpp's log on stderr" },
  json: { names: ['--json'], kind: 'switch', help: 'print one JSON object and nothing else' },
} as const satisfies Flags;

type RunFlags = Given<typeof flags>;

/** llama.cpp's variables for these. HF_TOKEN is the library's. */
export const variables = {
  model: 'LLAMA_ARG_MODEL',
  modelRepo: 'LLAMA_ARG_HF_REPO',
  modelFile: 'LLAMA_ARG_HF_FILE',
  modelUrl: 'LLAMA_ARG_MODEL_URL',
  offline: 'LLAMA_ARG_OFFLINE',
  gpuLayers: 'LLAMA_ARG_N_GPU_LAYERS',
  contextSize: 'LLAMA_ARG_CTX_SIZE',
  batchSize: 'LLAMA_ARG_BATCH',
  ubatchSize: 'LLAMA_ARG_UBATCH',
  threads: 'LLAMA_ARG_THREADS',
  typeK: 'LLAMA_ARG_CACHE_TYPE_K',
  typeV: 'LLAMA_ARG_CACHE_TYPE_V',
  flashAttention: 'LLAMA_ARG_FLASH_ATTN',
  duoGates: 'LLAMA_ARG_DUO_GATES',
  duoSparsity: 'LLAMA_ARG_DUO_SPARSITY',
  duoThreshold: 'LLAMA_ARG_DUO_THRESHOLD',
  duoBudget: 'LLAMA_ARG_DUO_BUDGET',
  duoSink: 'LLAMA_ARG_DUO_SINK',
  duoRecent: 'LLAMA_ARG_DUO_RECENT',
  duoWindowStep: 'LLAMA_ARG_DUO_CHUNK',
  templateFile: 'LLAMA_ARG_CHAT_TEMPLATE_FILE',
  maxTokens: 'LLAMA_ARG_N_PREDICT',
  temperature: 'LLAMA_ARG_TEMPERATURE',
  topK: 'LLAMA_ARG_TOP_K',
  topP: 'LLAMA_ARG_TOP_P',
  minP: 'LLAMA_ARG_MIN_P',
  repeatPenalty: 'LLAMA_ARG_REPEAT_PENALTY',
  frequencyPenalty: 'LLAMA_ARG_FREQUENCY_PENALTY',
  presencePenalty: 'LLAMA_ARG_PRESENCE_PENALTY',
} as const satisfies { [Key in keyof typeof flags]?: string };

export const run: Command = {
  summary: 'Continues a prompt, or talks.',
  usage: "run -m MODEL [-p PROMPT] [flags]\n\nllama-duo completion is llama.cpp's own, which has more flags.",
  flags,
  async run(args, signal) {
    const given = withVariables(parseFlags(args, flags));
    checkFlags(given);
    modelSource(given); // a slip is told before files are read
    const plan = { ...planOptions(given), duo: duoOptions(given), signal };
    const prompt = await readPrompt(given);
    const system = given.system ?? (await readText(given.systemFile));
    const template = await readText(given.templateFile);
    if (given.verbose) setLog(({ level, message }) => process.stderr.write(`${level}: ${message}\n`));

    try {
      await using model = await loadWithBar(given, signal);
      const talks = given.conversation ?? (!given.noConversation && (template ?? model.info.chatTemplate) !== null);
      checkMode(given, talks, prompt);
      if (talks && (template ?? model.info.chatTemplate) === null)
        process.stderr.write('warning: the model has no chat template: it gets ChatML, and may not know it\n');
      await using context = await model.createContext({ ...plan, contextSize: plan.contextSize ?? 'fit' });
      warn(context.info.warnings);
      const session = { model, context, given, prompt, signal };
      if (talks) await talk({ ...session, system, template });
      else await continuePrompt(session);
    } catch (error) {
      throw error instanceof ContextFullError ? new ContextFullError(`${error.message}: give a larger one with -c N.`) : error;
    }
  },
};

type Session = { model: Model; context: Context; given: RunFlags; prompt: string | undefined; signal: AbortSignal };

/** Loads the model; a download shows how far it is. */
async function loadWithBar(given: RunFlags, signal: AbortSignal): Promise<Model> {
  const bar = new ProgressBar();
  try {
    return await loadSource(given, {
      signal,
      onProgress: (done, phase) => {
        if (phase === 'download') bar.update({ done, total: 1 }, 'downloading the model');
      },
    });
  } finally {
    bar.stop();
  }
}

// --- continuing a prompt ---

async function continuePrompt({ model, context, given, prompt = '', signal }: Session): Promise<void> {
  // Special tokens are read, as in llama.cpp's own completion: who writes a prompt on the command line may write a template by hand.
  const tokens = await model.tokenizeAsync(prompt, { parseSpecial: true, signal });
  const options = { ...samplingOptions(given), ignoreEos: given.ignoreEos, signal };
  if (given.json) {
    await printJson(await answer(context, tokens, options));
    return;
  }
  if (!given.noDisplayPrompt) await print(model.detokenize(tokens));
  for await (const { text } of context.generate(tokens, options)) await print(text);
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

// --- a conversation ---

type Conversation = Session & { system: string | undefined; template: string | undefined };
type TalkOptions = SamplingOptions & Pick<GenerateOptions, 'maxTokens' | 'signal'>;

async function talk({ model, context, given, prompt, signal, system, template }: Conversation): Promise<void> {
  const options = { ...samplingOptions(given), signal };
  const first: Message[] = [
    ...(system === undefined ? [] : [{ role: 'system', content: system } as const]),
    ...(prompt === undefined ? [] : [{ role: 'user', content: prompt } as const]),
  ];
  if (given.json) {
    const { tokens, stop } = await model.chatPrompt(first, { template, signal });
    await printJson(await answer(context, tokens, { ...options, stop }));
    return;
  }
  if (!given.noDisplayPrompt && first.length > 0) {
    const { tokens } = await model.chatPrompt(first, { template, addAssistant: prompt !== undefined, signal });
    await print(model.detokenize(tokens));
  }
  let chat = context.chat({ system, template });
  await using user = new UserMessages(signal);
  for (let message = prompt ?? (await user.next()); message !== undefined; message = await user.next()) {
    const answered = given.singleTurn ? await say(chat, message, options) : await sayUntilInterrupt(chat, message, options);
    // The chat has forgotten what was not said to its end.
    if (!answered.complete) {
      const messages: Message[] = [...chat.messages, { role: 'user', content: message }, { role: 'assistant', content: answered.text }];
      chat = context.chat({ messages, template });
    }
    if (given.singleTurn) break;
  }
  signal.throwIfAborted();
}

type Answered = { text: string; complete: boolean };

/** An interrupt ends the answer, and not the conversation. */
async function sayUntilInterrupt(chat: Chat, message: string, options: TalkOptions): Promise<Answered> {
  const stop = new AbortController();
  const release = onInterrupt(() => {
    stop.abort();
  });
  try {
    return await say(chat, message, options, stop.signal);
  } finally {
    release();
  }
}

/** @param stop ends the answer where it is */
async function say(chat: Chat, message: string, options: TalkOptions, stop?: AbortSignal): Promise<Answered> {
  let last: string | undefined;
  let text = '';
  await using reply = chat.send(message, options);
  const leave = (): void => void reply.return();
  stop?.addEventListener('abort', leave);
  for await (const chunk of reply) {
    if (chunk.type !== 'text' && chunk.type !== 'reasoning') continue;
    if (last === 'reasoning' && chunk.type === 'text') await print('\n\n');
    last = chunk.type;
    if (chunk.type === 'text') text += chunk.text;
    await print(chunk.type === 'reasoning' ? colors.dim(chunk.text) : chunk.text);
  }
  await print('\n');
  return { text, complete: stop?.aborted !== true };
}

// --- flags ---

/** What is given, and what variables say of the rest. */
function withVariables(given: RunFlags): RunFlags {
  const { model, modelRepo, modelUrl, ...said } = readVariables(flags, variables);
  // one of these is instead of all
  const named = [given.model, given.modelRepo, given.modelUrl].some((source) => source !== undefined);
  const defined = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as Partial<RunFlags>;
  return { ...given, ...said, ...(!named && { model, modelRepo, modelUrl }), ...defined };
}

function samplingOptions(given: RunFlags): SamplingOptions & Pick<GenerateOptions, 'maxTokens'> {
  const sampling = Object.fromEntries(Object.keys(samplingFlags).map((key) => [key, given[key as keyof typeof samplingFlags]]));
  // llama.cpp's own word for another seed each time
  const seed = given.seed === -1 ? undefined : given.seed;
  return { ...(sampling as SamplingOptions), seed, maxTokens: given.maxTokens };
}

function checkFlags(given: RunFlags): void {
  const opposites = [
    ['escape', 'noEscape'],
    ['displayPrompt', 'noDisplayPrompt'],
    ['conversation', 'noConversation'],
    ['prompt', 'promptFile'],
    ['system', 'systemFile'],
  ] as const;
  for (const [one, other] of opposites) {
    if (given[one] === undefined || given[other] === undefined) continue;
    throw new UsageError(`Give ${flags[one].names[0]} or ${flags[other].names[0]}, not both.`);
  }
}

/** What only a conversation has, and what it has not. */
function checkMode(given: RunFlags, talks: boolean, prompt: string | undefined): void {
  if (prompt === undefined && (!talks || given.json)) throw new UsageError('Which prompt? Give it with -p TEXT or -f FILE.');
  if (talks && given.ignoreEos) throw new UsageError('--ignore-eos is for a prompt that is continued: give -no-cnv too.');
  const only = (['system', 'systemFile', 'templateFile'] as const).find((key) => given[key] !== undefined);
  if (talks || only === undefined) return;
  const why = given.noConversation
    ? 'and -no-cnv is given'
    : 'and the model has no chat template: give one with --chat-template-file, or -cnv';
  throw new UsageError(`${flags[only].names[0]} is for a conversation, ${why}.`);
}

async function readPrompt(given: RunFlags): Promise<string | undefined> {
  const text = given.prompt ?? (await readText(given.promptFile));
  return text === undefined || given.noEscape ? text : withoutEscapes(text);
}

async function readText(file: string | undefined): Promise<string | undefined> {
  if (file === undefined) return undefined;
  // As llama.cpp does: the line break that editors put at the end of a file is not meant.
  return (await readFile(resolveUserPath(file), 'utf8')).replace(/\n$/, '');
}
