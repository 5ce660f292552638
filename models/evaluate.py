"""Accuracy of a model with all, some or none of its KV heads streaming, and which heads matter, by ablation.

Prompts are those of `llama-duo eval`. An answer is right if greedy decoding would give it: each of its tokens is the likeliest
after the ones before it, which one forward pass over prompt and answer shows.
"""

import json
import math
import random
import time

import torch

from documents import KIND, TASKS

TOKENS_A_BATCH = 1 << 17


@torch.no_grad()
def answers(model, prompts, streaming=None):
    """For each prompt (tokens, expected, kinds): is the answer right, and the mean log-probability of the asked tokens."""
    device = next(model.parameters()).device
    lengths = [len(prompt) + len(expected) for prompt, expected, _ in prompts]
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    results = [None] * len(prompts)
    while order:
        longest = lengths[order[-1]]
        batch = [order.pop() for _ in range(min(len(order), max(1, TOKENS_A_BATCH // longest)))]
        tokens = torch.zeros(len(batch), longest, dtype=torch.long)
        for row, i in zip(tokens, batch):
            prompt, expected, _ = prompts[i]
            whole = torch.tensor(prompt.tolist() + expected)
            row[: len(whole)] = whole
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == 'cuda'):
            hidden = model(tokens.to(device), streaming=streaming).view(len(batch), longest, -1)
        for row, i in zip(hidden, batch):
            prompt, expected, kinds = prompts[i]
            targets = torch.tensor(expected, device=device)
            logits = model.logits(row[len(prompt) - 1 :][: len(expected)].float())
            asked = torch.tensor(kinds) > KIND['syntax']
            right = (logits.argmax(-1) == targets).cpu()
            chances = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].cpu()
            results[i] = (bool(right[:-1].all()), float(chances[asked].mean()))  # without the full stop
    return results


def accuracy(model, prompts, streaming=None):
    return sum(right for right, _ in answers(model, prompts, streaming)) / len(prompts)


@torch.no_grad()
def words_found(model, prompts, streaming=None):
    """The share of the expected words among those that greedy decoding gives; their order does not count."""
    device = next(model.parameters()).device
    found = total = 0
    for prompt, expected, kinds in prompts:
        words = {token for token, kind in zip(expected, kinds) if kind > KIND['syntax']}
        tokens = torch.tensor(prompt.tolist(), device=device)
        for _ in range(len(expected) - 1):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == 'cuda'):
                last = model(tokens[None], streaming=streaming)[-1]
            tokens = torch.cat((tokens, model.logits(last.float()).argmax()[None]))
        found += len(words & set(tokens[len(prompt) :].tolist()))
        total += len(words)
    return found / total


def make(documents, task, length, depths, samples, seed):
    """`samples` prompts at each of the depths (None: at random)."""
    rng = random.Random(f'{seed}/{task}/{length}')
    return [documents.prompt(task, length, depth, rng) for depth in depths for _ in range(samples)]


def needles(model, documents, length, samples, seed):
    return accuracy(model, make(documents, 'needle', length, [None], samples, seed))


def stream(order, n, shape):
    """bool [attention layers, KV heads]: the first `n` heads of `order` stream."""
    streaming = torch.zeros(shape, dtype=torch.bool).view(-1)
    streaming[order[:n]] = True
    return streaming.view(shape)


def report(model, documents, lengths, samples, seed, path):
    layers = model.config.attention_layers
    shape = (len(layers), model.config.n_kv_heads)
    n_heads = math.prod(shape)
    began, result = time.monotonic(), {'sink': 64, 'recent': 256, 'samples': samples, 'seed': seed, 'lengths': lengths}

    def step(name, value):
        result[name] = value
        path.write_text(json.dumps(result, indent=1))
        print(f'evaluation, {time.monotonic() - began:.0f} s: {name} {json.dumps(value)[:400]}', flush=True)

    middle = lengths[len(lengths) // 2]
    tasks = ['needle', 'multi-key', 'multi-value', 'multi-query', 'variable-tracking']
    prompts = [prompt for task in tasks for prompt in make(documents, task, middle, [None], 2 * samples, seed + 1)]
    base = answers(model, prompts)
    ablation = []
    for head in range(n_heads):
        alone = answers(model, prompts, stream([head], 1, shape))
        lost = sum(a[1] - b[1] for a, b in zip(base, alone)) / len(prompts)
        ablation.append({'layer': layers[head // shape[1]], 'head': head % shape[1], 'logProbabilityLost': round(lost, 4), 'accuracy': sum(r for r, _ in alone) / len(prompts)})
    order = sorted(range(n_heads), key=lambda head: ablation[head]['logProbabilityLost'])
    step('ablation', {'tasks': tasks, 'length': middle, 'prompts': len(prompts), 'accuracy': sum(r for r, _ in base) / len(prompts), 'heads': ablation, 'order': order})

    rng = random.Random(seed)
    half, most = math.ceil((n_heads - 1) * 0.5), math.ceil((n_heads - 1) * 0.75)  # as llama-duo selects heads
    shuffled = [rng.sample(order, n_heads) for _ in range(3)]
    modes = {
        'full': None,
        'streaming': stream(order, n_heads, shape),
        'half': stream(order, half, shape),
        'three quarters': stream(order, most, shape),
        'inverted half': stream(order[::-1], half, shape),
        **{f'random half {i + 1}': stream(heads, half, shape) for i, heads in enumerate(shuffled)},
    }
    depths = [i / 9 for i in range(10)]
    grid = {mode: {} for mode in modes}
    for length in lengths:
        prompts = make(documents, 'needle', length, depths, samples, seed)
        for mode, streaming in modes.items():
            right = [r for r, _ in answers(model, prompts, streaming)]
            grid[mode][length] = [sum(right[i * samples :][:samples]) / samples for i in range(len(depths))]
        step('needle', grid)

    by_task = {mode: {task: {} for task in TASKS} for mode in ('full', 'half', 'three quarters', 'streaming')}
    for task in TASKS:
        for length in lengths:
            prompts = make(documents, task, length, [None], 2 * samples, seed + 2)
            score = words_found if task.endswith('words') else accuracy
            for mode, scores in by_task.items():
                scores[task][length] = round(score(model, prompts[:samples] if score is words_found else prompts, modes[mode]), 4)
    step('tasks', by_task)

    prompts = make(documents, 'needle', middle, [None], 5 * samples, seed + 3)
    curves = {'ablation': order, 'inverted': order[::-1], **{f'random {i + 1}': heads for i, heads in enumerate(shuffled)}}
    step('curve', {name: [accuracy(model, prompts, stream(heads, n, shape)) for n in range(n_heads + 1)] for name, heads in curves.items()})
