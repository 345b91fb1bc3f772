"""A command line that cannot run says in one message what was given, what is allowed and what to change, and leaves
nothing behind. What no constructor knows is told before torch is imported, what one knows before data are loaded.

Every command line is answered by a process of its own, forked from a server (`door.py`) that has imported Hydra, or
torch too. Every tenth is also given to a new interpreter.
"""

import os
import shlex
import subprocess
import sys

import pytest
from door import ROOT, Answer, assert_refused

WATCHED = "import sys, sam_repro.train\ntry: sam_repro.train.main()\nfinally: print('torch' in sys.modules)"

INTEGER = "must be an integer"
NUMBER = "must be a finite number"
SPELLING = "settings are written key=value, such as rho=0.1"

# command line: what its message says
REFUSED_WITHOUT_TORCH = {
    # unknown keys, unknown options
    "optimzer=sam": "optimzer=sam: no such key; did you mean optimizer?",
    "lrr=0.1": "lrr=0.1: no such key; did you mean lr?",
    "foo.bar=1": "foo.bar=1: no such key; there are: architecture,",
    "config=digits": "config=digits: no such key; there are: architecture,",
    "optimizer=samm": "optimizer = samm: no such option; did you mean sam?",
    "optimizer=SAM": "optimizer = SAM: no such option; did you mean sam?",
    "experiment=foret2021": "experiment = foret2021: no such option; there are: foret2021/cifar, foret",
    "optimizer=": "optimizer = '': no such option; there are: asam,",
    "optimizer=null": "optimizer = null: no such option; there are: asam,",
    "optimizer=[sam]": "optimizer = [sam]: no such option; did you mean sam?",
    "optimizer={rho:1}": "optimizer = {'rho': 1}: no such option; there are: asam,",
    "base_optimizer=sdg": "base_optimizer = sdg: no such option; did you mean sgd?",
    "dataset=places": "dataset = places: no such option; there are: arrays,",
    "architecture=resnet19": "architecture = resnet19: no such option; did you mean resnet",
    "augmentation=mosaic": "augmentation = mosaic: no such option; there are: ",
    "schedule=cosin": "schedule = cosin: no such option; did you mean cosine?",
    "optimizer=adamw": "optimizer = adamw: no such option; base_optimizer has it: write base_optimizer=adamw",
    "experiment=foret2021/table1": "no such option; table has it: write table=foret2021/table1",
    # keys of a node, without it
    "alpha=0.5 optimizer=gsam": "alpha=0.5: no such key; did you mean optimizer.alpha?",
    "alpha=0.5": "alpha=0.5: no such key; did you mean graph?",  # sam has none
    "validation.count=4": "validation.count=4: no such key; did you mean dataset.validation.count?",
    "-m probability=0.5,1 augmentation=cutout": (
        "did you mean augmentation.flip.probability or augmentation.cutout.probability?"
    ),
    # twice
    "--config-dir a --config-dir=b": "--config-dir and --config-dir=b: write it once, because only one",
    # keys of a node
    "optimizer.lr=1": "optimizer.lr: no such key; there are: optimizer.",
    "schedule.gamma=0.1": "schedule.gamma: no such key; it is a key of schedule=multi_step",
    "schedule=multi_step schedule.final=0": "schedule.final: no such key; it is a key of schedule=cosine",
    "optimizer=sgd optimizer.eta=0": "optimizer.eta: no such key",
    "base_optimizer.momentun=0.8": "base_optimizer.momentun: no such key; did you mean base_optimizer.momentum?",
    "base_optimizer.weight_decay=0.1": "base_optimizer.weight_decay: no such key; there are: base_optimizer.",
    "architecture.width=10": "architecture.width: no such key; it is a key of architecture=shake_shake_26_2x96d",
    "augmentation.policy=auto": "augmentation.policy: no such key; it is a key of augmentation=autoaugment",
    "dataset.validation.cuont=10": "dataset.validation.cuont: no such key; did you mean dataset.validation.count?",
    "dataset.validation={cuont:10}": "dataset.validation.cuont: no such key; did you mean dataset.validation.count?",
    "dataset.source.path=/data": "dataset.source.path: no such key; dataset.source has none that can be set: an option",
    "label_noise.rte=0.4": "label_noise.rte: no such key; did you mean label_noise.rate?",
    "label_noise={rte:0.4}": "label_noise.rte: no such key; did you mean label_noise.rate?",
    "label_noise.rate.x=1": "label_noise.rate.x: no such key, because label_noise.rate is one value",
    "lr.x=1": "lr.x: no such key, because lr is one value; write lr=value",
    "label_noise=0.4": "label_noise = 0.4: has keys of its own; set label_noise.rate,",
    "label_noise=null": "label_noise = null: has keys of its own; set label_noise.rate,",
    "dataset.validation=5": "dataset.validation = 5: has keys of its own; set dataset.validation.stream,",
    "dataset.augmentation=3": "dataset.augmentation = 3: has keys of its own; set dataset.augmentation.pad,",
    "augmentation=cutout augmentation.cutout=4": (
        "augmentation.cutout = 4: has keys of its own; set augmentation.cutout.size,"
    ),
    "dataset.source=digits": "dataset.source: its file must say what it builds, by _target_: package.module.name",
    "optimizer._target_=5": "optimizer: its file must say what it builds, by _target_: package.module.name",
    "optimizer._partial_=false": "optimizer: its file must say what it builds, by _target_: package.module.name and",
    # keys added, removed, moved
    "+foo=1": "+foo=1: keys can be set, not added or removed; write foo=value",
    "+dataset.source.size=32": (
        "+dataset.source.size=32: keys can be set, not added or removed; write dataset.source.size=value, if --cfg job "
        "shows it; an option file of your own can have others, with --config-dir"
    ),
    "++foo=1": "++foo=1: keys can be set, not added or removed; write foo=value",
    "+optimizer=sam": "+optimizer=sam: keys can be set, not added or removed; write optimizer=value",
    "~lr": "~lr: keys can be set, not added or removed; write lr=value",
    "~optimizer=sam": "~optimizer=sam: keys can be set, not added or removed; write optimizer=value",
    "optimizer@here=sam": "optimizer@here: no such key",
    "hydra.ouput_subdir=x": "hydra.ouput_subdir=x: is fixed; of Hydra's own, hydra/launcher=name",
    "hydra.job.chdir=true": "hydra.job.chdir=true: is fixed; of Hydra's own, hydra/launcher=name",
    "hydra.mode=MULTIRUN": "hydra.mode=MULTIRUN: is fixed; of Hydra's own",
    "hydra.searchpath=[file:///tmp]": "hydra.searchpath=[file:///tmp]: is fixed; of Hydra's own",
    "hydra/launcher=joblib": "hydra/launcher=joblib: is for a sweep; add -m",
    "-m hydra/launcher=nope": "Could not find 'hydra/launcher/nope' Available options in 'hydra/launcher': basic",
    "-m hydra.launcher.n_jobs=2": "hydra.launcher.n_jobs=2: this process has nothing to set; add hydra/launcher=joblib",
    "-m seed=range(0,100000000000)": "seed=range(0,100000000000): must be of at most 10000 values",
    "-m seed=range(0,9,0)": "seed=range(0,9,0): must be of at most 10000 values, with a step other than 0",
    "-m seed=range(0,5000) rho=0.1,0.2,0.3": "-m: these are 15000 lines; write at most 10000 in one sweep",
    "-m hydra/launcher=null": "hydra/launcher=null: a sweep has one launcher; write one, such as",
    "-s 1": "Expecting one subcommand from",
    "--resolve": "--resolve: says how --cfg job shows a line; add --cfg job, or leave it out",
    "--config-dir ''": "--config-dir '': no such folder",
    "rho={}": f"rho = {{}}: {NUMBER} >= 0, or null",
    "'data_dir=~nouser/x'": (
        f"data_dir=~nouser/x: cannot be read; {SPELLING}; a text with such signs needs quotes of its own: "
        "\"data_dir='~nouser/x'\""
    ),
    "'data_dir=a;b#c'": "needs quotes of its own: \"data_dir='a;b#c'\"",
    "'data_dir=a$;'": "needs quotes of its own: 'data_dir='\"'\"'a$;'\"'\"''",
    "assumed=null": "assumed=null: is what the file of a recipe says of itself, and not set on a command line",
    "cases=[]": "cases=[]: is what the file of a recipe says of itself",
    "'data_dir=\"~nouser/x\"'": "data_dir = '~nouser/x': there is no such user; write the path without ~",
    f"dataset.x={'a' * 9999}": "dataset.x: no such key",
    # not a setting at all
    "rho": f"rho: cannot be read; {SPELLING}, without spaces; a text with spaces needs quotes of its own",
    "rho = 0.1": f"rho: cannot be read; {SPELLING}, without spaces",
    "rho==1": f"rho==1: cannot be read; {SPELLING}",
    "=3": "=3: no such key; there are: architecture,",
    "lr=[": f"lr=[: cannot be read; {SPELLING}",
    "lr=0.1,": f"lr=0.1,: cannot be read; {SPELLING}",
    "'rho=${lr'": f"rho=${{lr: cannot be read; {SPELLING}",
    "--rho 0.1": f"--rho: no such option; {SPELLING}",
    "--rho=0.1": f"--rho=0.1: no such option; {SPELLING}",
    "-rho 0.1": SPELLING,
    "--config-dir nowhere": "--config-dir nowhere: no such folder",
    "--config-dir": "--config-dir/-cd: expected one argument; --help shows how it is written",
    "--config-name x": "--config-name: is not for this command; options of your own come with --config-dir",
    "--config-path x": "--config-path: is not for this command; options of your own come with --config-dir",
    "--experimental-rerun x": "--experimental-rerun: is not for this command",
    "--cfg everything": "--cfg/-c: invalid choice: 'everything' (choose from 'job', 'hydra', 'all')",
    "-m --cfg job lr=0.1,0.2": "--multirun and --cfg: only one of them at a time",
    "--cfg job --info": "--cfg and --info: only one of them at a time",
    "--cfg job lr=nan": f"lr = nan: {NUMBER} > 0",
    "--cfg job --resolve 'rho=${nope}'": "Interpolation key 'nope' not found; ${…} may name the keys that --cfg",
    # values: type, range, finiteness
    "rho=abc": f"rho = abc: {NUMBER} >= 0, or null",
    "rho=-1": f"rho = -1: {NUMBER} >= 0, or null",
    "rho=nan": f"rho = nan: {NUMBER} >= 0, or null",
    "rho=inf": f"rho = inf: {NUMBER} >= 0, or null",
    "rho=1e400": f"rho = inf: {NUMBER} >= 0, or null",
    "rho=true": f"rho = true: {NUMBER} >= 0, or null",
    "rho=": f"rho = '': {NUMBER} >= 0, or null",
    "rho=[0.1]": f"rho = [0.1]: {NUMBER} >= 0, or null",
    "rho={a:1}": "rho.a: no such key, because rho is one value; write rho=value",
    "\"rho='0.1'\"": f"rho = '0.1': {NUMBER} >= 0, or null",
    "seed=-1": f"seed = -1: {INTEGER} >= 0 and <= 4294967295",
    "seed=1.5": f"seed = 1.5: {INTEGER} >= 0",
    "seed=true": f"seed = true: {INTEGER} >= 0",
    "seed=null": f"seed = null: {INTEGER} >= 0",
    "epochs=0": f"epochs = 0: {INTEGER} >= 1",
    "epochs=1e3": f"epochs = 1000.0: {INTEGER} >= 1",
    "epochs=ten": f"epochs = ten: {INTEGER} >= 1",
    "batch_size=-64": f"batch_size = -64: {INTEGER} >= 1",
    "batch_size=": f"batch_size = '': {INTEGER} >= 1",
    "lr=0": f"lr = 0: {NUMBER} > 0",
    "lr=null": f"lr = null: {NUMBER} > 0",
    "lr=[0.1,0.2]": f"lr = [0.1, 0.2]: {NUMBER} > 0",
    "weight_decay=-1e-4": f"weight_decay = -0.0001: {NUMBER} >= 0",
    "weight_decay_in=everywhere": "weight_decay_in = everywhere: must be one of base, loss",
    "weight_decay_on=[all]": "weight_decay_on = [all]: must be one of all, no_norm_no_bias",
    "m=0": f"m = 0: {INTEGER} >= 1, or null",
    "m=half": f"m = half: {INTEGER} >= 1, or null",
    "clip_norm=0": f"clip_norm = 0: {NUMBER} > 0, or null",
    "clip_norm=inf": f"clip_norm = inf: {NUMBER} > 0, or null",
    "drop_last=1": "drop_last = 1: must be true or false",
    "drop_last=yes": "drop_last = yes: must be true or false",
    "max_steps=0": f"max_steps = 0: {INTEGER} >= 1, or null",
    "batch_norm_statistics=last": "batch_norm_statistics = last: must be one of mean, first, both",
    "same_noise=null": "same_noise = null: must be true or false",
    "label_smoothing=1": f"label_smoothing = 1: {NUMBER} >= 0 and < 1",
    "label_noise={rate:7}": f"label_noise.rate = 7: {NUMBER} >= 0 and <= 1",
    "label_noise.rate=-0.1": f"label_noise.rate = -0.1: {NUMBER} >= 0 and <= 1",
    "label_noise.kind=pairflip": "label_noise.kind = pairflip: must be one of uniform, symmetric, asymmetric",
    "label_noise.seed=4294967296": f"label_noise.seed = 4294967296: {INTEGER} >= 0 and <= 4294967295",
    "report=best": "report = best: must be one of last, best_validation",
    "precision=fp16": "precision = fp16: must be one of auto, fp32, tf32, bf16",
    "channels_last=2": "channels_last = 2: must be true or false",
    "device=gpu": "device = gpu: must be auto, cpu, cuda or cuda:<number>",
    "device=cuda:first": "device = 'cuda:first': must be auto, cpu, cuda or cuda:<number>",
    "device=null": "device = null: must be auto, cpu, cuda or cuda:<number>",
    "deterministic=warn": "deterministic = warn: must be true or false",
    "threads=0": f"threads = 0: {INTEGER} >= 1 and <= 1024, or null",
    "name=../x": "name = '../x': must be at most 60 letters, digits, '-', '_' and '.', the first not '.'",
    "name=.x": "name = '.x': must be at most 60 letters, digits, '-', '_' and '.', the first not '.'",
    "name=": "name = '': must be at most 60 letters, digits,",
    "name=true": "name = true: must be at most 60 letters, digits,",
    "name=null": "name = null: must be at most 60 letters, digits,",
    "'name=a b'": "name = 'a b': must be at most 60 letters, digits,",
    f"name={'a' * 61}": "must be at most 60 letters, digits,",
    "data_dir=": "data_dir = '': must be a non-empty text",
    "data_dir=null": "data_dir = null: must be a non-empty text",
    "download=no": "download = no: must be true or false",
    "wandb=never": "wandb = never: must be one of auto, online, offline, disabled",
    "wandb=false": "wandb = false: must be one of auto, online, offline, disabled",
    "resume=force": "resume = force: must be true or false",
    "progress=on": "progress = on: must be one of auto, bar, lines, silent",
    "record_every=0": f"record_every = 0: {INTEGER} >= 1, or null",
    "checkpoint_every=-1": f"checkpoint_every = -1: {NUMBER} >= 0",
    "checkpoint_every=inf": f"checkpoint_every = inf: {NUMBER} >= 0",
    "dataset.augmentation.pad=-1": f"dataset.augmentation.pad = -1: {INTEGER} >= 0",
    f"lr=1{'0' * 400}": f"lr = 10000000000000000000… (401 digits): {NUMBER} > 0",
    f"lr=1{'0' * 5000}": f"cannot be read; {SPELLING}",
    f"epochs=1{'0' * 400}": "epochs = 10000000000000000000… (401 digits): must be an integer of at most 63 bits",
    "threads=1000000000000": f"threads = 1000000000000: {INTEGER} >= 1 and <= 1024, or null",
    "dataset.shape=[10,3]": "dataset.shape = [10, 3]: must be [classes, channels, size], such as [10, 3, 32], or null",
    "dataset.shape=[1,3,32]": f"dataset.shape[0] = 1: {INTEGER} >= 2",
    # interpolations
    "'rho=${nope}'": "Interpolation key 'nope' not found; ${…} may name the keys that --cfg job shows",
    "'rho=${oc.env:NOPE}'": "Environment variable 'NOPE' not found",
    "'lr=${lr}'": "lr: Recursive interpolation",
    "'seed=${lr}'": "seed: While dereferencing interpolation '${lr}': Value '0.1' of type 'float' could not be",
    "'epochs=${seed}'": f"epochs = 0: {INTEGER} >= 1",
    # what does not go together
    "optimizer=sgd rho=0.05": "rho = 0.05: sgd has no rho; leave rho out, or choose optimizer=sam",
    "rho=null": "rho = null: sam needs a radius; give one, such as rho=0.05",
    "optimizer=asam rho=null": "rho = null: asam needs a radius; give one, such as rho=0.05",
    "optimizer.rho=0.1": "optimizer.rho = 0.1: follows rho; write rho=value",
    "m=32 micro_batch=8": (
        "micro_batch = 8: must be at least m = 32, whose examples share one perturbation; choose micro_batch=32"
    ),
    "m=65": "m = 65: must be at most batch_size = 64, of which it is a part",
    "report=best_validation": "report = best_validation: there is no validation split; hold images out, such as",
    "schedule.warmup_epochs=20": "schedule.warmup_epochs = 20: must be less than epochs = 20",
    "epochs=1 schedule.warmup_epochs=1.5": "schedule.warmup_epochs = 1.5: must be less than epochs = 1",
    "rho_schedule.warmup_epochs=1e308": "rho_schedule.warmup_epochs = 1e+308: must be at most epochs = 20",
    "rho_schedule=between rho_schedule.low=0.1": "rho_schedule.low = 0.1: must be at most rho = 0.05",
    "rho_schedule=late epochs=1": "rho_schedule.epochs = 1.0: must be less than epochs = 1",
    "graph=true device=cpu": "graph = true: needs a GPU; leave graph out",
    "m=32 parts=branches device=cpu": "parts = branches: needs a GPU; leave parts out",
    "parts=branches": "parts = branches: there is one part; say how many examples share a perturbation, such as m=32",
    "m=32 parts=branches graph=false": "parts = branches: needs a CUDA graph; leave graph out",
    "m=32 parts=branches micro_batch=32": (
        "parts = branches: all parts go through the network at once; leave micro_batch out"
    ),
    "m=32 parts=branches batch_norm_statistics=both": (
        "parts = branches: choose batch_norm_statistics=mean or first; with both a part starts from another's end"
    ),
    "m=32 parts=side": "parts = side: must be one of sequence, branches",
    "dataset.std=null": "dataset.mean, dataset.std: one is null; give both, or neither to have them computed",
    "precision=tf32 device=cpu": "precision = tf32: is for CUDA; on the CPU choose fp32 or bf16",
    # sweeps: every cell is checked before the first one starts
    "rho=0.1,0.2": "rho=0.1,0.2: several values are a sweep; add -m",
    "seed=range(0,3)": "seed=range(0,3): several values are a sweep; add -m",
    "dataset.mean=0.1,0.2": "several values are a sweep; add -m, or write a list as dataset.mean=[…]",
    "data_dir=a,b": "add -m, or quote a text with a comma: \"data_dir='a,b'\"",
    "-m rho=0.1,-1": f"rho = -1: {NUMBER} >= 0, or null",
    "-m seed=range(-1,2)": f"seed = -1: {INTEGER} >= 0",
    "-m optimizer=sam,samm": "optimizer = samm: no such option; did you mean sam?",
    "-m optimizer=sgd rho=0.1": "rho = 0.1: sgd has no rho; leave rho out, or choose optimizer=sam",
    "-m optimizer=sgd,sam rho=0.1,null": "rho = null: sam needs a radius; give one, such as rho=0.05",
    "-m batch_size=64,32 m=48": "m = 48: must be at most batch_size = 32, of which it is a part",
    "-m schedule=multi_step,cosine schedule.gamma=0.1": "schedule.gamma: no such key",
    "-m name=a,../b": "name = '../b': must be at most 60 letters, digits,",
    "-m 'rho=0.1,${nope}'": "Interpolation key 'nope' not found",
    "-m lr=interval(0,1)": "lr=interval(0,1): write the values one by one, such as lr=a,b",
    "-m optimizer=glob(*)": "optimizer=glob(*): write the values one by one, such as optimizer=a,b",
    "-m lr=0.1,0.2 ++foo=1": "++foo=1: keys can be set, not added or removed",
}


SHOWN = {
    "--help": "Train one cell:  python -m sam_repro.train optimizer=sam rho=0.05",
    "--cfg job": "rho: ${rho}",
    "--cfg job --resolve": "rho: 0.05",
    "--cfg job --resolve 'rho=${lr}'": "rho: 0.1",
    "--cfg job optimizer=asam name=2026": "rho: 0.5",
    "--info defaults": "optimizer/sam",
    "--hydra-help": "--multirun",
    "--version": "Hydra",
    "--shell-completion install=bash": "complete",
}


OPTIONS = {
    "no_yaml": ("optimizer: [", "no_yaml.yaml", "line 1"),
    "empty": ("", "optimizer: its file must say what it builds, by _target_: package.module.name"),
    "no_target": ("_partial_: true", "optimizer: its file must say what it builds, by _target_: package.module.name"),
    "no_package": ("optimizer: {_target_: a.B}", "optimizer: the first line of its file must be # @package _global_"),
    "not_partial": ("_target_: a.B", "optimizer: its file must say what it builds", "and _partial_: true"),
    "unknown": ("# @package _global_\nfoo: 1", "foo: In 'optimizer/unknown'", "Key 'foo' not in 'Config'"),
    "wrong": ("# @package _global_\nrho: abc", "rho: In 'optimizer/wrong'", "Value 'abc' of type 'str'"),
    "outside": ("# @package _global_\nclip_norm: -1", f"clip_norm = -1.0: {NUMBER} > 0, or null"),
    "list": ("- 1", "In 'optimizer/list'", "Cannot merge DictConfig with ListConfig"),
}


@pytest.mark.parametrize("line", REFUSED_WITHOUT_TORCH)
def test_refused_without_torch(light, tmp_path, line):
    answer = light.run(tmp_path, line)
    assert_refused(answer, tmp_path, REFUSED_WITHOUT_TORCH[line])
    assert not answer.torch


@pytest.mark.parametrize("line", list(REFUSED_WITHOUT_TORCH)[::10])
def test_refused_by_a_new_interpreter(tmp_path, line):
    command = [sys.executable, "-c", WATCHED, *shlex.split(line)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert_refused(Answer(done.returncode, done.stdout, done.stderr, torch=True), tmp_path, REFUSED_WITHOUT_TORCH[line])
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("line", SHOWN)
def test_shown_without_torch(light, tmp_path, line):
    answer = light.run(tmp_path, line)
    assert (answer.code, answer.err, answer.torch) == (0, "", False)
    assert SHOWN[line] in answer.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("mode", ["", "-m "])
def test_an_option_of_ones_own_that_is_wrong(light, tmp_path, option, mode):
    content, *words = OPTIONS[option]
    file = tmp_path / "mine" / "optimizer" / f"{option}.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    (tmp_path / "work").mkdir()
    answer = light.run(tmp_path / "work", f"{mode}--config-dir {tmp_path}/mine optimizer={option}")
    assert_refused(answer, tmp_path / "work", *words)
    assert not answer.torch


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("lr=0.1 rho=0.1 lr=0.2", "lr=0.1: does not count, because lr=0.2 comes later"),
        ("-m lr=0.1,0.2 lr=0.2 seed=0,1", "lr=0.1,0.2: does not count, because lr=0.2 comes later"),
        (
            "'dataset.validation={count:3,seed:1}' dataset.validation.count=4",
            "dataset.validation={count:3,seed:1}: its dataset.validation.count does not count, because",
        ),
        ("optimizer=sam optimizer=sgd", "optimizer=sam: does not count, because optimizer=sgd comes later"),
        ("lr=0.2 lr=0.2", ""),
        ("optimizer=sam optimizer=sam", ""),
    ],
)
def test_the_last_of_two_values_counts_and_is_named(light, tmp_path, line, told):
    """The line ends in a refusal, so that nothing is trained."""
    said = light.run(tmp_path, f"{line} m=9999").err.splitlines()
    assert [told in one for one in said[:-1]] == [True] * bool(told)
    assert said[-1].startswith("sam_repro: m = 9999: must be at most")


def test_an_option_of_ones_own_with_a_name_of_ours(light, tmp_path):
    """Hydra would take ours and say nothing."""
    for name in ("optimizer/sam.yaml", "optimizer/mine.yaml"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text("# @package _global_\nrho: 0.9\n")
    (tmp_path / "work").mkdir()
    answer = light.run(tmp_path / "work", f"--config-dir {tmp_path}/mine optimizer=sam")
    assert_refused(
        answer, tmp_path / "work", f"{tmp_path}/mine/optimizer/sam.yaml: sam_repro has an option of this name"
    )


def test_all_findings_in_one_message(light, tmp_path):
    answer = light.run(tmp_path, "'lr=${seed}' 'epochs=${seed}'")
    assert answer.code == 2
    assert answer.err == f"sam_repro: epochs = 0: {INTEGER} >= 1\nlr = 0.0: {NUMBER} > 0\n"


def test_a_sweep_drops_rho_where_there_is_none(light, tmp_path):
    answer = light.run(tmp_path, "-m optimizer=sgd,sam rho=0.1,0.2 epochs=0,1")  # refused afterwards
    assert answer.code == 2
    answer = light.run(tmp_path, "-m optimizer=sgd,sam rho=0.1,0.2 'epochs=${seed}'")
    assert answer.out == "sgd has no rho: the sweep's is dropped there, and cells that are then equal are one\n"
