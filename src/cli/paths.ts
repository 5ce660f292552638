import { resolve } from 'node:path';

/** A path as the user meant it: npm changes into the package's folder before it runs a script and leaves the user's own in INIT_CWD. */
export function resolveUserPath(path: string): string {
  return resolve(process.env['INIT_CWD'] ?? process.cwd(), path);
}
