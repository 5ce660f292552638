import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gunzipSync } from 'node:zlib';

/** A registry of packages on this computer: tarballs that are not published, and all others as another registry has them. */
export type Registry = { url: string; close: () => void };

/** @param upstream where all other packages are */
export async function startRegistry(tarballs: readonly string[], upstream: string): Promise<Registry> {
  const packages = new Map(tarballs.map((file) => [nameIn(file), file]));
  const server = createServer((request, response) => {
    answer(request.url ?? '/', request.headers.accept, response).catch((error: unknown) => {
      response.writeHead(502).end(String(error));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  return { url, close: () => server.close() };

  async function answer(path: string, accept: string | undefined, response: ServerResponse): Promise<void> {
    const [name = '', file] = decodeURIComponent(path.slice(1)).split('/-/');
    const tarball = packages.get(name);
    if (tarball === undefined) {
      const answered = await fetch(new URL(path.slice(1), upstream), { headers: accept === undefined ? {} : { accept } });
      response.writeHead(answered.status, { 'content-type': answered.headers.get('content-type') ?? 'application/json' });
      response.end(Buffer.from(await answered.arrayBuffer()));
    } else if (file !== undefined) {
      response.writeHead(200, { 'content-type': 'application/octet-stream' }).end(readFileSync(tarball));
    } else {
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(packument(tarball, name)));
    }
  }

  /** What a registry tells of a package. */
  function packument(tarball: string, name: string): unknown {
    const manifest = manifestIn(tarball);
    const version = String(manifest['version']);
    const integrity = `sha512-${createHash('sha512').update(readFileSync(tarball)).digest('base64')}`;
    const shasum = createHash('sha1').update(readFileSync(tarball)).digest('hex');
    const dist = { tarball: `${url}${name}/-/${version}.tgz`, integrity, shasum };
    return {
      name,
      'dist-tags': { latest: version },
      versions: { [version]: { ...manifest, dist } },
      time: { created: '2026-01-01T00:00:00.000Z', modified: '2026-01-01T00:00:00.000Z', [version]: '2026-01-01T00:00:00.000Z' },
    };
  }
}

function nameIn(tarball: string): string {
  return String(manifestIn(tarball)['name']);
}

/** The package.json of a tarball: a file's header is a block of 512 bytes with its name first and its size in octal at 124. */
function manifestIn(tarball: string): Record<string, unknown> {
  const tar = gunzipSync(readFileSync(tarball));
  for (let at = 0; at + 512 <= tar.length;) {
    const size = parseInt(tar.toString('latin1', at + 124, at + 136), 8) || 0;
    const name = tar.toString('utf8', at, at + 100).replace(/\0.*$/s, '');
    if (name === 'package/package.json') return JSON.parse(tar.toString('utf8', at + 512, at + 512 + size)) as Record<string, unknown>;
    at += 512 + Math.ceil(size / 512) * 512;
  }
  throw new Error(`${tarball} has no package.json`);
}
