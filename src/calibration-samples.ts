import { ContextError, OptionError } from './errors.ts';
import { Encoder } from './synthetic/encoder.ts';
import { haystack } from './synthetic/haystack.ts';
import { fill, keys, sentence, texts, value } from './synthetic/language.ts';
import { Random } from './synthetic/random.ts';
import type { Model } from './model.ts';

/** A text to calibrate on: a context, then questions whose answers can only be told from it. */
export type CalibrationSample = {
  tokens: number[];
  /** Tokens before the first question. */
  context: number;
  /** The first token of each answer, and the one behind its last. */
  answers: [number, number][];
};

export type SampleOptions = {
  /** Tokens of a sample. */
  contextSize: number;
  /** Questions of a sample. */
  questions: number;
  /** What a streaming head sees: no answer lies there when it is asked for. */
  sink: number;
  recent: number;
  seed: number;
  /** Running text to hide facts in; undefined: it is made up. */
  text?: string | undefined;
};

/**
 * Samples of one size. The same options always give the same.
 *
 * @throws ContextError where the model was trained for fewer tokens, OptionError where the size has no room for what it should hold
 */
export function calibrationSamples(model: Pick<Model, 'tokenize' | 'info'>, count: number, options: SampleOptions): CalibrationSample[] {
  const { contextSize: trained, addBos, bosToken } = model.info;
  if (options.contextSize > trained) {
    throw new ContextError(
      `Samples of ${options.contextSize} tokens are more than the ${trained} that the model was trained for: take smaller ones, and a window to match.`,
    );
  }
  const before = addBos && bosToken !== null ? [bosToken] : [];
  const encoder = new Encoder(model);
  const running = options.text === undefined ? undefined : sentencesOf(options.text, encoder);
  return Array.from({ length: count }, (_, index) =>
    sample(encoder, before, running, options, new Random(options.seed, 'calibration', index)),
  );
}

/** What is hidden in a context, what asks for it, and the answer. */
type Fact = { statement: string; question: string; answer: string };

function sample(
  encoder: Encoder,
  before: readonly number[],
  running: number[][] | undefined,
  options: SampleOptions,
  random: Random,
): CalibrationSample {
  const { contextSize, questions, sink, recent } = options;
  const facts = random.shuffle([...numbers(Math.ceil(questions / 2), random), ...passkeys(Math.floor(questions / 2), random)]);
  const statements = facts.map(({ statement }) => encoder.next(` ${statement}`));
  const head = [...before, ...encoder.opening(texts('multi-key').intro + sentence(random))];

  const tail: number[] = [];
  const answers: [number, number][] = [];
  for (const { question, answer } of random.shuffle(facts)) {
    tail.push(...encoder.next(question));
    const first = tail.length;
    tail.push(...encoder.next(answer));
    answers.push([first, tail.length]);
  }

  const room = contextSize - head.length - statements.flat().length - tail.length;
  const { tokens, gaps } = room > recent ? filler(room, encoder, random, running) : { tokens: [], gaps: [] };
  // Behind the sinks, and before what the first question's tokens see.
  const places = gaps.filter((gap) => gap >= sink - head.length && gap <= room - recent);
  if (places.length < facts.length) {
    const least = contextSize - room + sink + recent + facts.length * tokensOfSentence;
    throw new OptionError(
      'contextSize',
      contextSize,
      `about ${least} tokens or more: ${questions} questions, ${sink} sinks and ${recent} recent keys, and something between`,
    );
  }

  const pieces = [head]; // not pushed token by token: a long text is more than a call takes arguments
  let done = 0;
  statements.forEach((statement, index) => {
    // One in each of as many equal parts of the context.
    const place = places[Math.floor(((index + random.fraction()) / statements.length) * places.length)] ?? done;
    pieces.push(tokens.slice(done, place), statement);
    done = place;
  });
  const context = [...pieces, tokens.slice(done)].flat();
  const move = context.length;
  return { tokens: [...context, ...tail], context: move, answers: answers.map(([first, end]) => [move + first, move + end]) };
}

/** About what a sentence takes. */
const tokensOfSentence = 16;

function filler(room: number, encoder: Encoder, random: Random, running: number[][] | undefined): { tokens: number[]; gaps: number[] } {
  if (!running) return haystack(room, encoder, random);
  const total = running.reduce((sum, { length }) => sum + length, 0);
  if (total < room) throw new OptionError('text', `${total} tokens`, `a text of at least ${room} tokens`);
  const tokens: number[] = [];
  const gaps = [0];
  for (let next = random.below(running.length); tokens.length < room; next++) {
    for (const token of running[next % running.length] ?? []) tokens.push(token);
    if (tokens.length <= room) gaps.push(tokens.length);
  }
  return { tokens: tokens.slice(0, room), gaps };
}

/** The sentences of a text, each with the white space before it. */
function sentencesOf(text: string, encoder: Encoder): number[][] {
  return (text.match(/\s*\S[^.!?\n]*[.!?]*/g) ?? []).map((part) => encoder.next(/^\s/.test(part) ? part : ` ${part}`));
}

/** Numbers that go with words. */
function numbers(count: number, random: Random): Fact[] {
  const t = texts('multi-key');
  return random.sample(keys, count).map((key) => {
    const slots = { key, value: value(random) };
    return { statement: fill(t.needle, slots), question: fill(t.question + t.answer, slots), answer: fill(t.expected, slots) };
  });
}

/** Passkeys, told apart by words that running text has, too. */
function passkeys(count: number, random: Random): Fact[] {
  const t = texts('multi-passkey');
  return random.sample(t.names, count).map((name) => {
    const slots = { name, value: value(random) };
    const question = fill(`${texts('passkey').question.replace(/\?$/, ` {name}?`)}${t.answer}`, slots);
    return { statement: fill(t.needle, slots), question, answer: fill(t.expected, slots) };
  });
}
