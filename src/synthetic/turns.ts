import { OptionError, TemplateError } from '../errors.ts';
import type { CoreModel } from '../core/model.ts';

/** What stands around a text that is asked about, and around questions and answers: nothing but the token that begins a text, or a chat template. */
export type Turns = {
  before: readonly number[];
  /** Between a question and its answer. */
  answering: readonly number[];
  /** What ends an answer: the template's tokens up to the first that is no text. None in a plain text, and where the template has no such token. */
  ending: readonly number[];
  /** Between that and the next question. */
  asking: readonly number[];
  chat: boolean;
};

/** One plain text. */
export function plainTurns(model: Pick<CoreModel, 'info'>): Turns {
  return { before: beginning(model), answering: [], ending: [], asking: [], chat: false };
}

/**
 * The user's turns, the first of which has the text, and the assistant's, in the model's own chat template.
 *
 * @throws OptionError for a model without a template, or with one that does not show messages as they are
 */
export async function chatTurns(model: Pick<CoreModel, 'tokenize' | 'info' | 'chatPrompt'>): Promise<Turns> {
  if (model.info.chatTemplate === null) throw new OptionError('chat', true, 'false: the model has no template for messages');
  const messages = places.map((content, index) => ({ role: index % 2 === 0 ? ('user' as const) : ('assistant' as const), content }));
  const { text } = await model.chatPrompt(messages, { now: templateTime });
  const [before, answering, asking, ...rest] = text.split(new RegExp(places.join('|')));
  if (before === undefined || answering === undefined || asking === undefined || rest.length !== 1) {
    throw new OptionError('chat', true, "false: the model's template does not show each message once, as it is");
  }
  const encode = (part: string): number[] => [...model.tokenize(part, { addSpecial: false, parseSpecial: true })];
  const between = encode(asking);
  const asText = new Set(model.tokenize(asking, { addSpecial: false, parseSpecial: false }));
  const end = 1 + between.findIndex((token) => !asText.has(token));
  return {
    before: [...beginning(model), ...encode(before)],
    answering: encode(answering),
    ending: between.slice(0, end),
    asking: between.slice(end),
    chat: true,
  };
}

/** Those of {@link chatTurns} where the model has them, else one plain text. */
export async function ownTurns(model: Pick<CoreModel, 'tokenize' | 'info' | 'chatPrompt'>): Promise<Turns> {
  try {
    return await chatTurns(model);
  } catch (error) {
    if (error instanceof OptionError || error instanceof TemplateError) return plainTurns(model);
    throw error;
  }
}

const places = ['the place of the text', 'the place of an answer', 'the place of a question'];

/** Templates that tell the date take it from here, so that what is made with them is the same on every day. */
export const templateTime = new Date('2024-07-26T12:00:00Z');

/** The token that begins a text, where the model has one. */
export function beginning({ info }: Pick<CoreModel, 'info'>): number[] {
  return info.addBos && info.bosToken !== null ? [info.bosToken] : [];
}
