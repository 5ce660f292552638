import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import type { AddressInfo } from 'node:net';

const commit = 'a'.repeat(40);

/** With it a hub speaks HTTPS: PEM texts, the certificate for the address 127.0.0.1. */
export type Tls = { key: string; cert: string };

/** A server that speaks as much of the hub's protocol as llama.cpp's downloader uses, and has files under /plain/, too. */
export class Hub {
  readonly files = new Map<string, Buffer>();
  /** Bytes of files that were sent. */
  sent = 0;
  /** What came of each request: its path, and what it was told of who asks. */
  readonly asked: { path: string; authorization: string | undefined }[] = [];
  /** A transfer trickles from there on. */
  slowAt = Infinity;
  /** The repository is not public. */
  token: string | undefined;
  readonly #server: Server;
  readonly #secure: boolean;

  private constructor(tls: Tls | undefined) {
    const listener: RequestListener = (request, response) => {
      void this.#answer(request, response);
    };
    this.#server = tls ? createSecureServer(tls, listener) : createServer(listener);
    this.#secure = tls !== undefined;
  }

  static async start(tls?: Tls): Promise<Hub> {
    const hub = new Hub(tls);
    await new Promise<void>((resolve) => hub.#server.listen(0, '127.0.0.1', resolve));
    return hub;
  }

  get url(): string {
    return `http${this.#secure ? 's' : ''}://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url ?? '';
    const { authorization } = request.headers;
    this.asked.push({ path, authorization });
    const json = (value: object): void => {
      response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(value));
    };
    const [, name] = /^\/(?:user\/repo\/resolve\/a{40}|plain)\/(.+)$/.exec(path) ?? [];
    const isHub = !path.startsWith('/plain/');
    if (isHub && this.token !== undefined && authorization !== `Bearer ${this.token}`) response.writeHead(401).end();
    else if (path === '/api/models/user/repo/refs') json({ branches: [{ name: 'main', targetCommit: commit }] });
    else if (path.startsWith(`/api/models/user/repo/tree/${commit}`)) json(this.#list());
    else if (name !== undefined && this.files.has(name)) await this.#send(request, response, this.files.get(name) as Buffer);
    else response.writeHead(404).end();
  }

  #list(): object[] {
    return [...this.files].map(([path, { length: size }], index) => {
      const oid = String.fromCharCode(97 + index) + '0'.repeat(63);
      return { type: 'file', path, size, oid: 'b'.repeat(40), lfs: { oid, size } };
    });
  }

  async #send(request: IncomingMessage, response: ServerResponse, content: Buffer): Promise<void> {
    const [, from] = /^bytes=(\d+)-/.exec(request.headers.range ?? '') ?? [];
    const start = Number(from ?? 0);
    response.writeHead(from === undefined ? 200 : 206, {
      'Content-Type': 'application/octet-stream',
      'Content-Length': content.length - start,
      'Accept-Ranges': 'bytes',
      ETag: `"${content.length}"`,
      ...(from !== undefined && { 'Content-Range': `bytes ${start}-${content.length - 1}/${content.length}` }),
    });
    if (request.method === 'HEAD') {
      response.end();
      return;
    }
    for (let at = start; at < content.length && !response.destroyed;) {
      const slow = at >= this.slowAt;
      const size = Math.min(slow ? 512 : 65536, content.length - at);
      response.write(content.subarray(at, at + size));
      at += size;
      this.sent += size;
      await new Promise((resolve) => (slow ? setTimeout(resolve, 20) : setImmediate(resolve)));
    }
    response.end();
  }
}
