"""Prints a prompt of each task as `models/` trains on it, a JSON object a line, for the test that compares them with those of `llama-duo eval`."""

import json
import random

from documents import TASKS, Documents
from language import Language, train_tokenizer

TOKENS = 1024


def main():
    language = Language()
    tokenizer = train_tokenizer(language)
    documents = Documents(language, tokenizer, seed=1, pool_tokens=1 << 19)
    for task in TASKS:
        depth = 0.5 if task in ('needle', 'passkey') else None
        prompt, expected, _ = documents.prompt(task, TOKENS, depth, random.Random(task))
        tokens = [int(token) for token in prompt[1:]]  # without the one that begins a text
        answer = [int(token) for token in expected]
        print(json.dumps({'task': task, 'tokens': tokens, 'text': tokenizer.decode(tokens), 'answer': tokenizer.decode(answer)}))


if __name__ == '__main__':
    main()
