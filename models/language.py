"""The synthetic language of src/synthetic/language.json, in words and in tokens."""

import json
import re
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PATH = Path(__file__).parent.parent / 'src/synthetic/language.json'
BEGIN, END = '<|begin|>', '<|end|>'
SLOT = re.compile(r'\{(\w+)\}')


class Language:
    def __init__(self, path=PATH):
        data = json.loads(Path(path).read_text())
        self.patterns = data['haystack']['patterns']
        self.words = {name: words(lines) for name, lines in data['haystack']['words'].items()}
        self.keys = words(data['keys'])
        self.digits = data['value']['digits']
        self.tasks = data['tasks']
        self.names = words(self.tasks['multi-passkey']['names'])

    def texts(self):
        """Every text from whose parts the language is made, without the digits."""
        singles = [word for group in self.words.values() for word in group] + self.keys + self.names + ['and']
        templates = [text for task in self.tasks.values() for text in task.values() if isinstance(text, str)]
        # A sentence begins with a space, except where it opens the text.
        return [f' {word}' for word in singles] + self.words['name'] + [
            f'{space}{SLOT.sub(".", text)}' for text in self.patterns + templates for space in (' ', '')
        ]


def words(lines):
    return ' '.join(lines).split()


def train_tokenizer(language):
    """Byte-level BPE with GPT-2's pre-tokenizer, in which every word of the language, with the space before it, is one token.

    A digit merges with the space before it and with nothing else, since the training text has no two digits in a row:
    a value is as many tokens as digits, and its first digit follows its key directly.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    digits = [f' {digit}' for digit in range(10)]
    trainer = trainers.BpeTrainer(
        vocab_size=1 << 14,  # an upper bound: training ends when nothing is left to merge
        special_tokens=[BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(language.texts() + digits, trainer)
    return tokenizer
