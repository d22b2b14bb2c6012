"""What `tiny` can be taught: scores on held-out records, over several seeds.

    python benchmarks/tiny.py                                # the built-in data, three seeds
    python benchmarks/tiny.py --data lecture --epochs 5      # the lecture's data; or the path of a JSON file
    python benchmarks/tiny.py --samples 16                   # of 16 drawn answers the one most like the others, beside the greedy one
    python benchmarks/tiny.py --mean                         # at the end, the mean of the fine-tuned weights of all seeds

Prints one line a run, then the mean. Nothing is written.
"""
import argparse, statistics, time

from gpt_course.dataset import load_data, split_records
from gpt_course.evaluation import respond_by_consensus, score_responses
from gpt_course.finetuning import TrainConfig, finetune
from gpt_course.loaders import make_loaders
from gpt_course.pretrained import load_pretrained
from gpt_course.responses import respond

SHOWN = ('exact_match', 'rouge_l', 'end_rate')

def run(model, data, config, batch_size, part, samples):
    "Scores on one part of the data before and after fine-tuning, and the seconds it took"
    net, tokenizer = load_pretrained(model)
    parts = split_records(load_data(data))
    train, _, val = make_loaders(parts, tokenizer, net.config.n_positions, batch_size, config.seed)
    answer = lambda: score_responses(parts[part], respond(net, tokenizer, parts[part], max_new_tokens=96))
    before, start = answer(), time.perf_counter()
    history = finetune(net, train, val, config, progress=False)
    seconds = time.perf_counter() - start
    row = {'seed': config.seed, 'val_loss': history.rows[-1]['val_loss'], 'seconds': seconds, 'before': before['exact_match'],
           **{k: v for k, v in answer().items() if k in SHOWN}}
    if samples > 1:
        drawn = score_responses(parts[part], respond_by_consensus(net, tokenizer, parts[part], samples, max_new_tokens=96))
        row |= {f'{k}_of_{samples}': drawn[k] for k in SHOWN}
    return row, net

def score_mean(nets, model, data, part):
    "Scores of one network whose weights are the mean of those of all (Wortsman et al. 2022: a soup)"
    states, tokenizer = [net.state_dict() for net in nets], load_pretrained(model)[1]
    nets[0].load_state_dict({k: sum(s[k] for s in states) / len(states) for k in states[0]})
    records = split_records(load_data(data))[part]
    return {k: v for k, v in score_responses(records, respond(nets[0], tokenizer, records, max_new_tokens=96)).items() if k in SHOWN}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model', default='tiny')
    p.add_argument('--data', default='builtin')
    p.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    p.add_argument('--epochs', type=int, default=2)
    p.add_argument('--lr', type=float)
    p.add_argument('--batch-size', type=int, default=8)
    p.add_argument('--samples', type=int, default=1, help='also score the answer most like the others, of so many drawn')
    p.add_argument('--mean', action='store_true', help='also score the mean of the fine-tuned weights of all seeds')
    p.add_argument('--validation', action='store_true', help='score the validation part, to choose settings by')
    a = p.parse_args()
    rows, nets, part = [], [], 2 if a.validation else 1
    for seed in a.seeds:
        row, net = run(a.model, a.data, TrainConfig(epochs=a.epochs, lr=a.lr, seed=seed), a.batch_size, part, a.samples)
        rows.append(row)
        if a.mean: nets.append(net)
        print('  '.join(f'{k} {v:.4g}' for k, v in rows[-1].items()), flush=True)
    print('mean  ' + '  '.join(f'{k} {statistics.fmean(r[k] for r in rows):.4g}' for k in rows[0] if k != 'seed'))
    if a.mean: print('weights\' mean  ' + '  '.join(f'{k} {v:.4g}' for k, v in score_mean(nets, a.model, a.data, part).items()))

if __name__ == '__main__': main()
