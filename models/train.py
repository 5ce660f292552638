"""Trains a needle model: a small llama, or a hybrid with short convolutions, that finds things in long texts.

    python models/train.py --out out          train, evaluate (out/checkpoint.pt, tokenizer.json, log.jsonl, evaluation.json)
    python models/export.py out models/needle.gguf

Ordinary training on the language of src/synthetic/language.json, in stages of rising length: the induction heads that find a
value form on short documents with many questions, and then learn to reach further. No head is pushed to be sparse.
"""

import argparse
import json
import math
import os
import random
import time
from pathlib import Path

import numpy as np
os.environ.setdefault('TORCHINDUCTOR_COMPILE_THREADS', '4')
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

import evaluate
from documents import KIND, KINDS, Documents
from language import Language, train_tokenizer
from model import SHAPES, TOY_SHAPES, Config, Model

# (length, rows, share of the time). Rows times length is the same in all stages, so what is compiled is compiled once.
STAGES = [(258, 384, 0.3), (1032, 96, 0.2), (4128, 24, 0.2), (16512, 6, 0.3)]
TOY_STAGES = [(129, 16, 0.5), (258, 8, 0.5)]
FIRST_AT_MOST = 0.6  # of the time: the first stage lasts until needles are found
PEAK_RATE, WARMUP, CONSTANT_UNTIL, LAST_RATE = 1.5e-3, 0.02, 0.55, 0.03  # shares of the time; of the peak
WEIGHT = np.ones(len(KINDS), np.float32)
WEIGHT[[KIND['repeat'], KIND['syntax']]] = 0.3
TEXT_WEIGHT, TEXT_SAMPLE = 0.25, 1 / 8  # of the loss; of the running text's tokens, which teach little each


class Batches(IterableDataset):
    def __init__(self, documents, length, rows, seed):
        self.documents, self.length, self.rows, self.seed = documents, length, rows, seed

    def __iter__(self):
        worker = get_worker_info()
        seed = f'{self.seed}/{self.length}/{worker.id if worker else 0}'
        rng, np_rng = random.Random(seed), np.random.default_rng(abs(hash_text(seed)))
        while True:
            rows = [self.documents.document(self.length + 1, rng) for _ in range(self.rows)]
            tokens, kinds = (np.stack(parts) for parts in zip(*rows))
            targets, kinds = tokens[:, 1:].reshape(-1), kinds[:, 1:].reshape(-1)
            chosen = np.flatnonzero((kinds > 0) | (np_rng.random(len(kinds), np.float32) < TEXT_SAMPLE))
            yield tuple(
                torch.from_numpy(np.ascontiguousarray(part).astype(np.int32)) for part in (tokens[:, :-1], chosen, targets[chosen], kinds[chosen])
            )


def hash_text(text):
    """The same in every process, as Python's hash is not."""
    return int.from_bytes(text.encode(), 'little') % 2**63


def rate(progress):
    if progress < WARMUP:
        return PEAK_RATE * (progress + 1e-3) / (WARMUP + 1e-3)
    falling = max(0, progress - CONSTANT_UNTIL) / (1 - CONSTANT_UNTIL)
    return PEAK_RATE * (LAST_RATE + (1 - LAST_RATE) * (0.5 + 0.5 * math.cos(math.pi * min(1, falling))))


def save(model, out, **extra):
    """The weights in f16 (the exported model has 8 bits), without the rows that only pad the vocabulary."""
    state = {name: weight.detach().half().cpu().clone() for name, weight in model.state_dict().items()}
    state['embed.weight'] = state['embed.weight'][: model.config.n_vocab].clone()
    path = out / 'checkpoint.pt'
    torch.save({'config': model.config.as_dict(), 'state': state, **extra}, path.with_suffix('.tmp'))
    os.replace(path.with_suffix('.tmp'), path)


def load(path, device):
    """A model as `save` wrote it, in f32, and what was saved with it."""
    saved = torch.load(path, map_location='cpu', weights_only=True)
    model = Model(Config(**saved.pop('config')))
    state = {name: weight.float() for name, weight in saved.pop('state').items()}
    state['embed.weight'] = F.pad(state['embed.weight'], (0, 0, 0, len(model.embed.weight) - len(state['embed.weight'])))
    model.load_state_dict(state)
    return model.to(device).eval(), saved


def train(args, out, device):
    stages = TOY_STAGES if args.toy else STAGES
    language = Language()
    tokenizer = train_tokenizer(language)
    tokenizer.save(str(out / 'tokenizer.json'))
    documents = Documents(language, tokenizer, args.seed, 1_000_000 if args.toy else 24_000_000)
    torch.manual_seed(args.seed)
    shapes = TOY_SHAPES if args.toy else SHAPES
    model = Model(Config(tokenizer.get_vocab_size(), **shapes[args.shape])).to(device)
    n_parameters = sum(weight.numel() for weight in model.parameters())
    print(f'{n_parameters:,} parameters, vocabulary {documents.n_vocab}, {documents.starts[-1]:,} tokens of running text', flush=True)

    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    vectors = [weight for weight in model.parameters() if weight.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{'params': matrices, 'weight_decay': 0.1}, {'params': vectors, 'weight_decay': 0.0}], lr=PEAK_RATE, betas=(0.9, 0.95), fused=device == 'cuda'
    )
    if args.compile:
        model.compile_layers()
    weights = torch.from_numpy(WEIGHT).to(device)
    log = open(out / 'log.jsonl', 'w')

    def forward_loss(batch, places):
        tokens, chosen, targets, kinds = (part.to(device, non_blocking=True).long() for part in batch)
        with torch.autocast(device, torch.bfloat16, enabled=device == 'cuda'):
            logits = model.logits(model(tokens, places=places)[chosen])
        losses = F.cross_entropy(logits.float(), targets, reduction='none')
        is_text = kinds == KIND['text']
        weight = weights[kinds] * ~is_text
        asked = (losses * weight).sum() / weight.sum()
        text = (losses * is_text).sum() / is_text.sum()
        right = (logits.argmax(-1) == targets).float()
        counts = torch.zeros(2, len(KINDS), device=device)
        counts[0].index_add_(0, kinds, right)
        counts[1].index_add_(0, kinds, torch.ones_like(right))
        return asked + TEXT_WEIGHT * text, asked.detach(), text.detach(), counts

    budget = args.minutes * 60
    step, began, spent = 0, time.monotonic(), 0.0  # spent: of the budget, without compiling, saving and checking
    history = []
    for number, (length, rows, share) in enumerate(stages):
        left = sum(stage[2] for stage in stages[number:])
        seconds = (budget - spent) * share / left
        stage_began, stage_step = spent, step
        loader = iter(
            DataLoader(
                Batches(documents, length, rows, args.seed), batch_size=None, num_workers=args.workers, prefetch_factor=4 if args.workers else None
            )
        )
        places = model.places(length, rows, device)
        model.train()
        tick = time.monotonic()
        logged, counts, found = spent, 0, 0.0
        while spent - stage_began < seconds or (number == 0 and found < 0.9 and spent < FIRST_AT_MOST * budget):
            progress = min(1, spent / budget)
            for group in optimizer.param_groups:
                group['lr'] = rate(progress)
            loss, asked, text, step_counts = forward_loss(next(loader), places)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            counts = counts + step_counts
            if step % 10 == 0 or step < 4:
                asked.item()  # waits for the device, so that the time is true
            now = time.monotonic()
            spent += 0 if step < 4 else now - tick  # the first steps compile
            tick = now
            if spent - logged >= args.log_seconds:
                logged = spent
                right, total = counts.tolist()
                counts = 0
                accuracy = {kind: round(r / t, 4) for kind, r, t in zip(KINDS, right, total) if t}
                found = accuracy.get('multi-key', 0)
                row = dict(seconds=round(spent, 1), step=step, length=length, rate=rate(progress), asked=round(asked.item(), 4), text=round(text.item(), 4))
                print(f'{spent:6.1f} s  step {step:5}  length {length:5}  loss {row["asked"]:.3f} text {row["text"]:.2f}  ' + ' '.join(f'{short(k)} {v:.2f}' for k, v in accuracy.items() if k != 'text'), flush=True)
                log.write(json.dumps(row | {'accuracy': accuracy}) + '\n')
                log.flush()
        del loader
        history.append(dict(length=length, rows=rows, steps=step - stage_step, seconds=round(spent - stage_began, 1), loss=round(asked.item(), 4), textLoss=round(text.item(), 4)))
        save(model, out, stages=history, seed=args.seed, parameters=n_parameters)
        with torch.compiler.set_stance('force_eager'):
            checked = evaluate.needles(model.eval(), documents, min(length, 16384), samples=20, seed=args.seed)
        history[-1]['needle'] = checked
        print(f'stage {number + 1}: {step - stage_step} steps, needles found at {length}: {checked:.2f}, wall time {time.monotonic() - began:.0f} s', flush=True)
        if number == 0 and found < 0.5 and not args.toy:
            raise SystemExit('After the first stage needles are not found: longer documents would not teach it. Try more --minutes or another --seed.')
    save(model, out, stages=history, seed=args.seed, parameters=n_parameters, minutes=args.minutes)
    return model.eval()


def short(kind):
    return ''.join(part[0] for part in kind.split('-')) if '-' in kind else kind[:4]


def main():
    parser = argparse.ArgumentParser(description='Trains and evaluates the needle model.')
    parser.add_argument('--out', type=Path, default=Path('models/out'), help='folder for the checkpoint, tokenizer, log and evaluation')
    parser.add_argument('--shape', choices=SHAPES, default='llama', help='llama, or hybrid: every other layer a short convolution, as LFM2 has them')
    parser.add_argument('--minutes', type=float, default=6, help='of training; the evaluation takes one or two more on an H100')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--workers', type=int, default=6, help='processes that make documents')
    parser.add_argument('--log-seconds', type=float, default=5)
    parser.add_argument('--no-compile', dest='compile', action='store_false', help='without torch.compile')
    parser.add_argument('--evaluate', action='store_true', help='evaluate the checkpoint in --out without training')
    parser.add_argument('--samples', type=int, default=10, help='prompts a cell of the evaluation')
    parser.add_argument('--toy', action='store_true', help='a tiny model on short documents, to try the script on a CPU')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.backends.cuda.matmul.allow_tf32 = True
    if args.evaluate:
        model, _ = load(args.out / 'checkpoint.pt', device)
    else:
        try:
            model = train(args, args.out, device)
        except Exception as error:  # a compiler is missing, say: nothing of the time is spent yet
            if not args.compile or (args.out / 'checkpoint.pt').exists():
                raise
            print(f'Without torch.compile, which failed: {type(error).__name__}: {str(error)[:300]}', flush=True)
            args.compile = False
            torch._dynamo.reset()
            model = train(args, args.out, device)
    language = Language()
    documents = Documents(language, train_tokenizer(language), args.seed + 1, 4_000_000)  # other text than trained on
    lengths = [512, 1024] if args.toy else [1024, 2048, 4096, 8192, 16384]
    with torch.compiler.set_stance('force_eager'):
        evaluate.report(model, documents, lengths, args.samples, args.seed, args.out / 'evaluation.json')


if __name__ == '__main__':
    main()
