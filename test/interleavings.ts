import fc from 'fast-check';
import { expect } from 'vitest';

import { CancelledError, DisposedError } from '../src/errors.ts';
import type { Context, GenerateOptions, Generation, GenerationResult, Model } from '../src/index.ts';

/** How something that was asked for came out. */
type Ending = { value: unknown } | { error: unknown };

/** What the library should hold: one model, its contexts, and the generations begun on them. */
type Expected = { contexts: boolean[]; generations: { context: number; left: boolean; aborted: boolean }[] };

/** The things themselves. */
type Real = {
  model: Model;
  contexts: Context[];
  generations: { generation: Generation; abort: AbortController; ends: Promise<Ending>[] }[];
  disposals: Promise<void>[];
};

const reason = 'aborted on purpose';

function ending(promise: Promise<unknown>): Promise<Ending> {
  return promise.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  );
}

/** Picks one of those that there are. */
function pick<T>(from: readonly T[], choice: number): { item: T; index: number } | undefined {
  if (from.length === 0) return undefined;
  const index = choice % from.length;
  return { item: from[index] as T, index };
}

class Command implements fc.AsyncCommand<Expected, Real> {
  readonly #name: string;
  readonly #run: (expected: Expected, real: Real) => void | Promise<void>;

  constructor(name: string, run: (expected: Expected, real: Real) => void | Promise<void>) {
    this.#name = name;
    this.#run = run;
  }

  check(): boolean {
    return true;
  }

  async run(expected: Expected, real: Real): Promise<void> {
    await this.#run(expected, real);
  }

  toString(): string {
    return this.#name;
  }
}

const choice = fc.nat(50);
type Act = (real: Real, held: Real['generations'][number], state: Expected['generations'][number]) => void;

/** A command on one of the generations. */
function onGeneration(name: string, act: Act): fc.Arbitrary<Command> {
  return choice.map(
    (n) =>
      new Command(`${name}(${n})`, (expected, real) => {
        const held = pick(real.generations, n);
        const state = held && expected.generations[held.index];
        if (held && state) act(real, held.item, state);
      }),
  );
}

const commands = (options: GenerateOptions): fc.Arbitrary<Command>[] => [
  fc.constant(
    new Command('create', async (expected, real) => {
      if (expected.contexts.filter(Boolean).length >= 3) return;
      real.contexts.push(await real.model.createContext({ contextSize: 512, threads: 1 }));
      expected.contexts.push(true);
    }),
  ),
  fc.tuple(choice, fc.constantFrom(1, 8, 256)).map(
    ([n, readAhead]) =>
      new Command(`generate(${n}, ${readAhead})`, (expected, real) => {
        const context = pick(real.contexts, n);
        if (!context) return;
        const abort = new AbortController();
        if (expected.contexts[context.index]) {
          const generation = context.item.generate('Once', { ...options, readAhead, signal: abort.signal });
          real.generations.push({ generation, abort, ends: [] });
          expected.generations.push({ context: context.index, left: false, aborted: false });
        } else expect(() => context.item.generate('Once')).toThrow(DisposedError);
      }),
  ),
  onGeneration('next', (_, { generation, ends }) => void ends.push(ending(generation.next()))),
  onGeneration('result', (_, { generation, ends }) => void ends.push(ending(generation.result()))),
  onGeneration('collect', (_, { generation, ends }) => void ends.push(ending(generation.result()))),
  onGeneration('return', (_, { generation, ends }, state) => {
    ends.push(ending(generation.return()));
    state.left = true;
  }),
  onGeneration('abort', (_, { abort }, state) => {
    abort.abort(reason);
    state.aborted = true;
  }),
  fc.nat(12).map((ms) => new Command(`wait(${ms})`, () => new Promise((resolve) => setTimeout(resolve, ms)))),
  choice.map(
    (n) =>
      new Command(`dispose(${n})`, (expected, real) => {
        const context = pick(real.contexts, n);
        if (!context) return;
        real.disposals.push(context.item.dispose());
        expected.contexts[context.index] = false;
      }),
  ),
];

/** Whatever happens, everything that was asked for ends, and only as it may. */
async function settle(expected: Expected, real: Real): Promise<void> {
  for (const [index, { generation, ends }] of real.generations.entries()) {
    const state = expected.generations[index];
    const errors: unknown[] = [];
    for (const end of [...ends, ending(generation.result()), ending(generation.next())]) {
      const outcome = await end;
      if ('error' in outcome) errors.push(outcome.error);
    }
    for (const error of errors) {
      const may =
        (error === reason && state?.aborted) ||
        (error instanceof CancelledError && (state?.left || !expected.contexts[state?.context ?? 0])) ||
        (error instanceof DisposedError && !expected.contexts[state?.context ?? 0]);
      if (!may) throw error;
    }
    const untouched = state && !state.left && !state.aborted && expected.contexts[state.context];
    if (untouched) expect(await generation.result()).toMatchObject({ finishReason: 'length' } satisfies Partial<GenerationResult>);
  }
  await Promise.all([...real.disposals, ...real.contexts.map((context) => context.dispose())]);
}

export type InterleavingOptions = {
  model: () => Promise<Model>;
  /** Those of each generation: they end with 'length' where nothing stops them. */
  generate: GenerateOptions;
  runs: number;
  maxCommands: number;
  /** Looks at what is left behind. */
  after?: () => void | Promise<void>;
};

/** Random interleavings of create, generate, next, result, text, return, abort and dispose. */
export async function checkInterleavings({ model, generate, runs, maxCommands, after }: InterleavingOptions): Promise<void> {
  await fc.assert(
    fc.asyncProperty(fc.commands(commands(generate), { maxCommands }), async (sequence) => {
      const expected: Expected = { contexts: [], generations: [] };
      const real: Real = { model: await model(), contexts: [], generations: [], disposals: [] };
      await fc.asyncModelRun(() => ({ model: expected, real }), sequence);
      await settle(expected, real);
      await after?.();
    }),
    { numRuns: runs, ...(process.env['LLAMA_DUO_TEST_SEED'] !== undefined && { seed: Number(process.env['LLAMA_DUO_TEST_SEED']) }) },
  );
}
