import { EvaluationError } from '../errors.ts';
import type { Model } from '../gates/model.ts';

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
 * A prompt as a user's message in the model's own chat template. A template that asks for today's date by itself (`strftime_now`) makes other prompts
 * on another day.
 *
 * @throws EvaluationError for a model without a template, or with one that fails
 */
export async function chatFrame(model: Model): Promise<Frame> {
  const rendered = await renderChat(model, placeholder);
  const [head, tail, ...more] = rendered.split(placeholder);
  if (head === undefined || tail === undefined || more.length > 0) {
    throw new EvaluationError("The model's chat template does not show a message once, as it is: leave --chat out.");
  }
  const encode = (part: string): number[] => [...model.tokenize(part, { addSpecial: false, parseSpecial: true })];
  const before = encode(head);
  const begin = beginning(model);
  // Most templates write the token that begins a text themselves.
  return { before: before[0] === begin[0] ? before : [...begin, ...before], after: encode(tail), chat: true };
}

const placeholder = 'the place of the message';

/** Templates that tell the date take it from here, so that a prompt is the same on every day; Llama 3's has this one for want of another. */
const date = '26 Jul 2024';

async function renderChat(model: Model, content: string): Promise<string> {
  const { chatTemplate, bosToken, eosToken } = model.info;
  if (chatTemplate === null) {
    throw new EvaluationError('The model has no chat template: leave --chat out, or take a model that was trained to chat.');
  }
  // Templates are programs in Jinja's language; this interpreter is kept by those who publish most of them.
  const { Template } = await import('@huggingface/jinja');
  const name = (token: number | null): string => (token === null ? '' : model.detokenize([token], { renderSpecial: true }));
  try {
    return new Template(chatTemplate).render({
      messages: [{ role: 'user', content }],
      add_generation_prompt: true,
      date_string: date,
      bos_token: name(bosToken),
      eos_token: name(eosToken),
    });
  } catch (error) {
    throw new EvaluationError(`The model's chat template fails: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function beginning({ info }: Model): number[] {
  return info.addBos && info.bosToken !== null ? [info.bosToken] : [];
}
