import { EvaluationError } from '../errors.ts';
import type { Model } from '../gates/model.ts';
import { beginning, templateTime } from '../synthetic/turns.ts';

/** What stands around a prompt's text: the token that begins a text and nothing else, or a chat template. */
export type Frame = {
  before: readonly number[];
  after: readonly number[];
  /** Whether the answer's first words belong to the assistant, after the template, or to the text. */
  chat: boolean;
};

/** A prompt as plain text. */
export function rawFrame(model: Model): Frame {
  return { before: beginning(model), after: [], chat: false };
}

/**
 * A prompt as a user's message in the model's own chat template.
 *
 * @throws EvaluationError for a model without a template, or with one that does not show the message
 */
export async function chatFrame(model: Model): Promise<Frame> {
  if (model.info.chatTemplate === null) {
    throw new EvaluationError('The model has no chat template: leave --chat out, or take a model that was trained to chat.');
  }
  const { text } = await model.chatPrompt([{ role: 'user', content: placeholder }], { now: templateTime });
  const [head, tail, ...more] = text.split(placeholder);
  if (head === undefined || tail === undefined || more.length > 0) {
    throw new EvaluationError("The model's chat template does not show a message once, as it is: leave --chat out.");
  }
  const encode = (part: string): number[] => [...model.tokenize(part, { addSpecial: false, parseSpecial: true })];
  return { before: [...beginning(model), ...encode(head)], after: encode(tail), chat: true };
}

const placeholder = 'the place of the message';
