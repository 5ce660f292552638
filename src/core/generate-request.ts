import { OptionError } from '../errors.ts';
import { nativeOptions } from './check-options.ts';
import { generateTable } from './option-tables.ts';
import type { GenerateOptions } from './option-types.ts';
import { toJsonSchema } from './schema.ts';

/** What each says of the text. */
const forms = ['schema', 'choices', 'grammar'] as const;

/**
 * Options of a generation as the library takes them.
 *
 * @throws OptionError where two say what the text has to be
 */
export function generateRequest(options: GenerateOptions): Record<string, unknown> {
  const { stop, schema, choices, logitBias } = options;
  const [first, second] = forms.filter((form) => options[form] !== undefined);
  if (first && second) throw new OptionError(second, options[second], `no ${second} beside a ${first}: each says what the text has to be`);
  return {
    ...nativeOptions(options, generateTable),
    ...(stop !== undefined && { stop: [stop].flat() }),
    ...(logitBias !== undefined && { logitBias: [...logitBias] }),
    ...(schema && { jsonSchema: toJsonSchema('schema', schema) }),
    ...(choices && { grammar: grammarOfChoices(choices) }),
  };
}

/** A grammar of some texts, in llama.cpp's GBNF. */
export function grammarOfChoices(choices: readonly string[]): string {
  return `root ::= ${choices.map((text) => `"${Array.from(text, escape).join('')}"`).join(' | ')}`;
}

/** Letters, digits and spaces as they are; all else by its number, so that nothing in it has a meaning of its own. */
function escape(character: string): string {
  if (/[A-Za-z0-9 ]/.test(character)) return character;
  return `\\U${(character.codePointAt(0) ?? 0).toString(16).padStart(8, '0')}`;
}
