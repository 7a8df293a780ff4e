"""Each field of PEFT's LoraConfig, and what it may say: the table behind `parse_config`.

Owns which fields carry meaning, which are neutral after training, and which change the base or the
structure and are refused by name. Does not know what the fields with a meaning mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lorry.errors import InvalidAdapter, UnsupportedAdapter

# Fields whose value the maths or the verdict depends on. They make up the canonical configuration.
MEANT = frozenset(
    {
        "alora_invocation_tokens",
        "alpha_pattern",
        "base_model_name_or_path",
        "bias",
        "fan_in_fan_out",
        "lora_alpha",
        "lora_bias",
        "modules_to_save",
        "peft_type",
        "r",
        "rank_pattern",
        "target_modules",
        "target_parameters",
        "trainable_token_indices",
        "use_dora",
        "use_rslora",
    }
)
_FLAGS = ("ensure_weight_tying", "fan_in_fan_out", "lora_bias", "use_dora", "use_rslora")
# Fields that say how training was done, where it was done, or what the tensor names say anyway.
_NEUTRAL = frozenset(
    {
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    }
)
# Initialisations that leave the base weight alone: once trained, the adapter is plain LoRA.
_HARMLESS_INIT = frozenset({"gaussian", "orthogonal", "eva", "mica"})
# Those that move a part of the base weight into the adapter.
_BASE_CHANGING_INIT = re.compile(r"pissa(?:_niter_[0-9]{1,9})?|olora|corda|lora_ga")
# Sound PEFT of a kind that is not served: field -> what to do about it.
_REFUSED: Mapping[str, str] = {
    "arrow_config": "Arrow routing is not served; push the task adapters one by one",
    "kasa_config": "KaSA truncates the base weight",
    "layer_replication": "replicated layers make another base; register the expanded model as its own base",
    "loftq_config": "LoftQ changes the base weight",
    "megatron_config": "Megatron layers are not served",
    "monteclora_config": "Monteclora is not served",
    "use_bdlora": "block-diagonal LoRA is not served",
    "use_qalora": "QA-LoRA is not served",
    "velora_config": "VeLoRA is not served",
}
# PEFT writes these two where no task type was given, Unsloth the third. Lorry imports nothing by them.
_AUTO_MAPPING = frozenset({"base_model_class", "parent_library", "unsloth_fixed"})
# How much of a value is shown in a message.
_SHOWN = 80


def check_fields(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields that mean something and say something (not null, false or empty).

    Raises UnsupportedAdapter for what is not served, by name; InvalidAdapter for a wrong type.
    """
    _check_type(fields.get("peft_type"))
    for name, value in fields.items():
        if name == "init_lora_weights":
            _check_init(value)
        elif name == "auto_mapping":
            _check_auto_mapping(value)
        elif name not in MEANT and name not in _NEUTRAL and not _says_nothing(value):
            _refuse(name, value)
    for name in _FLAGS:
        if not isinstance(fields.get(name), bool | None):
            raise InvalidAdapter(f"adapter_config.json: {name}: expected true or false, got {shown(fields[name])}")
    said = {name: value for name, value in fields.items() if name in MEANT and not _says_nothing(value)}
    if said.get("bias") == "none":
        del said["bias"]
    return said


def _says_nothing(value: object) -> bool:
    # By identity, since 0 == False, but a number is a statement.
    return value is None or value is False or value in ("", [], {})


def _check_type(value: object) -> None:
    if not isinstance(value, str):
        raise InvalidAdapter(f"adapter_config.json: peft_type: expected 'LORA', got {shown(value)}")
    if value != "LORA":
        raise UnsupportedAdapter(f"adapter_config.json: peft_type: only 'LORA' is served, got {shown(value)}")


def _check_init(value: object) -> None:
    if isinstance(value, bool | None) or (isinstance(value, str) and value in _HARMLESS_INIT):
        return
    if value == "loftq":
        raise UnsupportedAdapter(
            "adapter_config.json: init_lora_weights='loftq' changed the base weights at training and cannot be "
            "converted; register the changed model as a base of its own, set init_lora_weights=true, push against it"
        )
    if isinstance(value, str) and _BASE_CHANGING_INIT.fullmatch(value):
        raise UnsupportedAdapter(
            f"adapter_config.json: init_lora_weights={value!r} changed the base weights at training. Convert it: in "
            "PEFT, save_pretrained(..., path_initial_model_for_weight_conversion=<the adapter as it was initialised>) "
            "writes an equal adapter for the unchanged base"
        )
    raise UnsupportedAdapter(
        f"adapter_config.json: init_lora_weights: unknown initialisation {shown(value)}; it may change the base weights"
    )


def _check_auto_mapping(value: object) -> None:
    if value is not None and not (isinstance(value, dict) and value.keys() <= _AUTO_MAPPING):
        raise UnsupportedAdapter(
            f"adapter_config.json: auto_mapping: only the names of the base's class and library are known, "
            f"got {shown(value)}"
        )


def _refuse(name: str, value: object) -> None:
    remedy = _REFUSED.get(name, "nobody knows this field here, and it may change the maths")
    raise UnsupportedAdapter(f"adapter_config.json: {shown(name)}: {remedy}; got {shown(value)}")


def shown(value: object) -> str:
    """A value of a configuration, as messages have it: its beginning."""
    return repr(value)[:_SHOWN]
