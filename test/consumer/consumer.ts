// Compiled, never run: what a program with optional values of its own writes. Each of them may be undefined, which counts as left out.
import {
  GrammarError,
  loadModel,
  OptionError,
  readGates,
  type CalibrateOptions,
  type Context,
  type ContextOptions,
  type GenerateOptions,
  type HeadChoice,
  type LoadModelOptions,
  type Model,
  type ModelOptions,
  type ScoreOptions,
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
  const modelOptions: ModelOptions = { path, gpuLayers: size, weights: undefined };
  const loadOptions: LoadModelOptions = { signal, onProgress, library: undefined };
  const model: Model = await loadModel(modelOptions, loadOptions);
  const contextOptions: ContextOptions = { contextSize: size, signal, duo: { gates, sparsity, sink: size, windowStep: size } };
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
    const { text } = await context.generate(prompt, generateOptions).collect();
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
// @ts-expect-error -- there are no sequences to be had yet
export const sequences: ContextOptions = { sequences: 2 };
