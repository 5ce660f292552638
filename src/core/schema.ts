// Types that say once for all libraries what a schema is.
import type { StandardJSONSchemaV1, StandardSchemaV1 } from '@standard-schema/spec';
// The type of what a plain JSON schema describes.
import type { FromSchema, JSONSchema } from 'json-schema-to-ts';

import { OptionError, SchemaError, type SchemaIssue } from '../errors.ts';
import { isObject } from './options.ts';

/** A JSON schema, as an object. */
export type JsonSchema = Exclude<JSONSchema, boolean>;

/** A schema of a library such as zod, ArkType or Valibot, which can tell its JSON schema and validate. */
export type StandardSchema<Output = unknown> = {
  readonly '~standard': StandardSchemaV1.Props<unknown, Output> & StandardJSONSchemaV1.Props<unknown, Output>;
};

export type Schema = StandardSchema | JsonSchema;

/** The type of what a schema describes. */
export type Infer<S> = S extends { readonly '~standard': { readonly types?: { readonly output: infer Output } | undefined } }
  ? Output
  : S extends JsonSchema
    ? FromSchema<S>
    : unknown;

/** Options with a schema of that type. Not an intersection: with ArkType's types that one is too deep for the compiler. */
export type WithSchema<Options, S extends Schema> = Omit<Options, 'schema'> & { schema: S };

/** Whether a value is a schema: of a library (ArkType's are functions), or an object, which is a JSON schema. */
export function isSchema(value: unknown): value is Schema {
  if (typeof value !== 'function' && !isObject(value)) return false;
  if (!('~standard' in value)) return typeof value !== 'function';
  const standard: unknown = value['~standard'];
  return isObject(standard) && typeof standard['validate'] === 'function' && isObject(standard['jsonSchema']);
}

function isStandard(schema: Schema): schema is StandardSchema {
  return '~standard' in schema;
}

/**
 * The JSON schema of a schema: of what it reads, where it makes something else of that.
 *
 * @throws OptionError where it has none
 */
export function toJsonSchema(name: string, schema: Schema): object {
  if (!isStandard(schema)) return schema;
  try {
    return schema['~standard'].jsonSchema.input({ target: 'draft-2020-12' });
  } catch (error) {
    throw new OptionError(name, schema, `a schema that has a JSON schema (${error instanceof Error ? error.message : String(error)})`);
  }
}

/**
 * What a text is by a schema.
 *
 * @throws SchemaError where it is no JSON, or not what the schema describes
 */
export async function parseBySchema(schema: Schema, text: string): Promise<unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new SchemaError('The text is no JSON; it may have been cut off.', text, [
      { path: '', message: error instanceof Error ? error.message : String(error) },
    ]);
  }
  return validate(schema, value, text);
}

/**
 * The same for what has been parsed.
 *
 * @param text that it was parsed from, for the error
 * @throws SchemaError
 */
export async function validate(schema: Schema, value: unknown, text: string): Promise<unknown> {
  if (isStandard(schema)) {
    const result = await schema['~standard'].validate(value);
    if (result.issues)
      throw mismatch(
        text,
        result.issues.map(({ path = [], message }) => ({ path: path.map(nameOf).join('.'), message })),
      );
    return result.value;
  }
  // Small, without dependencies, and it knows of the drafts that are in use.
  const { Validator } = await import('@cfworker/json-schema');
  const { valid, errors } = checked(() => new Validator(schema as object, '2020-12', false).validate(value), schema);
  if (!valid) {
    throw mismatch(
      text,
      errors.map(({ instanceLocation, error }) => ({ path: instanceLocation.slice(2).replaceAll('/', '.'), message: error })),
    );
  }
  return value;
}

/** A schema's patterns are compiled when they are met. */
function checked<T>(validate: () => T, schema: Schema): T {
  try {
    return validate();
  } catch (error) {
    throw new OptionError('schema', schema, `a schema that can be checked (${error instanceof Error ? error.message : String(error)})`);
  }
}

function nameOf(segment: PropertyKey | StandardSchemaV1.PathSegment): string {
  return String(typeof segment === 'object' ? segment.key : segment);
}

function mismatch(text: string, issues: SchemaIssue[]): SchemaError {
  const [first] = issues;
  const where = first?.path ? `${first.path}: ` : '';
  return new SchemaError(`The text is not what the schema describes: ${where}${first?.message ?? 'no reason is given'}`, text, issues);
}
