// The pristine llama.cpp, beside ours, to compare with.

import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildTargets, configure } from './cmake.mjs';
import { cache, llamaCpp, root } from './places.mjs';
import { capture } from './tools.mjs';
import { openTree, readLock } from './vendor.mjs';

/**
 * Lays it out and builds targets of cpp/test/stock.
 * @param {string[]} targets
 * @returns {{ source: string, build: string }}
 */
export function buildStock(targets) {
  const stock = join(cache, 'stock');
  const source = join(stock, 'llama.cpp');
  const build = join(stock, 'build');
  const { tree } = readLock(llamaCpp.lockFile);

  const stamp = join(stock, 'tree'); // of what was laid out in full
  if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== tree) {
    rmSync(stock, { recursive: true, force: true });
    mkdirSync(source, { recursive: true });
    const archive = join(stock, 'llama.cpp.tar');
    openTree(llamaCpp.target).git(['archive', '--output', archive, tree]);
    capture('tar', ['-xf', archive, '-C', source]);
    rmSync(archive);
    writeFileSync(stamp, tree);
  }

  configure(join(root, 'cpp/test/stock'), build, [`-DSTOCK_DIR=${source}`]);
  if (targets.length > 0) buildTargets(build, targets);
  return { source, build };
}
