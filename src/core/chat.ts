import { OptionError } from '../errors.ts';
import type { Handle, Native } from '../ffi/native.ts';
import { checkOptions } from './check-options.ts';
import { formOf, givenForms } from './generate-request.ts';
import type { GenerationSource } from './generation.ts';
import { isMessage, type Message } from './message.ts';
import { chatTable, sendTable } from './option-tables.ts';
import type { ChatOptions, ChatTemplateOptions, SendOptions } from './option-types.ts';
import { Reply } from './reply.ts';
import type { Infer, Schema, WithSchema } from './schema.ts';

/** @internal What a chat needs of its context. */
export type ChatSource = {
  native: Native;
  /** The context's handle. */
  handle: () => Handle;
  /** Where an answer to a prompt is generated. */
  answer: (prompt: Int32Array) => GenerationSource;
  /** Kept alive while something is asked of it. */
  owner: object;
};

/**
 * A conversation, by the model's own template. It needs no sequence to itself: each answer takes the one that holds most of the conversation, and what that holds is
 * not computed again. So there may be any number of them. Made by {@link Context.chat}; there is nothing to dispose of.
 */
export class Chat {
  readonly #source: ChatSource;
  readonly #template: ChatTemplateOptions;
  readonly #maxToolRounds: number;
  /** Answers that were asked for and have not ended, in their order. */
  readonly #underWay = new Set<Reply>();
  #messages: readonly Message[];

  /** @internal */
  constructor(source: ChatSource, options: ChatOptions) {
    checkOptions(options, chatTable);
    const { system, messages = [], maxToolRounds = chatTable.maxToolRounds.default, ...template } = options;
    this.#source = source;
    this.#template = template;
    this.#maxToolRounds = maxToolRounds;
    this.#messages = [...(system === undefined ? [] : [{ role: 'system', content: system } as const]), ...messages];
  }

  /** What was said so far: the same for `context.chat({ messages })` to go on from, in another program, too. */
  get messages(): readonly Message[] {
    return this.#messages;
  }

  /**
   * Says something, and gives the answer. Tools that have a `run` are run, and the model goes on with what came of it. When the answer has ended both are among
   * {@link messages}; one that fails, is aborted or left leaves the chat as it was. Answers follow each other: one that is asked for waits for those before it.
   *
   * @param message a user's, or messages: what came of tools without `run`, for instance
   * @throws OptionError at once; TemplateError with the reply where the template refuses the messages; what tools throw
   */
  send<const S extends Schema>(message: string | Message | readonly Message[], options: WithSchema<SendOptions, S>): Reply<Infer<S>>;
  send<const Choice extends string>(
    message: string | Message | readonly Message[],
    options: SendOptions & { choices: readonly Choice[] },
  ): Reply<Choice>;
  send(message: string | Message | readonly Message[], options?: SendOptions & { schema?: undefined; choices?: undefined }): Reply<string>;
  send(message: string | Message | readonly Message[], options?: SendOptions): Reply;
  send(message: string | Message | readonly Message[], options: SendOptions = {}): Reply {
    checkOptions(options, sendTable);
    const messages = typeof message === 'string' ? [{ role: 'user', content: message } as const] : [message].flat();
    if (!messages.every(isMessage)) {
      throw new OptionError('message', message, 'a text, a message or an array of messages');
    }
    const { tools = [] } = this.#template;
    const toolChoice = options.toolChoice ?? this.#template.toolChoice;
    const [form] = givenForms(options);
    if (form && tools.length > 0 && toolChoice !== 'none') {
      throw new OptionError(form, options[form], `no ${form} beside tools that may be called: toolChoice 'none' is an answer without them`);
    }
    return new Reply({
      ...this.#source,
      turn: async (reply) => {
        const before = [...this.#underWay];
        this.#underWay.add(reply);
        // their readers may have stopped reading: what is left is kept for them
        await Promise.allSettled(before.map((each) => each.result()));
      },
      ended: (reply) => {
        this.#underWay.delete(reply);
      },
      said: () => [...this.#messages, ...messages],
      keep: (all) => {
        this.#messages = all;
      },
      template: this.#template,
      maxToolRounds: this.#maxToolRounds,
      options,
      jsonSchema: formOf(options).jsonSchema,
    });
  }

  /** A chat that goes on from here on its own. */
  fork(): Chat {
    return new Chat(this.#source, { ...this.#template, maxToolRounds: this.#maxToolRounds, messages: this.#messages });
  }
}
