import { parseFlags, UsageError, type Flags, type Given } from './flags.ts';

const truthy = new Set(['on', 'enabled', 'true', '1']);

/**
 * What llama.cpp's variables say in the place of flags. An empty one says nothing.
 *
 * @param variables their names, by the flag that each stands for
 * @throws UsageError that names the variable whose value is none
 */
export function readVariables<const F extends Flags>(
  flags: F,
  variables: { readonly [Key in keyof F]?: string },
  environment: Readonly<Record<string, string | undefined>> = process.env,
): Partial<Given<F>> {
  const found: Partial<Given<F>> = {};
  for (const key of Object.keys(variables)) {
    const variable = variables[key];
    const flag = flags[key];
    const text = variable === undefined ? undefined : environment[variable];
    if (!flag || !text || (flag.kind === 'switch' && !truthy.has(text))) continue;
    const [name] = flag.names;
    try {
      Object.assign(found, { [key]: parseFlags(flag.kind === 'switch' ? [name] : [name, text], flags)[key] });
    } catch (error) {
      throw error instanceof UsageError ? new UsageError(`${variable}: ${error.message}`) : error;
    }
  }
  return found;
}
