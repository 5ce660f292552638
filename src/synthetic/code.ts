import { codePatterns, fill, value, wordsOf } from './language.ts';
import type { Random } from './random.ts';

/** A function of made-up source code, and one of its calls: what it passes to whom. */
export type CodeFunction = { text: string; name: string; callee: string; value: string };

/**
 * @param other a function whose name and number this one may not have
 * @param literals whether it passes numbers; else it passes variables
 */
export function codeFunction(random: Random, { other, literals = true }: { other?: CodeFunction; literals?: boolean } = {}): CodeFunction {
  const [verbs, objects] = [wordsOf('handled'), wordsOf('object')];
  const name = unlike(other ? [other.name] : [], () => `${random.pick(verbs)}_${random.pick(objects)}`);
  const [callee = '', second = ''] = random.sample(verbs, 2);
  const [first = '', next = '', third = '', fourth = ''] = random.sample(objects, 4);
  const taken = other ? [other.value] : [];
  const passed = literals ? unlike(taken, () => value(random)) : third;
  const number = literals ? unlike([...taken, passed], () => value(random)) : fourth;
  const text = fill(random.pick(codePatterns), { name, callee, other: second, first, second: next, value: passed, number });
  return { text, name, callee, value: passed };
}

function unlike(taken: readonly string[], draw: () => string): string {
  for (;;) {
    const drawn = draw();
    if (!taken.includes(drawn)) return drawn;
  }
}
