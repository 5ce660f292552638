import { codePatterns, fill, value, wordsOf } from './language.ts';
import type { Random } from './random.ts';

/** A function of made-up source code, and one of its calls: what it passes to whom. */
export type CodeFunction = { text: string; name: string; callee: string; value: string };

/**
 * @param taken the name of another function, which this one may not have
 * @param literals whether it passes numbers; else it passes variables
 */
export function codeFunction(random: Random, { taken, literals = true }: { taken?: string; literals?: boolean } = {}): CodeFunction {
  const [verbs, objects] = [wordsOf('handled'), wordsOf('object')];
  const draw = (): string => `${random.pick(verbs)}_${random.pick(objects)}`;
  let name = draw();
  while (name === taken) name = draw();
  const [callee = '', other = ''] = random.sample(verbs, 2);
  const [first = '', second = '', third = '', fourth = ''] = random.sample(objects, 4);
  const [passed, number] = literals ? [value(random), value(random)] : [third, fourth];
  const text = fill(random.pick(codePatterns), { name, callee, other, first, second, value: passed, number });
  return { text, name, callee, value: passed };
}
