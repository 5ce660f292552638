"""Documents to train on and prompts to evaluate with, made straight in tokens.

A word is one token with the space before it, so a text's tokens are its parts' tokens, one after another.
"""

import random

import numpy as np

from language import BEGIN, END, SLOT

# What a token is to the loss and to the accuracy: running text, an answer's commas and words between values, a repeated span,
# the value of a needle that is stated again, or part of an answer to one of the tasks.
TASKS = ['needle', 'multi-key', 'multi-value', 'multi-query', 'passkey', 'multi-passkey', 'variable-tracking', 'common-words', 'frequent-words']
KINDS = ['text', 'syntax', 'repeat', 'restated', *TASKS]
KIND = {name: kind for kind, name in enumerate(KINDS)}

SINK, RECENT = 64, 256  # what a streaming head sees: first tokens, recent tokens


class Documents:
    def __init__(self, language, tokenizer, seed, pool_tokens):
        """`pool_tokens`: how much running text to make; documents take theirs from it."""
        self.language = language
        self.tasks = language.tasks
        self.encode = lambda text: tokenizer.encode(text).ids
        self.begin, self.end = tokenizer.token_to_id(BEGIN), tokenizer.token_to_id(END)
        self.n_vocab = tokenizer.get_vocab_size()
        word = lambda text: self.encode(f' {text}')[0]
        self.keys = [word(key) for key in language.keys]
        self.names = [word(name) for name in language.names]
        self.words = {name: np.array([word(w) for w in group], np.uint16) for name, group in language.words.items()}
        self.and_ = word('and')
        self.first_digits = [word(digit) for digit in range(10)]
        self.later_digits = [self.encode(str(digit))[0] for digit in range(10)]
        self.templates = {
            (task, part): self.template(text) for task, parts in self.tasks.items() for part, text in parts.items() if isinstance(text, str)
        }
        self.needle_sentence, self.passkey_sentence, self.passkeys_sentence, self.first_set, self.next_set = (
            self.template(' ' + self.tasks[task][part])
            for task, part in [('needle', 'needle'), ('passkey', 'needle'), ('multi-passkey', 'needle'), ('variable-tracking', 'first'), ('variable-tracking', 'next')]
        )
        self.make_pool(np.random.default_rng(seed), pool_tokens)

    def template(self, text):
        """`text` as a list of tokens and, for slots, names. The space before a slot belongs to the word that fills it."""
        parts = SLOT.split(text)
        result = []
        for i, part in enumerate(parts):
            if i % 2:
                result.append(part)
            else:
                literal = part[:-1] if i + 1 < len(parts) and part.endswith(' ') else part
                result.extend(self.encode(literal))
        return result

    def make_pool(self, rng, n_tokens):
        patterns = [self.template(f' {pattern}') for pattern in self.language.patterns]
        lengths = np.array([len(pattern) for pattern in patterns])
        chosen = rng.integers(len(patterns), size=int(n_tokens / lengths.mean()))
        self.starts = np.concatenate([[0], np.cumsum(lengths[chosen])])  # of sentences, and the end of the last
        self.pool = np.empty(self.starts[-1], np.uint16)
        for i, pattern in enumerate(patterns):
            rows = self.starts[:-1][chosen == i]
            for offset, token in enumerate(pattern):
                self.pool[rows + offset] = token if isinstance(token, int) else rng.choice(self.words[token], size=len(rows))
        # The first sentence of a text has no space before it.
        texts = {int(self.pool[start]) for start in self.starts[:20000]}
        vocabulary = {self.encode(text)[0]: self.encode(text[1:])[0] for text in self.opening_texts(patterns)}
        self.without_space = {token: vocabulary[token] for token in texts}
        statements = [self.needle_sentence, self.passkey_sentence, self.first_set]
        originals = ['needle', 'passkey', 'variable-tracking']
        for sentence, task in zip(statements, originals):
            part = 'first' if task == 'variable-tracking' else 'needle'
            self.without_space[sentence[0]] = self.templates[task, part][0]

    def opening_texts(self, patterns):
        for pattern in self.language.patterns:
            opening = pattern.split()[0]
            slot = SLOT.fullmatch(opening)
            yield from (f' {word}' for word in (self.language.words[slot[1]] if slot else [opening]))

    # Parts of a document: lists of tokens, and of kinds of the same length.

    def value(self, rng):
        n = self.language.digits
        first, *later = (int(digit) for digit in f'{rng.randrange(10**n):0{n}}')
        return [self.first_digits[first]] + [self.later_digits[digit] for digit in later]

    def fill(self, template, **slots):
        result = []
        for token in template:
            if isinstance(token, str):
                result.extend(slots[token])
            else:
                result.append(token)
        return result

    def sentence_list(self, keys):
        """a, b and c"""
        comma = self.templates['multi-query', 'join'][0]
        result = []
        for i, key in enumerate(keys):
            result += [key] if i == 0 else [self.and_, key] if i == len(keys) - 1 else [comma, key]
        return result

    def question(self, task, parts, **slots):
        """The tokens from the question to the answer's first word, and the expected tokens and their kinds from there to the full stop.

        `parts`: what is expected, in turn: pairs of the syntax before it (empty for the first) and its tokens.
        """
        prompt = self.fill(self.templates[task, 'question'], **slots) + self.fill(self.templates[task, 'answer'], **slots)
        tokens, kinds = [], []
        for syntax, answer in parts:
            tokens += syntax + answer
            kinds += [KIND['syntax']] * len(syntax) + [KIND[task]] * len(answer)
        return prompt, tokens + [self.needle_sentence[-1]], kinds + [KIND['syntax']]

    # Groups: statements in the order of the text, and questions as from self.question. `keys` are the unused ones.

    def needles(self, task, n, asked, keys, rng):
        """`n` needles with keys of their own; one question for `asked` of them together."""
        pairs = [(keys.pop(), self.value(rng)) for _ in range(n)]
        statements = [self.fill(self.needle_sentence, key=[key], value=value) for key, value in pairs]
        chosen = rng.sample(pairs, asked)
        join = self.templates.get((task, 'join'), [])
        parts = [(self.fill(join, key=[key]) if i else [], value) for i, (key, value) in enumerate(chosen)]
        names = [key for key, _ in chosen]
        return statements, [self.question(task, parts, key=names[:1], keys=self.sentence_list(names))]

    def values(self, n, keys, rng):
        key = [keys.pop()]
        values = [self.value(rng) for _ in range(n)]
        statements = [self.fill(self.needle_sentence, key=key, value=value) for value in values]
        join = self.fill(self.templates['multi-value', 'join'], key=key)
        return statements, [self.question('multi-value', [(join if i else [], value) for i, value in enumerate(values)], key=key)]

    def passkey(self, rng):
        value = self.value(rng)
        return [self.fill(self.passkey_sentence, value=value)], [self.question('passkey', [([], value)])]

    def passkeys(self, n, rng):
        values = [self.value(rng) for _ in range(n)]
        names = [[name] for name in self.names[:n]]
        statements = [self.fill(self.passkeys_sentence, name=name, value=value) for name, value in zip(names, values)]
        join = self.templates['multi-passkey', 'join']
        parts = [(self.fill(join, name=name) if i else [], value) for i, (name, value) in enumerate(zip(names, values))]
        return statements, [self.question('multi-passkey', parts, name=names[0])]

    def chain(self, hops, keys, rng):
        """A variable set to a number, `hops` variables each set to the one before, and the question for the last."""
        variables = [[keys.pop()] for _ in range(hops + 1)]
        value = self.value(rng)
        statements = [self.fill(self.first_set, variable=variables[0], value=value)]
        statements += [self.fill(self.next_set, variable=variable, source=source) for source, variable in zip(variables, variables[1:])]
        path = [token for variable in variables[-2::-1] for token in variable]
        return statements, [self.question('variable-tracking', [([], path + value)], variable=variables[-1])]

    def span(self, rng, longest):
        """Any tokens, to be repeated. There is nothing to ask: the first two tokens are the question."""
        length = rng.randint(6, longest)
        pick = rng.random()
        if pick < 0.5:
            tokens = [rng.randrange(2, self.n_vocab) for _ in range(length)]
        elif pick < 0.75:
            tokens = rng.choices(self.keys, k=length)
        else:
            tokens = [token for _ in range(length // 6) for token in (rng.choice(self.keys), *self.value(rng))]
        return [tokens], [(tokens[:2], tokens[2:], [KIND['repeat']] * len(tokens[2:]))]

    def restated(self, keys, rng):
        """A needle, and the same sentence again instead of a question: half of its tokens are there to be found."""
        sentence = self.fill(self.needle_sentence, key=[keys.pop()], value=self.value(rng))
        n = self.language.digits + 1
        return [sentence], [(sentence[:-n], sentence[-n:], [KIND['restated']] * (n - 1) + [KIND['syntax']])]

    def word_list(self, task, budget, rng):
        """A list of about `budget` tokens, and the question for its most frequent words; see language.json for the counts."""
        settings = self.tasks[task]
        n_asked = settings['common']
        keys = rng.sample(self.keys, len(self.keys))
        n_items = budget // 2
        if task == 'common-words':
            often, rarely = settings['often'], settings['rarely']
            others = keys[n_asked:]
            unit = max(1, n_items // (n_asked * often + len(others) * rarely))
            n_common = min(often * unit, n_items // (n_asked + 1))
            items = keys[:n_asked] * n_common
            items += (others * (1 + n_items // len(others)))[: n_items - len(items)]
            asked = rng.sample(keys[:n_asked], n_asked)
        else:
            ranks = np.arange(1, len(keys) + 1, dtype=float) ** -settings['alpha']
            counts = np.floor(n_items * ranks / ranks.sum()).astype(int)
            items = np.repeat(keys, counts).tolist()
            # What rounding left over goes to words that came least.
            items += (keys[n_asked + 10 :] * (1 + n_items // 200))[: n_items - len(items)]
            asked = keys[:n_asked]
        rng.shuffle(items)
        separator, end, comma = (self.templates[task, part] for part in ('separator', 'end', 'join'))
        listed = [token for item in items for token in (item, *separator)][:-1] + end
        parts = [(comma if i else [], [word]) for i, word in enumerate(asked)]
        return listed, self.question(task, parts, count=[self.names[n_asked - 1]])

    # Whole documents.

    def haystack(self, budget, rng):
        """At most `budget` tokens of whole sentences, and where each begins and the last ends."""
        first = rng.randrange(len(self.starts) - budget // 4)
        last = max(first, int(np.searchsorted(self.starts, self.starts[first] + budget, 'right')) - 1)
        begin = self.starts[first]
        return self.pool[begin : self.starts[last]], self.starts[first : last + 1] - begin

    def assemble(self, length, intro, events, final, rng, haystack=True):
        """`events`: (time in [0, 1), tokens, kinds) to be put into the haystack; `final`: the same without time, after it."""
        used = 1 + len(intro) + sum(len(tokens) for _, tokens, _ in events) + sum(len(tokens) for tokens, _ in final)
        text, bounds = self.haystack(max(0, length - used) if haystack else 0, rng)
        pieces, kinds = [[self.begin], intro], []
        done, position = 0, 1 + len(intro)
        for time, tokens, of in sorted(events, key=lambda event: event[0]):
            cut = int(bounds[int(time * len(bounds))])
            pieces += [text[done:cut], tokens]
            position += cut - done
            if of is not None:
                kinds.append((position, of))
            position += len(tokens)
            done = cut
        pieces.append(text[done:])
        position += len(text) - done
        for tokens, of in final:
            pieces.append(tokens)
            kinds.append((position, of))
            position += len(tokens)
        document = np.full(length, self.end, np.uint16)
        kind = np.full(length, KIND['syntax'], np.uint8)
        joined = np.concatenate([np.asarray(piece, np.uint16) for piece in pieces if len(piece)])[:length]
        opening = 1 + len(intro)
        if opening < len(joined) and haystack:
            joined[opening] = self.without_space.get(int(joined[opening]), joined[opening])
        document[: len(joined)] = joined
        kind[: len(joined)] = 0
        kind[len(joined) + 1 :] = 0  # of the filling, the first end alone counts
        for position, of in kinds:
            kind[position : position + len(of)] = of[: max(0, length - position)]
        return document, kind

    def document(self, length, rng):
        """One training document: `length` tokens (uint16) and their kinds (uint8)."""
        pick = rng.random()
        if pick < 0.06:
            return self.list_document(rng.choice(['common-words', 'frequent-words']), length, rng)
        keys = rng.sample(self.keys, min(len(self.keys), 40 + length // 16))
        if pick < (0.2 if length < 600 else 0.36):
            return self.task_document(rng.choice(TASKS[:7]), length, keys, rng)
        return self.mixed_document(length, keys, rng)

    def list_document(self, task, length, rng):
        intro = self.templates[task, 'intro']
        listed, (prompt, answer, kinds) = self.word_list(task, length - len(intro) - 24, rng)
        final = [(listed, [0] * len(listed)), (prompt + answer, [0] * len(prompt) + kinds)]
        return self.assemble(length, intro, [], final, rng, haystack=False)

    def group(self, task, keys, rng, default=False):
        settings = self.tasks[task]
        vary = lambda name, low, high: settings[name] if default else rng.randint(low, high)
        if task == 'needle':
            return self.needles('needle', 1, 1, keys, rng)
        if task == 'multi-key':
            return self.needles('multi-key', vary('needles', 2, 8), 1, keys, rng)
        if task == 'multi-value':
            return self.values(vary('needles', 2, 3), keys, rng)
        if task == 'multi-query':
            n = vary('needles', 2, 5)
            return self.needles('multi-query', n, min(n, vary('asked', 2, 4)), keys, rng)
        if task == 'passkey':
            return self.passkey(rng)
        if task == 'multi-passkey':
            return self.passkeys(vary('needles', 2, 5), rng)
        chains = [self.chain(vary('hops', 1, 3), keys, rng) for _ in range(vary('chains', 1, 3))]
        statements = interleave([chain[0] for chain in chains], rng)
        return statements, rng.choice(chains)[1]

    def task_document(self, task, length, keys, rng):
        """A document in the form of the evaluation: one task, asked at the end."""
        statements, questions = self.group(task, keys, rng)
        times = sorted(rng.random() for _ in statements)
        events = [(time, statement, None) for time, statement in zip(times, statements)]
        final = [(prompt + answer, [0] * len(prompt) + kinds) for prompt, answer, kinds in questions]
        return self.assemble(length, self.templates[task, 'intro'], events, final, rng)

    def mixed_document(self, length, keys, rng):
        """Many groups, asked at the end or as soon as their statements have passed: many answers to learn from in one document."""
        task = rng.choice(TASKS[:7])
        intro = self.templates[task, 'intro'] if rng.random() < 0.7 else []
        between = rng.random() < 0.5
        budget = int((length - len(intro)) * (rng.uniform(0.4, 1) if length < 600 else rng.uniform(0.3, 0.6)))
        events, final, once = [], [], set()
        while len(keys) > 4:  # as many as a group takes
            pick = rng.random()
            if pick < 0.1:
                name = 'span'
                statements, questions = self.span(rng, 40 if length < 600 else 100)
            elif pick < (0.4 if length < 600 else 0.15):
                name = 'restated'
                statements, questions = self.restated(keys, rng)
            else:
                name = rng.choices(TASKS[:7], [0.4, 0, 0.14, 0.12, 0.06, 0.1, 0.18])[0]
                if name in once:
                    continue
                if name in ('passkey', 'multi-passkey'):
                    once.add(name)
                if name == 'multi-query':
                    n = rng.randint(2, 3)
                    statements, questions = self.needles(name, n, n, keys, rng)
                elif name == 'variable-tracking':
                    statements, questions = self.chain(rng.randint(1, 3), keys, rng)
                elif name == 'needle':
                    statements, questions = self.needles('multi-key', 1, 1, keys, rng)
                else:
                    statements, questions = self.group(name, keys, rng)
            budget -= sum(map(len, statements)) + sum(len(prompt) + len(answer) for prompt, answer, _ in questions)
            if budget < 0 and events:
                break
            times = sorted(rng.random() for _ in statements)
            events += [(time, statement, None) for time, statement in zip(times, statements)]
            for prompt, answer, kinds in questions:
                block, of = prompt + answer, [0] * len(prompt) + kinds
                if between or name in ('span', 'restated'):
                    events.append((rng.uniform(times[-1], 1), block, of))
                else:
                    final.append((block, of))
        rng.shuffle(final)
        return self.assemble(length, intro, events, final, rng)

    # Evaluation.

    def prompt(self, task, length, depth, rng):
        """A prompt of about `length` tokens as `llama-duo eval` asks it, and the expected tokens with their kinds.

        `depth` in [0, 1] places a single needle, between the sinks and the recent window; None, and several needles, at random there.
        """
        if task in ('common-words', 'frequent-words'):
            intro = self.templates[task, 'intro']
            listed, (question, answer, kinds) = self.word_list(task, length - len(intro) - 24, rng)
            return np.array([self.begin, *intro, *listed, *question], np.uint16), answer, kinds
        keys = rng.sample(self.keys, 40)
        statements, questions = self.group(task, keys, rng, default=True)
        question, answer, kinds = questions[0]
        intro = self.templates[task, 'intro']
        text, bounds = self.haystack(length - 1 - len(intro) - sum(map(len, statements)) - len(question), rng)
        total = len(text) + sum(map(len, statements))
        low, high = SINK, total + len(question) - RECENT - 16  # 16: a needle, and the answer so far
        inside = np.flatnonzero((bounds + 1 + len(intro) >= low) & (bounds + 1 + len(intro) <= high - sum(map(len, statements))))
        if len(inside) == 0:  # a text shorter than sinks and window has no such place
            inside = np.arange(len(bounds))
        if depth is not None and len(statements) == 1:
            cuts = [int(inside[round(depth * (len(inside) - 1))])]
        else:
            cuts = sorted(rng.choices(inside.tolist(), k=len(statements)))
        pieces, done = [[self.begin], intro], 0
        for cut, statement in zip(cuts, statements):
            pieces += [text[done : bounds[cut]], statement]
            done = bounds[cut]
        tokens = np.concatenate([np.asarray(piece, np.uint16) for piece in [*pieces, text[done:], question] if len(piece)])
        tokens[1 + len(intro)] = self.without_space[int(tokens[1 + len(intro)])]
        return tokens, answer, kinds


def interleave(lists, rng):
    """The lists' items in random order, each list's own order kept."""
    order = [i for i, items in enumerate(lists) for _ in items]
    rng.shuffle(order)
    iterators = [iter(items) for items in lists]
    return [next(iterators[i]) for i in order]
