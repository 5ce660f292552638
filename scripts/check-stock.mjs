// Without duo parameters nothing changes, to the bit: builds the pristine llama.cpp beside ours and compares hashes of logits, of each by itself, and of
// each with the other one as its RPC server.
//
//   node scripts/check-stock.mjs

import { spawn } from 'node:child_process';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { buildTargets } from './cmake.mjs';
import { root } from './places.mjs';
import { buildStock } from './stock.mjs';
import { capture, runMain, SetupError } from './tools.mjs';

const targets = ['stock-logits', 'ggml-rpc-server'];

runMain(async () => {
  const stock = buildStock(targets).build;
  const ours = join(root, 'build');
  buildTargets(ours, targets);

  const pristine = logits(stock);
  console.log(logits(ours));
  requireSame(logits(ours), pristine, 'The patched llama.cpp does not compute what the pristine one does');
  console.log('The pristine llama.cpp prints the same.');

  const remote = await withServer(stock, (endpoint) => logits(stock, endpoint));
  const served = await withServer(ours, (endpoint) => logits(stock, endpoint));
  requireSame(served, remote, 'The pristine llama.cpp computes something else with our RPC server than with its own');
  const asked = await withServer(stock, (endpoint) => logits(ours, endpoint));
  requireSame(asked, remote, 'The patched llama.cpp computes something else with a pristine RPC server than the pristine one');
  console.log('So it does as the RPC server of ours, and with ours as its own.');
});

/**
 * @param {string} build
 * @param {string[]} args
 */
function logits(build, ...args) {
  return capture(join(build, 'stock-logits'), args);
}

/**
 * @param {string} found
 * @param {string} expected
 * @param {string} otherwise
 */
function requireSame(found, expected, otherwise) {
  if (found !== expected) throw new SetupError(`${otherwise}: found\n${found}\nexpected\n${expected}`);
}

/**
 * @template T
 * @param {string} build
 * @param {(endpoint: string) => T} use
 */
async function withServer(build, use) {
  const port = await freePort();
  const server = spawn(join(build, 'bin/ggml-rpc-server'), ['-d', 'CPU', '-t', '2', '-p', String(port)], { stdio: 'ignore' });
  try {
    await listening(port, () => server.exitCode !== null);
    return use(`127.0.0.1:${port}`);
  } finally {
    server.kill('SIGKILL');
  }
}

/** @returns {Promise<number>} */
function freePort() {
  return new Promise((resolve) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}

/**
 * @param {number} port
 * @param {() => boolean} ended
 */
async function listening(port, ended) {
  for (;;) {
    if (ended()) throw new SetupError(`the RPC server on port ${port} has ended`);
    const there = await new Promise((/** @type {(there: boolean) => void} */ resolve) => {
      const socket = connect(port, '127.0.0.1');
      socket.once('connect', () => socket.destroy()).once('error', () => undefined);
      // until it is closed, since the server has one client at a time
      socket.once('close', (failed) => resolve(!failed));
    });
    if (there) return;
    await sleep(50);
  }
}
