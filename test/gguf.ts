import { readFileSync, writeFileSync } from 'node:fs';

// As much of GGUF (version 3) as it takes to write a model's weights as F32.

const types = { f32: 0, q8_0: 8 } as const;
const alignment = 32;
const blockSize = 32; // numbers of a Q8_0 block, behind their scale
const blockBytes = 2 + blockSize;
/** Bytes of metadata values by type; 8 is a text, 9 an array. */
const valueBytes = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];

class Reader {
  at = 0;
  readonly bytes: Buffer;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  u32(): number {
    this.at += 4;
    return this.bytes.readUInt32LE(this.at - 4);
  }

  u64(): number {
    this.at += 8;
    return Number(this.bytes.readBigUInt64LE(this.at - 8));
  }

  text(): string {
    const length = this.u64();
    this.at += length;
    return this.bytes.toString('utf8', this.at - length, this.at);
  }

  skipValue(type: number): void {
    if (type === 8) this.text();
    else if (type === 9) {
      const inner = this.u32();
      for (let left = this.u64(); left > 0; left--) this.skipValue(inner);
    } else this.at += valueBytes[type] ?? 0;
  }
}

function padded(bytes: number): number {
  return Math.ceil(bytes / alignment) * alignment;
}

function half(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const size = exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
  return bits & 0x8000 ? -size : size;
}

/**
 * Copies a model of F32 and Q8_0 weights with all of them in F32: with an F32 cache, too, nothing but the order of sums tells one way to an answer from
 * another.
 */
export function writeInF32(model: string, target: string): void {
  const reader = new Reader(readFileSync(model));
  reader.at = 8;
  const tensorCount = reader.u64();
  for (let left = reader.u64(); left > 0; left--) {
    reader.text();
    reader.skipValue(reader.u32());
  }
  const metadata = reader.bytes.subarray(0, reader.at);

  let size = 0;
  const infos: Buffer[] = [];
  const tensors = Array.from({ length: tensorCount }, () => {
    const from = reader.at;
    reader.text();
    const dimensions = reader.u32();
    let count = 1;
    for (let left = dimensions; left > 0; left--) count *= reader.u64();
    const info = Buffer.from(reader.bytes.subarray(from, reader.at + 12));
    const type = reader.u32();
    const offset = reader.u64();
    if (type !== types.f32 && type !== types.q8_0) throw new Error(`${model} has weights of type ${type}`);
    info.writeUInt32LE(types.f32, info.length - 12);
    info.writeBigUInt64LE(BigInt(size), info.length - 8);
    infos.push(info);
    const place = size;
    size += padded(count * 4);
    return { type, count, offset, place };
  });
  const data = padded(reader.at);
  const head = Buffer.concat([metadata, ...infos]);
  const out = Buffer.alloc(padded(head.length) + size);
  head.copy(out);
  for (const { type, count, offset, place } of tensors) {
    const from = data + offset;
    const to = padded(head.length) + place;
    if (type === types.f32) reader.bytes.copy(out, to, from, from + count * 4);
    else {
      for (let index = 0; index < count; index++) {
        const block = from + Math.floor(index / blockSize) * blockBytes;
        const value = half(reader.bytes.readUInt16LE(block)) * reader.bytes.readInt8(block + 2 + (index % blockSize));
        out.writeFloatLE(value, to + index * 4);
      }
    }
  }
  writeFileSync(target, out);
}
