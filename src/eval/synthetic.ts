import { codeFunction } from '../synthetic/code.ts';
import { fill, keys, list, texts, value, type TaskTexts } from '../synthetic/language.ts';
import type { PromptWriter, Question } from './prompt.ts';
import type { Random } from '../synthetic/random.ts';
import type { Expected } from './scoring.ts';

/** A prompt before it is written: what is asked for, and what writes the prompt in a number of tokens. */
export type Sketch = { expected: Expected; write: (writer: PromptWriter, length: number, depth: number | null) => Int32Array };

/** What a haystack hides, in this order, and what asks for it. */
export type Fact = { statements: readonly string[]; question: Question; expected: Expected };

/** A fact made of some of these words. */
export type FactMaker = (random: Random, words: readonly string[], frame: { chat: boolean }) => Fact;

/** A task whose prompts are made up: one of RULER's families (arXiv 2404.06654), DuoAttention's passkeys (arXiv 2410.10819), or a look-up in source code. */
export type SyntheticTask = {
  /** Whether its one needle is put at given depths. */
  hasDepth: boolean;
  sketch: (random: Random, frame: { chat: boolean }) => Sketch;
  /** Makes a fact that can lie in a haystack beside those of other tasks. None where the question is about all of the text, or would be about others' facts, too. */
  fact?: FactMaker;
};

export const syntheticTasks: Readonly<Record<string, SyntheticTask>> = {
  needle: hidden(needles('needle'), { hasDepth: true }),
  'multi-key': hidden(needles('multi-key')),
  'multi-value': hidden(multiValue),
  'multi-query': hidden(needles('multi-query')),
  passkey: { hasDepth: true, sketch: hidden(passkey).sketch }, // it has no name, so a text has but one
  'multi-passkey': hidden(multiPasskey),
  'variable-tracking': hidden(variableTracking),
  'common-words': { hasDepth: false, sketch: commonWords },
  'frequent-words': { hasDepth: false, sketch: frequentWords },
  'code-argument': { hasDepth: true, sketch: codeArgument },
};

/** A task of one fact in a haystack. */
function hidden(fact: FactMaker, { hasDepth = false } = {}): SyntheticTask & { fact: FactMaker } {
  const sketch: SyntheticTask['sketch'] = (random, frame) => {
    const { statements, question, expected } = fact(random, keys, frame);
    return { expected, write: (writer, length, depth) => writer.withStatements(length, question, statements, depth, random) };
  };
  return { hasDepth, sketch, fact };
}

// --- needles: statements in a haystack ---

type Needle = { name: string; value: string };

/** Needles with different keys; `asked` of them are asked for. */
function needles(task: string): FactMaker {
  return (random, words, frame) => {
    const t = texts(task, frame);
    const all = random.sample(words, t.needles).map((key): Needle => ({ name: key, value: value(random) }));
    const asked = random.sample(all, t.asked);
    return inHaystack(t, all.map(statement(t)), asked, { key: asked[0]?.name ?? '', keys: list(asked.map(({ name }) => name)) });
  };
}

/** Several values of one key, all asked for. */
function multiValue(random: Random, words: readonly string[], frame: { chat: boolean }): Fact {
  const t = texts('multi-value', frame);
  const name = random.pick(words);
  const all = different(t.needles, () => value(random)).map((value): Needle => ({ name, value }));
  return inHaystack(t, all.map(statement(t)), all, { key: name });
}

function passkey(random: Random, _: readonly string[], frame: { chat: boolean }): Fact {
  const t = texts('passkey', frame);
  const all = [{ name: '', value: value(random) }];
  return inHaystack(t, all.map(statement(t)), all, {});
}

function multiPasskey(random: Random, _: readonly string[], frame: { chat: boolean }): Fact {
  const t = texts('multi-passkey', frame);
  const all = t.names.slice(0, t.needles).map((name): Needle => ({ name, value: value(random) }));
  return inHaystack(t, all.map(statement(t)), all, { name: all[0]?.name ?? '' });
}

function statement(t: TaskTexts): (needle: Needle) => string {
  return ({ name, value }) => fill(t.needle, { key: name, name, value });
}

/** @param asked in the order of the answer */
function inHaystack(t: TaskTexts, statements: readonly string[], asked: readonly Needle[], slots: Readonly<Record<string, string>>): Fact {
  const text = asked.map(({ name, value }, index) => {
    const join = index === 0 ? '' : fill(t.join, { key: name, name });
    return join + fill(t.expected, { value });
  });
  return {
    expected: { text: text.join(''), parts: asked.map(({ value }) => value), kind: 'numbers' },
    statements,
    question: question(t, slots),
  };
}

function question(t: TaskTexts, slots: Readonly<Record<string, string>>): Question {
  return { intro: t.intro, question: fill(t.question, slots), answer: fill(t.answer, slots) };
}

// --- variable tracking: chains of statements ---

function variableTracking(random: Random, words: readonly string[], frame: { chat: boolean }): Fact {
  const t = texts('variable-tracking', frame);
  const names = random.sample(words, t.chains * (t.hops + 1));
  const values = different(t.chains, () => value(random));
  const chains = values.map((value, chain) => ({ value, variables: names.slice(chain * (t.hops + 1), (chain + 1) * (t.hops + 1)) }));
  const statements = chains.map(({ value, variables }) =>
    variables.map((variable, hop) =>
      hop === 0 ? fill(t.first, { variable, value }) : fill(t.next, { variable, source: variables[hop - 1] ?? '' }),
    ),
  );
  const asked = random.pick(chains);
  const last = asked.variables.at(-1) ?? '';
  const path = asked.variables.slice(0, -1).reverse();
  const text = path.map((variable) => fill(t.hop, { variable })).join('') + fill(t.expected, { value: asked.value });
  return {
    expected: { text, parts: [asked.value], kind: 'numbers' },
    statements: random.interleave(statements),
    question: question(t, { variable: last }),
  };
}

// --- an argument of a call in source code ---

function codeArgument(random: Random, frame: { chat: boolean }): Sketch {
  const t = texts('code-argument', frame);
  const asked = codeFunction(random);
  return {
    expected: { text: fill(t.expected, { value: asked.value }), parts: [asked.value], kind: 'numbers' },
    write: (writer, length, depth) => {
      // As in most code, few functions pass numbers. Where all do, a name that differs from others in one word tells too little: Qwen2.5-Coder-1.5B found 2% of them.
      // One of the first does, so that a number alone is no answer.
      let until = random.below(8);
      const unit = (random: Random): string => {
        const literals = until-- === 0;
        if (literals) until = random.below(2 * t.functionsPerNumber);
        return codeFunction(random, { other: asked, literals }).text;
      };
      return writer.withStatements(length, question(t, asked), [asked.text], depth, random, { join: '\n\n', unit });
    },
  };
}

// --- words that come most often in a list ---

function commonWords(random: Random, frame: { chat: boolean }): Sketch {
  const t = texts('common-words', frame);
  const shuffled = random.shuffle(keys);
  const common = shuffled.slice(0, t.common);
  const others = shuffled.slice(t.common);
  const occurrences = (items: number): string[] => {
    const units = Math.max(1, Math.floor(items / (common.length * t.often + others.length * t.rarely)));
    // A list too short for all the others still has several occurrences of the common words.
    const each = Math.min(t.often * units, Math.floor(items / (common.length + 1)));
    return common.flatMap((word) => new Array<string>(each).fill(word));
  };
  return inList(t, common, occurrences, others, random);
}

function frequentWords(random: Random, frame: { chat: boolean }): Sketch {
  const t = texts('frequent-words', frame);
  const ranked = random.shuffle(keys);
  const weights = ranked.map((_, index) => (index + 1) ** -t.alpha);
  const sum = weights.reduce((total, weight) => total + weight, 0);
  const occurrences = (items: number): string[] =>
    ranked.flatMap((word, index) => new Array<string>(Math.floor((items * (weights[index] ?? 0)) / sum)).fill(word));
  // What rounding left over goes to words that come least.
  return inList(t, ranked.slice(0, t.common), occurrences, ranked.slice(Math.floor(ranked.length / 2)), random);
}

/**
 * @param occurrences the words of a list of about so many items that must be in it
 * @param others what the list is filled up with, in turn
 */
function inList(
  t: TaskTexts,
  asked: readonly string[],
  occurrences: (items: number) => string[],
  others: readonly string[],
  random: Random,
): Sketch {
  const count = texts('multi-passkey').names[asked.length - 1] ?? '';
  const item = (word: string, after: string): string => fill(t.item, { word }) + after;
  return {
    expected: { text: asked.map((word) => fill(t.expected, { word })).join(t.join), parts: asked, kind: 'words' },
    write: (writer, length) =>
      writer.withList(length, question(t, { count }), (room) => {
        const costs = new Map<string, number>(keys.map((word) => [word, writer.encoder.next(item(word, t.separator)).length]));
        const cost = (word: string): number => costs.get(word) ?? 0;
        const mean = [...costs.values()].reduce((sum, tokens) => sum + tokens, 0) / costs.size;
        const total = (words: readonly string[]): number => words.reduce((sum, word) => sum + cost(word), 0);
        // Where the frequent words have more tokens than most, fewer items fit.
        let items = Math.floor(room / mean);
        while (total(occurrences(items)) > room) items--;
        const words = occurrences(items);
        let rest = room - total(words);
        for (let next = 0; ; next++) {
          const word = others[next % others.length] ?? '';
          // The last one is one that just fits, if there is any.
          const fitting = cost(word) <= rest ? word : others.find((other) => cost(other) <= rest);
          if (fitting === undefined) break;
          words.push(fitting);
          rest -= cost(fitting);
        }
        const shuffled = random.shuffle(words);
        return shuffled.map((word, index) => item(word, index === shuffled.length - 1 ? t.end : t.separator));
      }),
  };
}

/** Values that are not the same. */
function different(count: number, draw: () => string): string[] {
  const drawn = new Set<string>();
  while (drawn.size < count) drawn.add(draw());
  return [...drawn];
}
