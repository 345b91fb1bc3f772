"""Stored configurations of schema 1 (records from before 2026-12), as today's code would resolve them."""

from typing import Any

from sam_repro.config.schema import NEUTRAL

SWAPPED = {"SAMDirection": "SAMMagnitude", "SAMMagnitude": "SAMDirection"}
GONE = {"trust_clip": False, "always_adapt": False}  # of LAMB: at these values, timm's own, they changed nothing
ROOM = "sam_repro.augmentation"
OURS = f"{ROOM}.Augmentation"
CHOICES = {"SAMDirection": "sam_direction", "SAMMagnitude": "sam_magnitude"}


def modern(config: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration in today's keys; one of today is returned as it is.

    A key that did not exist yet gets its neutral value. Two keys of LAMB have gone, and `optimizer.names`: under
    `names: code` SAM-direction and SAM-magnitude had changed places. An augmentation was four settings in a fixed
    order, which are now transforms by name.

    Args:
        config: the resolved configuration of a record, of any schema.
    """
    younger = {key: value for key, value in NEUTRAL.items() if "." not in key} | {"graph": False}
    base = {key: value for key, value in config["base_optimizer"].items() if key not in GONE or value != GONE[key]}
    moved = {"augmentation": _by_name(config["augmentation"]), "dataset": _with_flip_rate(config["dataset"])}
    return _without_names(younger | config | {"base_optimizer": base} | moved)


def _with_flip_rate(dataset: dict[str, Any]) -> dict[str, Any]:
    sizes = dataset.get("augmentation")
    if not isinstance(sizes, dict) or not isinstance(sizes.get("flip"), bool):
        return dataset
    return dataset | {"augmentation": sizes | {"flip": 0.5 if sizes["flip"] else 0}}


def _by_name(augmentation: dict[str, Any]) -> dict[str, Any]:
    if augmentation["_target_"] != OURS or "order" in augmentation:
        return augmentation
    kept = {key: augmentation[key] for key in ("_target_", "_partial_")}
    then = {
        "flip": {"_target_": f"{ROOM}.Flip", "probability": 0.5 if augmentation["flip"] else 0.0},
        "crop": {"_target_": f"{ROOM}.Crop", **{key: augmentation[key] for key in ("pad", "padding_mode")}},
        "cutout": {"_target_": f"{ROOM}.Cutout", **augmentation["cutout"]},
    }
    return kept | {"order": ["flip", "crop", "normalise", "cutout"]} | then


def _without_names(config: dict[str, Any]) -> dict[str, Any]:
    rule = dict(config["optimizer"])
    names = rule.pop("names", None)
    if names is None:
        return config
    module, _, name = rule["_target_"].rpartition(".")
    choices = config["choices"]
    if names == "code":
        name = SWAPPED[name]
        rule["_target_"] = f"{module}.{name}"
        choices = choices | {"optimizer": CHOICES[name]}
    return config | {"optimizer": rule, "choices": choices}
