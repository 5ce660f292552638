// Compiled, never run: what a program with optional values of its own writes. Each of them may be undefined, which counts as left out.
import { z } from 'zod';

import {
  GrammarError,
  loadModel,
  OptionError,
  readGates,
  tool,
  type CalibrateOptions,
  type ChatOptions,
  type Context,
  type ContextOptions,
  type GenerateOptions,
  type HeadChoice,
  type Model,
  type ModelOptions,
  type ScoreOptions,
  type SendOptions,
} from 'llama-duo';

type Settings = {
  signal?: AbortSignal;
  onProgress?: (progress: number) => void;
  size?: number;
  sparsity?: number;
  gates?: string | URL;
  grammar?: string;
  stop?: string | string[];
};

export async function answer(path: string, prompt: string, settings: Settings): Promise<string> {
  const { signal, onProgress, size, sparsity, gates, grammar, stop } = settings;
  const modelOptions: ModelOptions = { gpuLayers: size, weights: undefined, signal, onProgress, library: undefined };
  const model: Model = await loadModel(path, modelOptions);
  const contextOptions: ContextOptions = {
    contextSize: size,
    sequences: size,
    signal,
    duo: { gates, sparsity, sink: size, windowStep: size },
  };
  const context: Context = await model.createContext(contextOptions);
  const generateOptions: GenerateOptions = { maxTokens: size, grammar, stop, signal, onProgress, seed: size };
  const scoreOptions: ScoreOptions = { from: size, signal, onProgress };
  const calibrateOptions: CalibrateOptions = { samples: size, partial: gates, signal };
  const choice: HeadChoice = { sparsity };
  try {
    await context.score(prompt, scoreOptions);
    await (await readGates(path, { signal })).select(choice);
    const { pattern } = await model.calibrate(calibrateOptions);
    await pattern.embed(path, path, { signal, onProgress });
    for (const { code, message } of context.info.warnings) console.log(code satisfies 'beyond-training', message);
    if (model.gates === undefined) console.log(contextOptions);
    const { text } = await context.generate(prompt, generateOptions).result();
    return text;
  } catch (error) {
    if (error instanceof GrammarError) return error.text;
    if (error instanceof OptionError) return `${error.option}: ${error.expected}`;
    throw error;
  } finally {
    await context.dispose();
    await model.dispose();
  }
}

// @ts-expect-error -- one of the two
export const both: HeadChoice = { sparsity: 0.5, threshold: 0.5 };
// @ts-expect-error -- a slip of the keyboard
export const slip: ContextOptions = { contextsize: 1 };

const weather = tool({
  name: 'weather',
  parameters: z.object({ city: z.string(), day: z.string().optional() }),
  run: ({ city, day }, { signal }) => `${city} on ${day ?? 'this day'}${signal.aborted ? '' : '.'}`,
});

/** What a program with a chat, a schema and sequences writes. */
export async function ask(context: Context, settings: Settings): Promise<{ name: string; age: number; sure: 'yes' | 'no'; text: string }> {
  const { signal, size, grammar } = settings;
  const chatOptions: ChatOptions = { system: grammar, tools: [weather], reasoningBudget: size };
  const sendOptions: SendOptions = { maxTokens: size, signal, temperature: size };
  const chat = context.chat(chatOptions);
  let text = '';
  for await (const chunk of chat.send('Hello', sendOptions)) {
    if (chunk.type === 'text') text += chunk.text;
    else if (chunk.type === 'toolCall') text += chunk.call.name;
  }
  const { name } = await chat.send('Who?', { schema: z.object({ name: z.string() }) }).value();
  const { age } = await context
    .generate('', { schema: { type: 'object', properties: { age: { type: 'integer' } }, required: ['age'], additionalProperties: false } })
    .value();
  const sure = await context.generate('Sure?', { choices: ['yes', 'no'], logitBias: new Map([['yes', 1]]), signal }).value();
  const sequence = await context.sequence({ signal });
  await sequence.append(text, { signal });
  const state: Uint8Array = await sequence.save({ signal });
  await sequence.load(state);
  await sequence.dispose();
  return { name, age, sure, text };
}
