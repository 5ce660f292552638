/** What is asked for, and how it is recognised in an answer. */
export type Expected = {
  /** The answer, word for word. */
  text: string;
  /** Its parts that count, and what they are: numbers, or words of a list. */
  parts: readonly string[];
  kind: 'numbers' | 'words';
};

/**
 * The share of the expected parts among the answer's first numbers or words, as many of them as are expected: naming more than was asked for earns
 * nothing. A number counts only whole.
 *
 * @param vocabulary the words that count as such; an answer's other words are passed over
 */
export function scoreAnswer({ parts, kind }: Expected, answer: string, vocabulary: ReadonlySet<string>): number {
  const said = kind === 'numbers' ? (answer.match(/\d+/g) ?? []) : words(answer).filter((word) => vocabulary.has(word));
  const counted = new Set(said.slice(0, parts.length));
  return parts.filter((part) => counted.has(part)).length / parts.length;
}

function words(text: string): string[] {
  return text.toLowerCase().match(/\p{L}+/gu) ?? [];
}
