import { loadModel, type Context, type DuoOptions, type Model, type PlanOptions } from '../index.ts';
import type { Command } from './command.ts';
import { contextFlags, duoOptions, modelOptions, planOptions } from './context-flags.ts';
import { parseFlags, UsageError, type Flags } from './flags.ts';
import { formatBytes, formatCount, print, printJson } from './output.ts';
import { heading, table } from './table.ts';

const flags = {
  ...contextFlags,
  json: { names: ['--json'], kind: 'switch', help: 'print one JSON object and nothing else' },
} as const satisfies Flags;

export const demo: Command = {
  summary: 'Answers one long prompt with full and with mixed heads, side by side.',
  usage: 'demo -m MODEL [--duo-gates FILE] [flags]',
  flags,
  async run(args, signal) {
    const given = parseFlags(args, flags);
    if (given.model === undefined) {
      throw new UsageError('The demo needs a model: llama-duo demo -m model.gguf (npm run demo -- -m model.gguf).');
    }
    const chosen = duoOptions(given);
    const plan = planOptions(given);
    const say = (text: string): Promise<void> => (given.json ? Promise.resolve() : print(text));

    await using model = await loadModel(modelOptions(given), { signal });
    const prompt = longPrompt(model, promptSize(model, plan));
    const promptTokens = model.tokenize(prompt, { parseSpecial: true }).length;
    const options = { ...plan, contextSize: plan.contextSize ?? promptTokens + 2 * answerTokens };
    await say(`${model.info.description}, a prompt of ${formatCount(promptTokens)} tokens that ends:\n  ${question}\n\n`);

    const answers: Answer[] = [];
    for (const { name, duo } of await sides(model, options, chosen)) {
      await using context = await model.createContext({ ...options, duo, signal });
      const reply = await answer(name, context, prompt, signal);
      answers.push(reply);
      await say(`${heading(name)}\n  ${reply.text}\n`);
    }
    await say(`\n${speeds(answers)}\n`);
    if (given.json) await printJson({ model: model.info.description, promptTokens, question, answers });
  },
};

const answerTokens = 32;
/** Long enough that most of it lies outside a streaming head's window, short enough for a CPU. */
const wantedPromptTokens = 4096;

const fact = 'The password of the harbour office is "violet lantern".';
const question = 'Question: What is the password of the harbour office? Answer: The password of the harbour office is "';

type Side = { name: string; duo: DuoOptions };

/** A model without gates shows the two ends: every head keeps all, and every head streams. All sides have the same window. */
async function sides(model: Model, plan: PlanOptions, chosen: DuoOptions | undefined): Promise<Side[]> {
  const { kv } = await model.planContext({ ...plan, duo: chosen ?? { sparsity: 1 } });
  const window = kv && { sink: kv.sink, recent: kv.recent, chunk: kv.chunk };
  const full = { name: 'full', duo: { ...window, sparsity: 0 } };
  const streaming = { name: 'all heads stream', duo: { ...window, sparsity: 1 } };
  return chosen?.gates === undefined ? [full, streaming] : [full, { name: 'mixed', duo: chosen }, streaming];
}

function promptSize(model: Model, plan: PlanOptions): number {
  const room = Math.min(plan.contextSize || Infinity, model.info.contextSize || Infinity);
  return Math.min(wantedPromptTokens, room - 2 * answerTokens);
}

/** A diary in which one line tells what is asked at the end: early, but after the sinks. */
function longPrompt(model: Model, size: number): string {
  const weather = ['clear', 'grey', 'windy', 'wet', 'mild', 'cold', 'misty'];
  const cargo = ['timber', 'salt', 'wool', 'copper', 'grain', 'paper', 'tea', 'glass', 'oranges', 'rope', 'slate'];
  const ships = ['Anna', 'Borealis', 'Corvus', 'Dorothea', 'Estrella', 'Fortuna', 'Gannet', 'Hesper', 'Iris'];
  const pick = (list: string[], index: number): string => list[index % list.length] ?? '';
  const day = (index: number): string =>
    `Day ${index + 1} was ${pick(weather, index)}; the ${pick(ships, index)} came in with ${pick(cargo, index)} and left ${pick(cargo, 3 * index + 2)} on pier ${(index % 8) + 1}.`;
  const days = Array.from({ length: Math.ceil(size / 10) }, (_, index) => day(index));
  days.splice(12, 0, fact);
  const text = (count: number): string => `The harbour master's diary.\n\n${days.slice(0, count).join('\n')}\n\n${question}`;
  // The number of days that fits, by halving: a day has more tokens in some vocabularies than in others.
  let fits = 13;
  let tooMany = days.length + 1;
  while (tooMany - fits > 1) {
    const middle = (fits + tooMany) >> 1;
    if (model.tokenize(text(middle)).length <= size) fits = middle;
    else tooMany = middle;
  }
  return text(fits);
}

type Answer = {
  heads: string;
  text: string;
  prefillTokensPerSecond: number;
  decodeTokensPerSecond: number;
  kv: { totalBytes: number; fullBytes: number };
  retrievalHeads: number;
  streamingHeads: number;
};

async function answer(heads: string, context: Context, prompt: string, signal: AbortSignal): Promise<Answer> {
  const { text, prefillTokensPerSecond, decodeTokensPerSecond } = await context
    .generate(prompt, { maxTokens: answerTokens, temperature: 0, stop: ['\n'], signal })
    .collect();
  const { totalBytes, fullBytes, retrievalHeads, streamingHeads } = context.memory();
  return { heads, text, prefillTokensPerSecond, decodeTokensPerSecond, kv: { totalBytes, fullBytes }, retrievalHeads, streamingHeads };
}

function speeds(answers: readonly Answer[]): string {
  const rows = answers.map(({ heads, retrievalHeads, streamingHeads, kv, prefillTokensPerSecond, decodeTokensPerSecond }) => [
    heads,
    formatCount(retrievalHeads),
    formatCount(streamingHeads),
    formatBytes(kv.totalBytes),
    prefillTokensPerSecond.toFixed(1),
    decodeTokensPerSecond.toFixed(1),
  ]);
  return table(['', 'keep all', 'stream', 'KV cache', 'prompt tokens/s', 'answer tokens/s'], rows);
}
