// Imports, so that bundlers take the files along.
import code from './code.json' with { type: 'json' };
import language from './language.json' with { type: 'json' };
import said from './said.json' with { type: 'json' };
import type { Random } from './random.ts';

/** The texts of one synthetic task: language.json says what each part is. A task has those that it needs. */
export type TaskTexts = {
  intro: string;
  question: string;
  answer: string;
  expected: string;
  needle: string;
  join: string;
  names: string[];
  needles: number;
  asked: number;
  chains: number;
  hops: number;
  first: string;
  next: string;
  hop: string;
  common: number;
  often: number;
  rarely: number;
  alpha: number;
  functionsPerNumber: number;
  item: string;
  separator: string;
  end: string;
  /** What ends an answer's sentence: nothing in a plain text. */
  stop: string;
};

type LanguageJson = {
  haystack: { patterns: string[]; words: Record<string, string[]> };
  keys: string[];
  value: { digits: number };
  tasks: Record<string, Partial<TaskTexts>>;
};

const json: LanguageJson = language;
const tasks: LanguageJson['tasks'] = { ...json.tasks, ...code.tasks };

/** What replaces a task's texts in a chat. */
export const inChat: LanguageJson['tasks'] = said.tasks;

const haystackWords = new Map(Object.entries(json.haystack.words).map(([name, lines]) => [name, words(lines)]));

/** Words that are never in the haystack: keys of needles, variables and items of lists. */
export const keys: readonly string[] = words(json.keys);

/** A task's texts, as they are in a plain text or in a chat. */
export function texts(task: string, { chat }: { chat: boolean } = { chat: false }): TaskTexts {
  const found = tasks[task];
  if (!found) throw new Error(`There are no texts of a task ${task}`);
  return { stop: '', ...found, ...(chat ? inChat[task] : {}), names: words(found.names ?? []) } as TaskTexts;
}

/** Functions of source code, with slots. */
export const codePatterns: readonly string[] = code.functions.patterns;

/** The words of the haystack that may stand in a slot of its sentences. */
export function wordsOf(slot: string): readonly string[] {
  return haystackWords.get(slot) ?? [];
}

/** One sentence of the haystack. */
export function sentence(random: Random): string {
  return random.pick(json.haystack.patterns).replaceAll(/\{(\w+)\}/g, (_, slot: string) => random.pick(wordsOf(slot)));
}

/** The digits of a needle's value; the first may be a 0. */
export function value(random: Random): string {
  return Array.from({ length: json.value.digits }, () => random.below(10)).join('');
}

/** A text with its {slots} filled. */
export function fill(text: string, slots: Readonly<Record<string, string>>): string {
  return text.replaceAll(/\{(\w+)\}/g, (slot, name: string) => slots[name] ?? slot);
}

/** `a, b and c` */
export function list(items: readonly string[]): string {
  return items.length < 2 ? items.join('') : `${items.slice(0, -1).join(', ')} and ${items.at(-1) ?? ''}`;
}

function words(lines: readonly string[]): string[] {
  return lines.flatMap((line) => line.split(' ')).filter((word) => word !== '');
}
