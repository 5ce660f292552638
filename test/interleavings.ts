import fc from 'fast-check';
import { expect } from 'vitest';

import { CancelledError, DisposedError, LlamaDuoError } from '../src/errors.ts';
import type { Context, GenerateOptions, Generation, GenerationResult, Model, Sequence } from '../src/index.ts';

/** How something that was asked for came out. */
type Ending = { value: unknown } | { error: unknown };

/** What the library should hold: one model, its contexts, the generations begun on them or on sequences of theirs, and those sequences. */
type Expected = {
  contexts: boolean[];
  generations: { context: number; sequence: number | undefined; left: boolean; aborted: boolean }[];
  sequences: { context: number; disposed: boolean; aborted: boolean }[];
};

/** The things themselves. */
type Real = {
  model: Model;
  contexts: Context[];
  generations: { generation: Generation; abort: AbortController; ends: Promise<Ending>[] }[];
  /** Each once it is free; its calls are aborted together. */
  sequences: { sequence: Sequence | undefined; abort: AbortController; ends: Promise<Ending>[] }[];
  states: Uint8Array[];
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

/** At most three contexts at a time, each with up to so many sequences. */
const create = (maxSequences: number): fc.Arbitrary<Command> =>
  fc.integer({ min: 1, max: maxSequences }).map(
    (sequences) =>
      new Command(`create(${sequences})`, async (expected, real) => {
        if (expected.contexts.filter(Boolean).length >= 3) return;
        real.contexts.push(await real.model.createContext({ contextSize: 512, sequences, threads: 1 }));
        expected.contexts.push(true);
      }),
  );

const commands = (options: GenerateOptions): fc.Arbitrary<Command>[] => [
  fc.tuple(choice, fc.constantFrom(1, 8, 256)).map(
    ([n, readAhead]) =>
      new Command(`generate(${n}, ${readAhead})`, (expected, real) => {
        const context = pick(real.contexts, n);
        if (!context) return;
        const abort = new AbortController();
        if (expected.contexts[context.index]) {
          const generation = context.item.generate('Once', { ...options, readAhead, signal: abort.signal });
          real.generations.push({ generation, abort, ends: [] });
          expected.generations.push({ context: context.index, sequence: undefined, left: false, aborted: false });
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

type Held = { sequence: Sequence; ends: Promise<Ending>[]; signal: AbortSignal };

/** A command on one of the sequences that were had. */
function onSequence<T>(
  name: string,
  arbitrary: fc.Arbitrary<T>,
  act: (held: Held, value: T, expected: Expected, real: Real, index: number) => void,
): fc.Arbitrary<Command> {
  return fc.tuple(choice, arbitrary).map(
    ([n, value]) =>
      new Command(`${name}(${n}, ${JSON.stringify(value)})`, (expected, real) => {
        const held = pick(real.sequences, n);
        const { sequence, ends, abort } = held?.item ?? {};
        if (held && sequence && ends && abort) act({ sequence, ends, signal: abort.signal }, value, expected, real, held.index);
      }),
  );
}

/** Waits for a sequence, and has it from then on. */
function hold(expected: Expected, real: Real, context: number, ask: (signal: AbortSignal) => Promise<Sequence>): void {
  const held: Real['sequences'][number] = { sequence: undefined, abort: new AbortController(), ends: [] };
  real.sequences.push(held);
  expected.sequences.push({ context, disposed: false, aborted: false });
  const asked = ask(held.abort.signal).then((sequence) => {
    held.sequence = sequence;
  });
  held.ends.push(ending(asked));
}

const count = fc.integer({ min: 1, max: 40 });
const ids = (length: number): number[] => Array.from({ length }, (_, index) => 100 + ((index * 7) % 90));

const keep = choice.map(
  (n) =>
    new Command(`sequence(${n})`, async (expected, real) => {
      const context = pick(real.contexts, n);
      if (!context) return;
      hold(expected, real, context.index, (signal) => context.item.sequence({ signal }));
      if (n % 2 === 0) await new Promise((resolve) => setTimeout(resolve, 4)); // mostly it is there by then
    }),
);

const sequenceCommands = (options: GenerateOptions): fc.Arbitrary<Command>[] => [
  onSequence('fork', fc.constant(0), ({ sequence }, _, expected, real, index) => {
    hold(expected, real, expected.sequences[index]?.context ?? 0, (signal) => sequence.fork({ signal }));
  }),
  onSequence('append', count, ({ sequence, ends, signal }, length) => void ends.push(ending(sequence.append(ids(length), { signal })))),
  onSequence('score', count, ({ sequence, ends, signal }, length) => void ends.push(ending(sequence.score(ids(length), { signal })))),
  onSequence('truncate', fc.nat(60), ({ sequence, ends, signal }, length) => void ends.push(ending(sequence.truncate(length, { signal })))),
  onSequence('logits', fc.constant(0), ({ sequence, ends, signal }) => void ends.push(ending(sequence.logits({ signal })))),
  onSequence('save', fc.constant(0), ({ sequence, ends, signal }, _, __, real) => {
    ends.push(ending(sequence.save({ signal }).then((state) => real.states.push(state))));
  }),
  onSequence('load', choice, ({ sequence, ends, signal }, which, _, real) => {
    const state = pick(real.states, which);
    if (state) ends.push(ending(sequence.load(state.item, { signal })));
  }),
  onSequence('generateOn', fc.constantFrom(1, 8, 256), ({ sequence }, readAhead, expected, real, index) => {
    const state = expected.sequences[index];
    const abort = new AbortController();
    const generate = (): Generation => sequence.generate(ids(3), { ...options, readAhead, signal: abort.signal });
    if (state && !state.disposed) {
      real.generations.push({ generation: generate(), abort, ends: [] });
      expected.generations.push({ context: state.context, sequence: index, left: false, aborted: false });
    } else expect(generate).toThrow(DisposedError);
  }),
  onSequence('giveBack', fc.constant(0), ({ sequence, ends }, _, expected, __, index) => {
    ends.push(ending(sequence.dispose()));
    const state = expected.sequences[index];
    if (state) state.disposed = true;
  }),
  choice.map(
    (n) =>
      new Command(`abortSequence(${n})`, (expected, real) => {
        const held = pick(real.sequences, n);
        const state = held && expected.sequences[held.index];
        if (!held || !state) return;
        held.item.abort.abort(reason);
        state.aborted = true;
      }),
  ),
];

/** What a call on a sequence may come to because of what others have done: it is too long, or holds less than is asked of it. */
function isRefusal(error: unknown): boolean {
  return error instanceof LlamaDuoError && ['full', 'state', 'option'].includes(error.code);
}

/** Everything that was asked of sequences ends, and they go back. */
async function settleSequences(expected: Expected, real: Real): Promise<void> {
  for (const { abort } of real.sequences) abort.abort(reason);
  for (const [index, held] of real.sequences.entries()) {
    const state = expected.sequences[index];
    for (const end of held.ends) {
      const outcome = await end;
      if (!('error' in outcome)) continue;
      const { error } = outcome;
      const isGone = state?.disposed || !expected.contexts[state?.context ?? 0];
      // A fork of one that was disposed of is none itself.
      const may =
        error === reason ||
        isRefusal(error) ||
        error instanceof CancelledError ||
        (error instanceof DisposedError && (isGone || !held.sequence));
      if (!may) throw error;
    }
    if (state) state.disposed = true;
    await held.sequence?.dispose();
  }
}

/** None is lost: all of a context's sequences can be had. */
async function expectAllFree(expected: Expected, real: Real): Promise<void> {
  for (const [index, context] of real.contexts.entries()) {
    if (!expected.contexts[index]) continue;
    const signal = AbortSignal.timeout(20_000);
    const all = await Promise.all(Array.from({ length: context.info.sequences }, () => context.sequence({ signal })));
    await Promise.all(all.map((sequence) => sequence.dispose()));
  }
}

/** Whatever happens, everything that was asked for ends, and only as it may. */
async function settle(expected: Expected, real: Real): Promise<void> {
  await settleSequences(expected, real);
  for (const [index, { generation, ends }] of real.generations.entries()) {
    const state = expected.generations[index];
    const isGone =
      !expected.contexts[state?.context ?? 0] || (state?.sequence !== undefined && expected.sequences[state.sequence]?.disposed);
    const errors: unknown[] = [];
    for (const end of [...ends, ending(generation.result()), ending(generation.next())]) {
      const outcome = await end;
      if ('error' in outcome) errors.push(outcome.error);
    }
    for (const error of errors) {
      const may =
        (error === reason && state?.aborted) ||
        (error instanceof CancelledError && (state?.left || isGone)) ||
        (error instanceof DisposedError && isGone) ||
        (state?.sequence !== undefined && isRefusal(error));
      if (!may) throw error;
    }
    const untouched = state && !state.left && !state.aborted && !isGone;
    if (untouched) expect(await generation.result()).toMatchObject({ finishReason: 'length' } satisfies Partial<GenerationResult>);
  }
  await expectAllFree(expected, real);
  await Promise.all([...real.disposals, ...real.contexts.map((context) => context.dispose())]);
}

export type InterleavingOptions = {
  model: () => Promise<Model>;
  /** Those of each generation: they end with 'length' where nothing stops them. */
  generate: GenerateOptions;
  /** Sequences of a context at most, and whether programs keep some. Default: 1, and none is kept. */
  sequences?: number;
  runs: number;
  maxCommands: number;
  /** Looks at what is left behind. */
  after?: () => void | Promise<void>;
};

/**
 * Random interleavings of create, generate, next, result, return, abort and dispose; and where there are sequences to keep, of what they do: append, score,
 * fork, truncate, logits, save, load, generate.
 */
export async function checkInterleavings({ model, generate, sequences, runs, maxCommands, after }: InterleavingOptions): Promise<void> {
  // Without a context, and without sequences, there is little to do.
  const makers = [create(sequences ?? 1), create(sequences ?? 1), ...(sequences === undefined ? [] : [keep, keep])];
  const all = [...makers, ...makers, ...commands(generate), ...(sequences === undefined ? [] : sequenceCommands(generate))];
  await fc.assert(
    fc.asyncProperty(fc.commands(all, { maxCommands, size: 'max' }), async (sequence) => {
      const expected: Expected = { contexts: [], generations: [], sequences: [] };
      const real: Real = { model: await model(), contexts: [], generations: [], sequences: [], states: [], disposals: [] };
      await fc.asyncModelRun(() => ({ model: expected, real }), sequence);
      await settle(expected, real);
      await after?.();
    }),
    { numRuns: runs },
  );
}
