// Without duo parameters nothing changes, to the bit: builds the pristine llama.cpp beside ours and compares hashes of logits.
//
//   node scripts/check-stock.mjs

import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { buildTargets, configure } from './cmake.mjs';
import { cache, llamaCpp, root } from './places.mjs';
import { capture, runMain, SetupError } from './tools.mjs';
import { openTree, readLock } from './vendor.mjs';

runMain(() => {
  const stock = join(cache, 'stock');
  const source = join(stock, 'llama.cpp');
  const build = join(stock, 'build');
  const { tree: treeId } = readLock(llamaCpp.lockFile);

  rmSync(source, { recursive: true, force: true });
  mkdirSync(source, { recursive: true });
  const archive = join(stock, 'llama.cpp.tar');
  openTree(llamaCpp.target).git(['archive', '--output', archive, treeId]);
  capture('tar', ['-xf', archive, '-C', source]);
  rmSync(archive);

  configure(join(root, 'cpp/test/stock'), build, [`-DSTOCK_DIR=${source}`]);
  buildTargets(build, ['stock-logits']);
  buildTargets(join(root, 'build'), ['stock-logits']);

  const pristine = capture(join(build, 'stock-logits'), []);
  const patched = capture(join(root, 'build/stock-logits'), []);
  console.log(patched);
  if (patched !== pristine) throw new SetupError(`The patched llama.cpp does not compute what the pristine one does:\n${pristine}`);
  console.log('The pristine llama.cpp prints the same.');
});
