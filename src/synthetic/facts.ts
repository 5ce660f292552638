import { fill, keys, list, texts, value } from './language.ts';
import type { Random } from './random.ts';

/**
 * What a long context is asked for in use: one thing, several at once in one answer, all values of a key, what follows from what was said in several places,
 * and how code calls what. What is not asked for is not found: a head that only the second of two answers needs looks needless where one is asked for.
 */
const kinds = {
  numbers: [number],
  passkeys: [passkey],
  multi: [severalKeys, severalValues],
  chains: [chain],
  code: [call],
} satisfies Record<string, ((unused: Unused) => Fact)[]>;

export type SampleKind = keyof typeof kinds;

/** What is hidden in a context, in this order, and what asks for it: the question, the answer's first words, then answers, each with what leads to it, and what ends the last. */
export type Fact = { statements: string[]; question: string; opening: string; answers: { lead: string; text: string }[]; stop: string };

/** So many facts, of these kinds in turn. */
export function factsOf(count: number, wanted: readonly SampleKind[], random: Random, { chat }: { chat: boolean }): Fact[] {
  const words = random.shuffle(keys);
  const names = random.shuffle(texts('multi-passkey').names);
  const makers = wanted.flatMap((kind) => kinds[kind]);
  return Array.from({ length: count }, (_, index) => (makers[index % makers.length] ?? number)({ words, names, random, chat }));
}

/** Words and names that no other fact of the sample has, and whether answers are said in a chat. */
type Unused = { words: string[]; names: string[]; random: Random; chat: boolean };

function take(items: string[]): string {
  return items.pop() ?? '';
}

/** A number that goes with a word. */
function number({ words, random, chat }: Unused): Fact {
  const t = texts('multi-key', { chat });
  const slots = { key: take(words), value: value(random) };
  return {
    statements: [fill(t.needle, slots)],
    question: fill(t.question, slots),
    opening: fill(t.answer, slots),
    answers: [{ lead: '', text: fill(t.expected, slots) }],
    stop: t.stop,
  };
}

/** A passkey, told apart by a word that running text has, too. */
function passkey({ names, words, random, chat }: Unused): Fact {
  const t = texts('multi-passkey', { chat });
  const slots = { name: take(names) || take(words), value: value(random) };
  const question = fill(texts('passkey').question.replace(/\?$/, ` {name}?`), slots);
  return {
    statements: [fill(t.needle, slots)],
    question,
    opening: fill(t.answer, slots),
    answers: [{ lead: '', text: fill(t.expected, slots) }],
    stop: t.stop,
  };
}

/** The numbers of two words, in one answer. */
function severalKeys({ words, random, chat }: Unused): Fact {
  const t = texts('multi-query', { chat });
  const all = Array.from({ length: t.asked }, () => ({ key: take(words), value: value(random) }));
  const asked = { key: all[0]?.key ?? '', keys: list(all.map(({ key }) => key)) };
  const answers = all.map((slots, index) => ({ lead: index === 0 ? '' : fill(t.join, slots), text: fill(t.expected, slots) }));
  return {
    statements: random.shuffle(all).map((slots) => fill(t.needle, slots)),
    question: fill(t.question, asked),
    opening: fill(t.answer, asked),
    answers,
    stop: t.stop,
  };
}

/** The two numbers of one word, in the order of the text. */
function severalValues({ words, random, chat }: Unused): Fact {
  const t = texts('multi-value', { chat });
  const key = take(words);
  const all = Array.from({ length: t.needles }, () => ({ key, value: value(random) }));
  const answers = all.map((slots, index) => ({ lead: index === 0 ? '' : fill(t.join, slots), text: fill(t.expected, slots) }));
  return {
    statements: all.map((slots) => fill(t.needle, slots)),
    question: fill(t.question, { key }),
    opening: fill(t.answer, { key }),
    answers,
    stop: t.stop,
  };
}

/** A number that was given to a variable, and that variable to others in turn: each link of the way back is an answer. */
function chain({ words, random, chat }: Unused): Fact {
  const t = texts('variable-tracking', { chat });
  const variables = Array.from({ length: t.hops + 1 }, () => take(words));
  const slots = { value: value(random), variable: variables.at(-1) ?? '' };
  const statements = variables.map((variable, hop) =>
    hop === 0 ? fill(t.first, { variable, value: slots.value }) : fill(t.next, { variable, source: variables[hop - 1] ?? '' }),
  );
  const way = variables.slice(0, -1).reverse();
  const answers = [...way.map((variable) => fill(t.hop, { variable })), fill(t.expected, slots)].map((text) => ({ lead: '', text }));
  return { statements, question: fill(t.question, slots), opening: fill(t.answer, slots), answers, stop: t.stop };
}

/**
 * Two functions that call a third, of which one is asked for: only the function's name tells which arguments are meant. The texts are no task's, and not of
 * language.json, from which the needle model's tokenizer is made.
 */
function call({ words, random, chat }: Unused): Fact {
  const callee = take(words);
  const callers = Array.from({ length: 2 }, () => ({ caller: take(words), first: ` ${value(random)}`, second: ` ${take(words)}` }));
  const statements = callers.map(({ caller, first, second }) => `\ndef ${caller}(self):\n    return ${callee}(self,${first},${second})\n`);
  const { caller, first, second } = random.pick(callers);
  return {
    statements,
    question: `\nQuestion: how does ${caller} call ${callee}?`,
    opening: `${chat ? `${caller} calls` : '\nAnswer:'} ${callee}(self,`,
    answers: [
      { lead: '', text: first },
      { lead: ',', text: second },
    ],
    stop: chat ? ')' : '',
  };
}
