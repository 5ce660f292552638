import { EvaluationError } from '../errors.ts';
import { Encoder, type Tokenizer } from '../synthetic/encoder.ts';
import type { Frame } from './frame.ts';
import { haystack, prose } from '../synthetic/haystack.ts';
import type { Random } from '../synthetic/random.ts';

/** What streaming heads see in any of the modes that a prompt is for. */
export type Sight = {
  /** First tokens. */
  sink: number;
  /** Tokens before a query. */
  window: number;
};

/** How far back a streaming head sees at most: its window begins at floor(p / chunk) * chunk - recent. */
export function sightOf({ sink, recent, chunk }: { sink: number; recent: number; chunk: number }): Sight {
  return { sink, window: recent + chunk - 1 };
}

/** A text that is asked about, in its parts. */
export type Question = {
  intro: string;
  question: string;
  /** The first words of the answer, which are given. */
  answer: string;
};

/** What is hidden in a haystack, and where among the places that are allowed, 0 to 1. null: at random; those that have no place of their own keep their order. */
export type Hidden = { text: string; depth: number | null };

/** Puts prompts together in tokens, each of exactly the length that is asked for. */
export class PromptWriter {
  readonly encoder: Encoder;
  readonly #frame: Frame;
  readonly #sight: Sight;

  constructor(tokenizer: Tokenizer, frame: Frame, sight: Sight) {
    this.encoder = new Encoder(tokenizer);
    this.#frame = frame;
    this.#sight = sight;
  }

  /**
   * A haystack with statements in it, and a question. No head that streams sees any of the statements from the question on.
   *
   * @param length of the prompt in tokens
   * @param depth where the one statement is among the places that are allowed, 0 to 1; null: at random, as where there are several
   * @throws EvaluationError where the length has no room
   */
  withStatements(
    length: number,
    parts: Question,
    statements: readonly string[],
    depth: number | null,
    random: Random,
    filler = prose,
  ): Int32Array {
    const tail = this.question(parts);
    const hidden = statements.map((text) => ({ text, depth: statements.length === 1 ? depth : null }));
    return Int32Array.from([...this.haystack({ length, tail: tail.length }, parts.intro, hidden, random, filler), ...tail]);
  }

  /**
   * What stands before the question: a haystack with statements in it. No head that streams sees any of them from the question on.
   *
   * @param size tokens of the prompt, and of the question at its end
   * @throws EvaluationError where the length has no room
   */
  haystack(
    { length, tail }: { length: number; tail: number },
    intro: string,
    hidden: readonly Hidden[],
    random: Random,
    filler = prose,
  ): number[] {
    const head = this.#head(intro + filler.unit(random));
    const inserted = hidden.map(({ text }) => this.encoder.next(filler.join + text));
    const room = length - head.length - tail - inserted.flat().length;
    const first = Math.max(0, this.#sight.sink - head.length);
    const last = room - this.#sight.window;
    const { tokens, gaps } = room > 0 ? haystack(room, this.encoder, random, filler) : { tokens: [], gaps: [] };
    const allowed = gaps.filter((gap) => gap >= first && gap <= last);
    if (allowed.length === 0) throw this.#tooShort(length, length - room + first + this.#sight.window);

    const drawn = hidden.filter(({ depth }) => depth === null).map(() => random.pick(allowed));
    const inOrder = drawn.sort((a, b) => a - b).values();
    const placed = hidden
      .map(({ depth }, index) => ({
        place: (depth === null ? inOrder.next().value : allowed[Math.round(depth * (allowed.length - 1))]) ?? 0,
        tokens: inserted[index] ?? [],
      }))
      .sort((a, b) => a.place - b.place);
    // A list of pieces: a long one's tokens are more than a call can have arguments.
    const body: number[][] = [];
    let done = 0;
    for (const { place, tokens: statement } of placed) {
      body.push(tokens.slice(done, place), statement);
      done = place;
    }
    return [...head, ...body.flat(), ...tokens.slice(done)];
  }

  /** What stands after a text: the question about it, and the answer's first words. */
  question({ question, answer }: Omit<Question, 'intro'>): number[] {
    const { after, chat } = this.#frame;
    return chat ? [...this.encoder.next(question), ...after, ...this.answer(answer)] : this.encoder.next(question + answer);
  }

  /**
   * A list, and a question. A list of whole items may be an item shorter than what there is room for.
   *
   * @param items makes the list's pieces, which have at most `room` tokens together
   * @throws EvaluationError where the length has no room
   */
  withList(length: number, parts: Question, items: (room: number) => string[]): Int32Array {
    const [head, tail] = [this.#head(parts.intro), this.question(parts)];
    const room = length - head.length - tail.length;
    const pieces = room > 0 ? items(room) : [];
    if (pieces.length === 0) throw this.#tooShort(length, length - room);
    return Int32Array.from([...head, ...pieces.flatMap((piece) => this.encoder.next(piece)), ...tail]);
  }

  /**
   * A text as it is.
   *
   * @param limit tokens that the prompt may have: a longer text loses its middle, since its ends say what to do (as LongBench does)
   */
  text(text: string, limit = Infinity): Int32Array {
    const { before, after } = this.#frame;
    const tokens = this.encoder.opening(text);
    const room = limit - before.length - after.length;
    const half = Math.floor(room / 2);
    if (half < 1) throw new EvaluationError(`A prompt of ${limit} tokens has no room for a text and its answer: take a greater length.`);
    const kept = tokens.length <= room ? tokens : [...tokens.slice(0, half), ...tokens.slice(-half)];
    return Int32Array.from([...before, ...kept, ...after]);
  }

  /** The tokens of an answer's first words, ` A`, after a prompt: they go on with its text, or open what the assistant says. */
  answer(text: string): number[] {
    return this.#frame.chat ? this.encoder.opening(text.trimStart()) : this.encoder.next(text);
  }

  #head(intro: string): number[] {
    return [...this.#frame.before, ...this.encoder.opening(intro)];
  }

  #tooShort(length: number, least: number): EvaluationError {
    const { sink, window } = this.#sight;
    return new EvaluationError(
      `A prompt of ${length} tokens has no room for what it should hold: it needs over ${least} tokens, for nothing that is asked for may lie among ` +
        `the first ${sink} tokens or the ${window} before the question, which streaming heads see. Take a greater length, or a smaller --duo-recent.`,
    );
  }
}
