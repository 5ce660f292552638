import { OptionError } from '../errors.ts';
import { runJob } from '../ffi/job.ts';
import type { Handle, Native } from '../ffi/native.ts';
import { checkOptions, nativeOptions, toJson } from './check-options.ts';
import { isMessage, nativeMessage, type Message } from './message.ts';
import { chatPromptTable, chatTemplateTable } from './option-tables.ts';
import type { ChatPromptOptions, ChatTemplateOptions } from './option-types.ts';
import { nativeTool } from './tool.ts';

/** A prompt that a chat template has made. */
export type ChatPrompt = {
  /** Ids to generate from. Names of special tokens in messages and tools are text there, as they may not be in {@link text}. */
  tokens: Int32Array;
  text: string;
  /** Texts that end an answer, besides the tokens that end a text. */
  stop: string[];
  /** Whether the template knows of reasoning. */
  supportsThinking: boolean;
};

/** The same with what the library wants back: where it generates, and where it parses what came of it. */
export type NativeChatPrompt = ChatPrompt & { sampling: object; parser: object };

/**
 * Makes a prompt of messages.
 *
 * @param handle of the model, or of a context of it
 * @param more `jsonSchema`: what the answer has to be, in the template's words
 */
export function applyTemplate(
  native: Native,
  owner: object,
  handle: () => Handle,
  messages: readonly Message[],
  options: ChatTemplateOptions & Pick<ChatPromptOptions, 'addAssistant' | 'signal'>,
  more: object = {},
): Promise<NativeChatPrompt> {
  const { tools, now, signal, addAssistant, ...rest } = options;
  const request = toJson({
    ...nativeOptions(rest, chatTemplateTable),
    addAssistant,
    ...more,
    messages: messages.map(nativeMessage),
    ...(tools && { tools: tools.map(nativeTool) }),
    ...(now && { now: Math.floor(now.getTime() / 1000) }),
  });
  return runJob<NativeChatPrompt>(native, () => native.chatApply(handle(), request), {
    signal,
    owner,
    read: (job, result) => {
      const { prompt, ...applied } = result as Omit<NativeChatPrompt, 'tokens' | 'text'> & { prompt: string };
      return { ...applied, text: prompt, tokens: new Int32Array(job.data().buffer) };
    },
  });
}

/** @internal {@link CoreModel.chatPrompt} */
export async function chatPrompt(
  native: Native,
  owner: object,
  handle: () => Handle,
  messages: readonly Message[],
  options: ChatPromptOptions,
): Promise<ChatPrompt> {
  checkOptions(options, chatPromptTable);
  if (!Array.isArray(messages) || !messages.every(isMessage)) throw new OptionError('messages', messages, 'an array of messages');
  const { text, tokens, stop, supportsThinking } = await applyTemplate(native, owner, handle, messages, options);
  return { text, tokens, stop, supportsThinking };
}
