import { writeFileSync } from 'node:fs';

import { Random } from './random.ts';

/** A matrix that an adapter adds to: its name and sizes. */
export type Adapted = readonly [name: string, inputs: number, outputs: number];

/** Writes a LoRA adapter of random values for a model of llama's architecture (GGUF, version 3). */
export function writeLora(file: string, adapted: readonly Adapted[], { rank = 4, seed = 1 } = {}): void {
  const parts: Buffer[] = [];
  const u32 = (value: number): void => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(value);
    parts.push(bytes);
  };
  const u64 = (value: number): void => {
    u32(value);
    u32(0);
  };
  const text = (value: string): void => {
    u64(Buffer.byteLength(value));
    parts.push(Buffer.from(value));
  };
  const types = { float: 6, string: 8 };
  const metadata = { 'general.type': 'adapter', 'general.architecture': 'llama', 'adapter.type': 'lora' };
  const tensors = adapted.flatMap(([name, inputs, outputs]) => [
    { name: `${name}.lora_a`, sizes: [inputs, rank] as const },
    { name: `${name}.lora_b`, sizes: [rank, outputs] as const },
  ]);

  parts.push(Buffer.from('GGUF'));
  u32(3);
  u64(tensors.length);
  u64(Object.keys(metadata).length + 1);
  for (const [key, value] of Object.entries(metadata)) {
    text(key);
    u32(types.string);
    text(value);
  }
  text('adapter.lora.alpha');
  u32(types.float);
  const alpha = Buffer.alloc(4);
  alpha.writeFloatLE(rank);
  parts.push(alpha);

  let offset = 0;
  for (const { name, sizes } of tensors) {
    text(name);
    u32(sizes.length);
    sizes.forEach(u64);
    u32(0); // F32
    u64(offset);
    offset += Math.ceil((sizes[0] * sizes[1] * 4) / 32) * 32;
  }
  const head = Buffer.concat(parts);
  const data = Buffer.alloc(offset);
  const random = new Random(seed);
  for (let at = 0; at < offset; at += 4) data.writeFloatLE((random.below(2001) - 1000) / 4e3, at);
  writeFileSync(file, Buffer.concat([head, Buffer.alloc(-head.length & 31), data]));
}
