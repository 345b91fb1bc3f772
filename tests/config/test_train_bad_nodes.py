"""What a constructor refuses is told before data are loaded, and what the data or the device refuse before training."""

import pytest
import torch
from door import assert_refused

INTEGER = "must be an integer"
NUMBER = "must be a finite number"


REFUSED_BY_DRY_BUILD = {
    "dataset.mean=0.5": "dataset.mean = 0.5: must be a list of numbers, such as [0.5, 0.5]",
    "dataset.mean=[]": "dataset.mean = []: must be a list of numbers, such as [0.5, 0.5]",
    "dataset.mean=[a]": f"dataset.mean[0] = a: {NUMBER}",
    "dataset.std=[0]": f"dataset.std[0] = 0: {NUMBER} > 0",
    "dataset.validation.count=-1": f"dataset.validation.count = -1: {INTEGER} >= 0",
    "dataset.validation={count:9,seed:1.5}": f"dataset.validation.seed = 1.5: {INTEGER} >= 0",
    "dataset.validation={count:9,stratified:2}": "dataset.validation.stratified = 2: must be true or false",
    "dataset.validation={count:9,noisy:clean}": "dataset.validation.noisy = clean: must be true or false",
    "architecture.initialisation=he": "architecture.initialisation = he: must be one of torch, he_fan_in,",
    "architecture=resnet18 architecture.stem=big": "architecture.stem = big: must be one of auto, cifar, imagenet",
    "architecture=wrn16_4 architecture.shortcut=none": "architecture.shortcut = none: must be one of conv, pool",
    "architecture=timm architecture.name=vit_smal": "architecture.name = vit_smal: must be a network of timm; did you",
    "architecture=vit_s16": "architecture: image_size = 8: does not fit vit_small_patch16_224, whose patches have 16",
    "architecture.weights=no.pth": "architecture.weights = 'no.pth': there is no such file; give one, or null",
    "architecture.freeze=head": "architecture.freeze = head: has the name of no parameter; there are 14, such as",
    "architecture.freeze=.": "architecture.freeze = '.': has the name of every parameter; there are 14, such as",
    "architecture.batch_norm.momentum=2": f"architecture.batch_norm.momentum = 2: {NUMBER} > 0 and <= 1, or null",
    "lr_factors=[[head,10]]": "lr_factors[0] = head: has the name of no parameter; there is stage1.0.conv.weight",
    "augmentation=basic augmentation.crop.padding_mode=wrap": (
        "augmentation.crop.padding_mode = wrap: must be one of zero, reflect"
    ),
    "augmentation=cutout augmentation.cutout={size:big}": f"augmentation.cutout.size = big: {INTEGER} >= 0",
    "augmentation=cutout augmentation.cutout.per=pixel": "augmentation.cutout.per = pixel: must be one of image, batch",
    "augmentation.order=[crop,normalise]": "augmentation.order = [crop, normalise]: must name none but normalise",
    "augmentation=cutout augmentation.cutout.probability=2": (
        f"augmentation.cutout.probability = 2: {NUMBER} >= 0 and <= 1"
    ),
    "base_optimizer.momentum=1": f"base_optimizer.momentum = 1: {NUMBER} >= 0 and < 1",
    "base_optimizer.nesterov=1": "base_optimizer.nesterov = 1: must be true or false",
    "base_optimizer.fused=null": "base_optimizer.fused = null: must be true or false",
    "optimizer=asam optimizer.eta=-1": f"optimizer.eta = -1: {NUMBER} >= 0",
    "schedule.per=batch": "schedule.per = batch: must be one of step, epoch",
    "schedule.warmup_epochs=-1": f"schedule.warmup_epochs = -1: {NUMBER} >= 0",
    "schedule.final=2": f"schedule.final = 2: {NUMBER} >= 0 and <= 1",
    "schedule=multi_step schedule.milestones=0.5": "schedule.milestones = 0.5: must be a list of numbers",
    "schedule=multi_step schedule.milestones=[100]": f"schedule.milestones[0] = 100: {NUMBER} > 0 and < 1, a share of",
    "schedule=multi_step schedule.gamma=0": f"schedule.gamma = 0: {NUMBER} > 0 and <= 1",
    "base_optimizer.nesterov=true base_optimizer.momentum=0": "base_optimizer.nesterov = true: needs momentum > 0 and",
    "base_optimizer.nesterov=true base_optimizer.dampening=0.1": "needs momentum > 0 and dampening = 0",
    "dataset.mean=[0.1,0.2]": "dataset.std = [0.02362]: must be as many numbers as mean, 2",
    "dataset.std=[0.1,0.2]": "dataset.std = [0.1, 0.2]: must be as many numbers as mean, 1",
    "dataset.mean=[0.1,0.2] dataset.std=[1,1]": "dataset.mean = [0.1, 0.2]: must be one number for each channel",
    "optimizer._target_=nowhere.Rule": (
        "optimizer._target_ = nowhere.Rule: No module named 'nowhere'; start in the folder that holds nowhere"
    ),
    "optimizer._target_=sam_repro.optimizer.Nope": "optimizer._target_ = sam_repro.optimizer.Nope: No module",
    "optimizer._target_=torch.optim.SGD": "optimizer: SGD.__init__() got an unexpected keyword argument 'rho'",
    "base_optimizer._target_=torch.optim.Adam": "base_optimizer: Adam.__init__() got an unexpected keyword argument",
    "schedule._target_=nowhere.S": "schedule._target_ = nowhere.S: No module named",
    "architecture._target_=torch.nn.Linear": "architecture: Linear.__init__() got an unexpected keyword argument",
    "augmentation._target_=sam_repro.augmentation.Cutout": "augmentation: Cutout.__init__() got an unexpected keyword",
    "augmentation=basic augmentation.crop.pad=8": f"augmentation.crop.pad = 8: {INTEGER} >= 0 and <= 7",
    "augmentation=cutout augmentation.cutout.size=16": f"augmentation.cutout.size = 16: {INTEGER} >= 0 and <= 15",
    "optimizer=sam_direction weight_decay_in=loss": "weight_decay_in = loss: sam_direction takes gradients without it",
    "optimizer=looksam optimizer.scope=element": "optimizer.scope = element: must be one of global, tensor",
    "optimizer=sam_ball optimizer.p=1": f"optimizer.p = 1: {NUMBER} > 1, or inf",
    "optimizer=sam_ball optimizer.ascent_steps=2 optimizer.p=3": "optimizer.ascent_steps = 2: needs p = 2 or p = inf",
    "optimizer=sgdhess optimizer.period=2": "optimizer.period = 2: gauss_newton has no diagonal to keep",
    "sharpness=hessian sharpness.steps=1": f"sharpness.steps = 1: {INTEGER} >= 2",
    "sharpness.parameters=": "sharpness.parameters = '': must be a pattern of names, or null",
    "\"sharpness.parameters='('\"": "sharpness.parameters = '(': must be a pattern of names (missing ), ",
    "sharpness=landscape sharpness.points=20": "sharpness.points = 20: must be odd",
    "sharpness=worst_case sharpness.p=3": "sharpness.p = 3: must be one of 2, inf",
    "base_optimizer=adamw base_optimizer.betas=[0.9]": "base_optimizer.betas = [0.9]: must be a list of 2 numbers",
    "base_optimizer=adamw base_optimizer.betas=[.9,.9,.9]": "= [0.9, 0.9, 0.9]: must be a list of 2 numbers",
    "base_optimizer=adamw base_optimizer.eps=0": f"base_optimizer.eps = 0: {NUMBER} > 0",
    "graph=true base_optimizer=lamb": "graph = true: needs a base that is fused",
    "-m optimizer=looksam optimizer.period=5,0 seed=0,1": f"optimizer.period = 0: {INTEGER} >= 1",
    # before data are loaded
    "dataset=cifar10 download=false optimizer.perturb=up": "optimizer.perturb = up: must be one of all, no_norm,",
    "dataset=cifar10 download=false augmentation.crop.pad=32": f"augmentation.crop.pad = 32: {INTEGER} >= 0 and <= 31",
    "dataset=cifar10 download=false sharpness.examples=0": f"sharpness.examples = 0: {INTEGER} >= 1",
    "dataset=cifar10 download=false dataset.validation.count=-1": f"dataset.validation.count = -1: {INTEGER} >= 0",
}


REFUSED_WITH_DATA = {
    "batch_size=2000": "batch_size = 2000: the training set has 1000 images; choose batch_size=1000 or less",
    "dataset.validation.count=950": "batch_size = 64: the training set has 50 images; choose batch_size=50 or less",
    "dataset.validation.count=1000": f"dataset.validation.count = 1000: {INTEGER} >= 0 and <= 999",
    "dataset=cifar10 download=false": "Start again with download=true, or put that archive into data yourself",
    "dataset=cifar100 download=false data_dir=/dev/null/x": "or put that archive into /dev/null/x yourself",
    "device=cuda:99": "device = cuda:99: this machine has",
}
WITHOUT_CUDA = {
    "device=cuda": "device = cuda: this machine has no CUDA device; choose device=cpu",
    "precision=tf32": "precision = tf32: is for CUDA; on the CPU choose fp32 or bf16",
}


@pytest.mark.parametrize("line", REFUSED_BY_DRY_BUILD)
def test_refused_by_a_dry_build(door, tmp_path, line):
    assert_refused(door.run(tmp_path, line), tmp_path, REFUSED_BY_DRY_BUILD[line])


@pytest.mark.parametrize("line", REFUSED_WITH_DATA)
def test_refused_before_training(door, tmp_path, line):
    assert_refused(door.run(tmp_path, line), tmp_path, REFUSED_WITH_DATA[line])


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
@pytest.mark.parametrize("line", WITHOUT_CUDA)
def test_refused_without_cuda(door, tmp_path, line):
    assert_refused(door.run(tmp_path, line), tmp_path, WITHOUT_CUDA[line])
