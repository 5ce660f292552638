import { toJson } from './check-options.ts';
import { isObject } from './options.ts';

/** A call of a tool that the model asks for. */
export type ToolCall = {
  /** Tells calls apart. */
  id: string;
  name: string;
  /** What the model gives it, by the tool's `parameters`. */
  arguments: unknown;
};

export type SystemMessage = { role: 'system' | 'developer'; content: string };
export type UserMessage = { role: 'user'; content: string };
export type AssistantMessage = {
  role: 'assistant';
  content: string;
  /** What the model has thought before it answered. */
  reasoning?: string | undefined;
  toolCalls?: readonly ToolCall[] | undefined;
};
/** What came of a call. */
export type ToolMessage = {
  role: 'tool';
  content: string;
  /** The `id` of the call. */
  toolCallId: string;
  /** The tool's name, for templates that want it. */
  name?: string | undefined;
};

/** A turn of a conversation. Names of special tokens in its texts are text. */
export type Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage;

/** Whether a value has a message's form; the library says more of it. */
export function isMessage(value: unknown): value is Message {
  if (!isObject(value) || typeof value['role'] !== 'string') return false;
  const { toolCalls = [] } = value;
  return Array.isArray(toolCalls) && toolCalls.every(isObject);
}

/** A message as the library takes it: as OpenAI's chat completions have them. */
export function nativeMessage(message: Message): object {
  switch (message.role) {
    case 'assistant': {
      const { role, content, reasoning, toolCalls = [] } = message;
      const calls = toolCalls.map(({ id, name, arguments: given }) => ({
        id,
        type: 'function',
        function: { name, arguments: toJson(given ?? {}) },
      }));
      return { role, content, reasoning_content: reasoning, ...(calls.length > 0 && { tool_calls: calls }) };
    }
    case 'tool': {
      const { role, content, toolCallId, name } = message;
      return { role, content, tool_call_id: toolCallId, name };
    }
    default:
      return message;
  }
}
