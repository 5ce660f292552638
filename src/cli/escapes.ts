const meanings: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t', "'": "'", '"': '"', '\\': '\\' };

/** A text whose escapes are what they stand for, as llama.cpp's tools read prompts: `\xHH` is a byte of UTF-8, and what is no escape stays. */
export function withoutEscapes(text: string): string {
  // Bytes, for several \xHH make one character.
  const bytes = Buffer.from(text, 'utf8').toString('latin1');
  const plain = bytes.replaceAll(/\\(x[0-9a-fA-F]{2}|[nrt'"\\])/g, (_, name: string) =>
    name.startsWith('x') ? String.fromCharCode(parseInt(name.slice(1), 16)) : (meanings[name] ?? ''),
  );
  return Buffer.from(plain, 'latin1').toString('utf8');
}
