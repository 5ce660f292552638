import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const ownPackage = fileURLToPath(new URL('../../package.json', import.meta.url));

/**
 * A path as the user meant it: npm changes into the package's folder before it runs a script and leaves the user's own in INIT_CWD. Only for scripts of
 * this package: what others' scripts do is theirs.
 */
export function resolveUserPath(path: string): string {
  const { INIT_CWD: user, npm_package_json: running } = process.env;
  return resolve(user !== undefined && running === ownPackage ? user : process.cwd(), path);
}
