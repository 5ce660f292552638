import { isObject } from './options.ts';
import { isSchema, toJsonSchema, type Infer, type Schema } from './schema.ts';

/** What a tool gets besides what the model gives it. */
export type ToolContext = {
  /** Aborts with the answer that the tool is run for. */
  signal: AbortSignal;
};

/** What a model may call. */
export type Tool = {
  name: string;
  /** What it does, for the model. */
  description?: string | undefined;
  /** What it takes: the schema of an object. Default: nothing. */
  parameters?: Schema | undefined;
  /**
   * Runs it. What it gives is told to the model: a text as it is, all else as JSON. What it throws ends the answer. It must not wait for another answer of its own chat, which waits for it:
   * `chat.fork()` is for that. Without `run` the call is left to who asked.
   */
  run?: ((input: never, context: ToolContext) => unknown) | undefined;
};

/** A tool, whose `run` gets what its `parameters` describe. */
export function tool<const S extends Schema>(definition: {
  name: string;
  description?: string | undefined;
  parameters: S;
  run?: ((input: Infer<S>, context: ToolContext) => unknown) | undefined;
}): Tool {
  return definition;
}

export function isTool(value: unknown): value is Tool {
  if (!isObject(value)) return false;
  const { name, description = '', parameters, run } = value;
  return (
    typeof name === 'string' &&
    name !== '' &&
    typeof description === 'string' &&
    (parameters === undefined || isSchema(parameters)) &&
    (run === undefined || typeof run === 'function')
  );
}

/** Tools as the library takes them. */
export function nativeTool({ name, description, parameters }: Tool, index: number): object {
  const schema = parameters ? toJsonSchema(`tools[${index}].parameters`, parameters) : { type: 'object', properties: {} };
  return { type: 'function', function: { name, description: description ?? '', parameters: schema } };
}
