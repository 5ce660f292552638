import { ContextError, OptionError } from '../errors.ts';
import { Encoder } from './encoder.ts';
import { factsOf, type Fact, type SampleKind } from './facts.ts';
import { haystackSteps } from './haystack.ts';
import { sentence, texts } from './language.ts';
import { Random } from './random.ts';
import type { Turns } from './turns.ts';
import type { CoreModel } from '../core/model.ts';
import { inSlices } from '../core/slices.ts';

/** A text to calibrate on: a context, then questions whose answers can only be told from it. */
export type CalibrationSample = {
  tokens: number[];
  /** Tokens before the first question. */
  context: number;
  /** The first token of each answer, and the one behind its last: of several facts in one answer all, with what leads from one to the next, and in a chat its end. */
  answers: [number, number][];
};

export type SampleOptions = {
  /** Tokens of a sample. */
  contextSize: number;
  /** Questions of a sample, of these kinds in turn. */
  questions: number;
  kinds: readonly SampleKind[];
  /** What stands around the text and the first question, around each answer, and around each further question. */
  turns: Turns;
  /** What a streaming head sees: no answer lies there when it is asked for. */
  sink: number;
  recent: number;
  seed: number;
  /** Running text to hide facts in; undefined: it is made up. */
  text?: string | undefined;
};

/**
 * Samples of one size. The same options always give the same. The event loop goes on meanwhile.
 *
 * @throws ContextError where the model was trained for fewer tokens, OptionError where the size has no room for what it should hold; `signal.reason`
 */
export async function calibrationSamples(
  model: Pick<CoreModel, 'tokenize' | 'info'>,
  count: number,
  options: SampleOptions,
  signal?: AbortSignal,
): Promise<CalibrationSample[]> {
  return inSlices(sampling(model, count, options), signal);
}

function* sampling(
  model: Pick<CoreModel, 'tokenize' | 'info'>,
  count: number,
  options: SampleOptions,
): Generator<void, CalibrationSample[], void> {
  const { trainedContextSize: trained } = model.info;
  if (options.contextSize > trained) {
    throw new ContextError(
      `Samples of ${options.contextSize} tokens are more than the ${trained} that the model was trained for: take smaller ones, and a window to match.`,
    );
  }
  const encoder = new Encoder(model);
  const running = options.text === undefined ? undefined : yield* sentencesOf(options.text);
  const samples: CalibrationSample[] = [];
  for (let index = 0; index < count; index++) {
    samples.push(yield* sample(encoder, running, options, new Random(options.seed, 'calibration', index)));
  }
  return samples;
}

function* sample(
  encoder: Encoder,
  running: string[] | undefined,
  options: SampleOptions,
  random: Random,
): Generator<void, CalibrationSample, void> {
  const { contextSize, questions, kinds, turns, sink, recent } = options;
  const facts = random.shuffle(factsOf(questions, kinds, random, turns));
  const statements = random.interleave(facts.map((fact) => fact.statements)).map((statement) => encoder.next(spaced(statement)));
  const head = [...turns.before, ...encoder.opening(texts('multi-key').intro + sentence(random))];

  const tail: number[] = [];
  const answers: [number, number][] = [];
  for (const [index, fact] of random.shuffle(facts).entries()) {
    tail.push(...asked(fact, index === 0, encoder, turns));
    const first = tail.length;
    for (const { lead, text } of fact.answers) tail.push(...encoder.next(lead + text));
    // That an answer goes on, and where it ends, is lost before what it says: models with too few heads name one of two numbers, or none.
    tail.push(...encoder.next(fact.stop), ...turns.ending);
    answers.push([first, tail.length]);
  }

  const room = contextSize - head.length - statements.flat().length - tail.length;
  const { tokens, gaps } = room > recent ? yield* filler(room, encoder, random, running) : { tokens: [], gaps: [] };
  // Behind the sinks, and before what the first question's tokens see.
  const places = gaps.filter((gap) => gap >= sink - head.length && gap <= room - recent);
  if (places.length < statements.length) {
    const least = contextSize - room + sink + recent + statements.length * tokensOfSentence;
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

/** What leads to a fact's first answer. */
function asked({ question, opening }: Fact, first: boolean, encoder: Encoder, turns: Turns): number[] {
  if (!turns.chat) return encoder.next(question + opening);
  // The first question goes on with the user's text.
  const ask = first ? encoder.next(question) : [...turns.asking, ...encoder.opening(question.trimStart())]; // behind turns.ending
  return [...ask, ...turns.answering, ...encoder.opening(opening.trimStart())];
}

function spaced(statement: string): string {
  return /^\s/.test(statement) ? statement : ` ${statement}`;
}

/** About what a sentence takes. */
const tokensOfSentence = 16;

function* filler(
  room: number,
  encoder: Encoder,
  random: Random,
  running: string[] | undefined,
): Generator<void, { tokens: number[]; gaps: number[] }, void> {
  if (!running) return yield* haystackSteps(room, encoder, random);
  const tokens: number[] = [];
  const gaps = [0];
  // Only what is needed of the text becomes tokens: it may be a book.
  const first = random.below(Math.max(1, running.length));
  for (let read = 0; tokens.length < room; read++) {
    if (read === running.length) throw new OptionError('text', `${tokens.length} tokens`, `a text of at least ${room} tokens`);
    for (const token of encoder.next(running[(first + read) % running.length] ?? '')) tokens.push(token);
    if (tokens.length <= room) gaps.push(tokens.length);
    yield;
  }
  return { tokens: tokens.slice(0, room), gaps };
}

/** The sentences of a text, each with the white space before it. One that goes on for thousands of characters is cut, so that none takes long. */
function* sentencesOf(text: string): Generator<void, string[], void> {
  const sentences: string[] = [];
  let space = '';
  for (const [part] of text.matchAll(/\s+|\S[^.!?\n]{0,4000}[.!?]{0,1000}/gu)) {
    if (/^\s/.test(part)) space = part.slice(-1000);
    else {
      sentences.push((space || ' ') + part);
      space = '';
    }
    yield;
  }
  return sentences;
}
