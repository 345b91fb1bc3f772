"""Stored configurations of schema 1 (records from before 2026-12), as today's code would resolve them."""

from typing import Any

from sam_repro.config.schema import neutral_values

SWAPPED = {"SAMDirection": "SAMMagnitude", "SAMMagnitude": "SAMDirection"}
GONE = {"trust_clip": False, "always_adapt": False}  # of LAMB: at these values, timm's own, they changed nothing
ROOM = "sam_repro.augmentation"
OURS = f"{ROOM}.Augmentation"
CHOICES = {"SAMDirection": "sam_direction", "SAMMagnitude": "sam_magnitude"}
VARIANTS = {"SAMBall": "sam_ball", "SAMRandom": "sam_random", "SAMSecondOrder": "sam_second_order"}
OF_SAM = {"p": 2, "ascent_steps": 1, "ascent": "gradient", "second_order": False}


def modern(config: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration in today's keys; one of today is returned as it is.

    A key that did not exist yet gets its neutral value. Two keys of LAMB have gone, and `optimizer.names`: under
    `names: code` SAM-direction and SAM-magnitude had changed places. An augmentation was four settings in a fixed
    order, which are now transforms by name. The variants of SAM were keys of one option, and the schedule of the radius
    two keys.

    Args:
        config: the resolved configuration of a record, of any schema.
    """
    younger = {key: value for key, value in neutral_values().items() if "." not in key} | {"graph": False}
    base = {key: value for key, value in config["base_optimizer"].items() if key not in GONE or value != GONE[key]}
    moved = {"augmentation": _by_name(config["augmentation"]), "dataset": _with_flip_rate(config["dataset"])}
    config = younger | config | {"base_optimizer": base} | moved
    return _with_rho_schedule(_with_variants(_without_names(config)))


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
    name = rule["_target_"].rpartition(".")[2]
    return _rename(config, rule, SWAPPED[name] if names == "code" else name, CHOICES)


def _with_variants(config: dict[str, Any]) -> dict[str, Any]:
    """SAM's former keys p, ascent_steps, ascent and second_order, as the option that they chose."""
    rule = dict(config["optimizer"])
    if rule["_target_"] != "sam_repro.optimizer.SAM":
        return config
    told = {key: rule.pop(key, plain) for key, plain in OF_SAM.items()}
    if told["ascent"] == "random":
        return _rename(config, rule, "SAMRandom", VARIANTS)
    if told["second_order"]:
        return _rename(config, rule, "SAMSecondOrder", VARIANTS)
    if (told["p"], told["ascent_steps"]) != (2, 1):
        return _rename(config, rule | {key: told[key] for key in ("p", "ascent_steps")}, "SAMBall", VARIANTS)
    return config | {"optimizer": rule}


def _with_rho_schedule(config: dict[str, Any]) -> dict[str, Any]:
    config = dict(config)
    follows, warmup = config.pop("rho_follows", "constant"), config.pop("rho_warmup_epochs", 0.0)
    if "rho_schedule" in config:
        return config
    choice, name = ("like_lr", "LikeLR") if follows == "lr" else ("constant", "Constant")
    node = {"_target_": f"sam_repro.rho_schedule.{name}", "warmup_epochs": warmup}
    return config | {"rho_schedule": node, "choices": config["choices"] | {"rho_schedule": choice}}


def _rename(config: dict[str, Any], rule: dict[str, Any], name: str, options: dict[str, str]) -> dict[str, Any]:
    """The configuration with a rule of this class, and the option that chooses it."""
    module, _, before = rule["_target_"].rpartition(".")
    choices = config["choices"] if before == name else config["choices"] | {"optimizer": options[name]}
    return config | {"optimizer": rule | {"_target_": f"{module}.{name}"}, "choices": choices}
