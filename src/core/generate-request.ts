import { OptionError, SchemaError } from '../errors.ts';
import { nativeOptions, toJson } from './check-options.ts';
import { generateTable } from './option-tables.ts';
import type { GenerateOptions } from './option-types.ts';
import { parseBySchema, toJsonSchema } from './schema.ts';

/** What each says of the text. */
const forms = ['schema', 'choices', 'grammar'] as const;
type FormOptions = Pick<GenerateOptions, (typeof forms)[number]>;

/** What a text has to be, as the library takes it. */
export type Form = { jsonSchema?: object; grammar?: string };

/**
 * Options of a generation as the library takes them.
 *
 * @throws OptionError where two say what the text has to be
 */
export function generateRequest(options: GenerateOptions): Record<string, unknown> {
  const { stop, logitBias } = options;
  return {
    ...nativeOptions(options, generateTable),
    ...(stop !== undefined && { stop: [stop].flat() }),
    ...(logitBias !== undefined && { logitBias: [...logitBias] }),
    ...formOf(options),
  };
}

/**
 * What a text has to be.
 *
 * @throws OptionError where two options say that
 */
export function formOf(options: FormOptions): Form {
  const { schema, choices, grammar } = options;
  const [first, second] = givenForms(options);
  if (first && second) throw new OptionError(second, options[second], `no ${second} beside a ${first}: each says what the text has to be`);
  return {
    ...(schema && { jsonSchema: toJsonSchema('schema', schema) }),
    ...(choices && { grammar: grammarOfChoices(choices) }),
    ...(grammar !== undefined && { grammar }),
  };
}

/**
 * What a text says, by the option that says what it has to be; without one it is the text.
 *
 * @throws SchemaError where it is something else: it may have been cut off
 */
export async function valueOf({ schema, choices }: FormOptions, text: string): Promise<unknown> {
  if (schema) return parseBySchema(schema, text);
  if (choices && !choices.includes(text)) {
    throw new SchemaError('The text is none of the choices; it may have been cut off.', text, [
      { path: '', message: `one of ${choices.join(', ')}` },
    ]);
  }
  return text;
}

/** Which options say what a text has to be. */
export function givenForms(options: FormOptions): (keyof FormOptions)[] {
  return forms.filter((form) => options[form] !== undefined);
}

/** A grammar of some texts, in llama.cpp's GBNF. */
function grammarOfChoices(choices: readonly string[]): string {
  toJson({ choices }); // tells of half a character, which has no number
  return `root ::= ${choices.map((text) => `"${Array.from(text, escape).join('')}"`).join(' | ')}`;
}

/** Letters, digits and spaces as they are; all else by its number, so that nothing in it has a meaning of its own. */
function escape(character: string): string {
  if (/[A-Za-z0-9 ]/.test(character)) return character;
  return `\\U${(character.codePointAt(0) ?? 0).toString(16).padStart(8, '0')}`;
}
