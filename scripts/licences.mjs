// The licences of what a native package holds beside this project's own code.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { llamaCpp } from './places.mjs';

/** @typedef {{ name: string, licence: string, text: string }} Licence */

/** @param {string} path within llama.cpp's tree */
const read = (path) => readFileSync(join(llamaCpp.target, path), 'utf8').trim();

/**
 * A licence that stands in the comments of a source file: from the first line that has one expression to the end of the comment block.
 * @param {string} path
 * @param {RegExp} block with the text in its first group
 */
function within(path, block) {
  const text = block.exec(read(path))?.[1];
  if (text === undefined) throw new Error(`${path} has no licence where there was one: look again at scripts/licences.mjs`);
  return text.replaceAll(/^ ?\*? ?/gm, '').trim();
}

/** What llama.cpp's libraries and its tool are linked from. A folder of vendor/ that is not here is an error.
 * @returns {Licence[]} */
function llamaCppLicences() {
  const known = ['cpp-httplib', 'hash', 'miniaudio', 'nlohmann', 'sheredom', 'stb'];
  const unknown = readdirSync(join(llamaCpp.target, 'vendor'), { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && !known.includes(entry.name))
    .map(({ name }) => name);
  if (unknown.length > 0) throw new Error(`llama.cpp's vendor folder has ${unknown.join(', ')}: add the licence to scripts/licences.mjs`);
  return [
    { name: 'llama.cpp and ggml', licence: 'MIT', text: read('LICENSE') },
    {
      name: "llamafile's matrix products (ggml/src/ggml-cpu/llamafile)",
      licence: 'MIT',
      text: within('ggml/src/ggml-cpu/llamafile/sgemm.cpp', /((?:^\/\/.*\n)+)/m).replaceAll(/^\/\/ ?/gm, ''),
    },
    { name: 'base64.hpp (common)', licence: 'Unlicense', text: within('common/base64.hpp', /\/\*([^]*?)\*\//) },
    { name: 'cpp-httplib', licence: 'MIT', text: read('vendor/cpp-httplib/LICENSE') },
    { name: 'JSON for Modern C++', licence: 'MIT', text: read('licenses/LICENSE-jsonhpp') },
    {
      name: 'subprocess.h',
      licence: 'Unlicense',
      text: within('vendor/sheredom/subprocess.h', /\/\*\s*(This is free and unencumbered[^]*?)\*\//),
    },
    {
      name: 'stb_image',
      licence: 'MIT or public domain',
      text: within('vendor/stb/stb_image.h', /(ALTERNATIVE A - MIT License[^]*?)\*\//),
    },
    {
      name: 'miniaudio',
      licence: 'MIT-0 or public domain',
      text: within('vendor/miniaudio/miniaudio.h', /(This software is available as a choice of the following licenses[^]*?)\*\//),
    },
    { name: 'xxHash', licence: 'BSD-2-Clause', text: within('vendor/hash/xxhash/xxhash.h', /\/\*([^]*?)\*\//) },
  ];
}

/**
 * @param {{ openssl?: { version: string, text: string } | undefined, gcc?: string | undefined, cuda?: string | undefined }} linked the licences of what the
 *   build's own system lent: OpenSSL, GCC's runtime, CUDA's
 * @returns {Licence[]}
 */
export function thirdParties({ openssl, gcc, cuda }) {
  return [
    ...llamaCppLicences(),
    ...(openssl ? [{ name: `OpenSSL ${openssl.version}`, licence: 'Apache-2.0', text: openssl.text.trim() }] : []),
    ...(gcc
      ? [
          {
            name: "GCC's C++ and unwinding libraries (libstdc++, libgcc)",
            licence: 'GPL-3.0-or-later WITH GCC-exception-3.1',
            text: gcc.trim(),
          },
        ]
      : []),
    ...(cuda ? [{ name: "CUDA's runtime library", licence: 'NVIDIA CUDA EULA, attachment A (redistributable)', text: cuda.trim() }] : []),
  ];
}

/** @param {Licence[]} licences */
export function thirdPartyText(licences) {
  return [
    'The library and the tool of this package are linked from these, beside llama-duo itself (LICENSE):',
    licences.map(({ name, licence }) => `- ${name}: ${licence}`).join('\n'),
    ...licences.map(({ name, text }) => `${'='.repeat(80)}\n${name}\n${'='.repeat(80)}\n\n${text}`),
  ]
    .join('\n\n')
    .concat('\n');
}
