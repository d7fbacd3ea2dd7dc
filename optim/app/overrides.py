"""Overrides of the command line: texts as they were written, and one clear message where Hydra refuses something."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, cast, get_args, get_origin

from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from optim.app.schema import schema_of
from optim.errors import ConfigError, nearest
from optim.paths import configs_dir
from optim.settings.ranges import Within, hints_of, type_and_range
from optim.settings.settings import Settings

# functions of Hydra that make the values of a sweep
SWEEPS = ("choice", "range", "interval", "glob", "sort", "shuffle", "tag")


def completed_overrides(overrides: list[str], *, sweep: bool = False) -> list[str]:
    """Overrides as Hydra takes them.

    A model that is chosen has its own data, design and name, not those of the embedded experiment. `group=null` means
    that nothing is chosen from a group. The value of a key that holds text is taken as it was written: Hydra would read
    1.10 as a number, and refuse many signs of a path. In a sweep, commas part the values.
    """
    keys = {re.split(r"[=@]", text.lstrip("+~"))[0] for text in overrides}
    if "model" in keys and "experiment" not in keys:
        overrides = [*overrides, "experiment=null"]
    empty = {f"{group.name}=null": f"~{group.name}" for group in configs_dir().iterdir() if group.is_dir()}
    return [empty.get(text) or _as_written(text, sweep) for text in overrides]


def _as_written(override: str, sweep: bool) -> str:
    key, sign, value = override.partition("=")
    hint = None if key.startswith("~") else declared_type(key.lstrip("+"))
    kind, _ = type_and_range(hint)
    if not sign or kind is not str or (value == "null" and NoneType in get_args(hint)):
        return override
    if not sweep:
        return f"{key}={_quoted(value)}"
    if re.match(rf"({'|'.join(SWEEPS)})\(", value):
        return override
    # commas within quotes and within ${...} part nothing
    parts = re.findall(r"((?:'(?:\\.|[^'])*'|\"(?:\\.|[^\"])*\"|\$\{[^}]*\}|[^,])*)(?:,|$)", value)
    return f"{key}={','.join(_quoted(part) for part in (parts[:-1] if len(parts) > 1 else parts))}"


def _quoted(text: str) -> str:
    """A text in the quotes of Hydra's grammar; one that has its own quotes keeps them."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text
    # backslashes count only before a quote
    inner = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"'{inner}'"


def declared_type(path: str) -> Any:
    """The type that the settings declare for a dotted key, with its range; None where there is no such key."""
    kind: Any = Settings
    hint: Any = Settings
    for part in path.split("."):
        kind = type_and_range(hint)[0]
        if is_dataclass(kind):
            hint = hints_of(cast(Any, kind)).get(part)
        elif get_origin(kind) is dict:
            hint = get_args(kind)[1]
        else:
            return None
    return hint


def _unreadable(override: str) -> str:
    return (
        f"cannot read the override '{override}'. Write key=value. A value, or an entry of a list, with signs such as "
        "( ) , : or letters beyond ASCII needs quotes of its own, within those of the shell: \"key='value'\""
    )


def require_effect(overrides: list[str], composed: Any) -> None:
    """Refuse `key={}` for a mapping that keeps its entries, since mappings are merged. Raises `ConfigError`."""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if value.replace(" ", "") == "{}" and OmegaConf.select(composed, key):
            raise ConfigError(
                f"{key}={{}} takes nothing away, since entries are merged; write ~{key}.NAME for each to leave out"
            )


def explain_error(err: Exception, overrides: list[str]) -> str:
    """One clear message from what Hydra or OmegaConf say."""
    if isinstance(err, OverrideParseException):
        return _unreadable(str(err.override))
    chain: list[BaseException] = []
    link: BaseException | None = err
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    texts = [str(e).strip() for e in chain]
    for text in texts:
        unknown = re.search(r"Key '([^']+)' (?:is )?not in '?(\w+)'?|Key '([^']+)' is not in struct", text)
        if unknown:
            key = unknown.group(1) or unknown.group(3)
            full = re.search(r"full_key: (\S+)", text)
            path = full.group(1) if full else key
            allowed = _allowed(path)
            if key in allowed:
                return f"the key '{path}' is not set here; to set it, write '+{path}=...'."
            hint = nearest(key, allowed) if allowed else ""
            listed = f" Allowed here: {', '.join(allowed)}." if allowed else ""
            return f"unknown key '{path}'.{hint}{listed}{_added(path)}"
    inline = re.search(r"Could not override '([^']+)'", " ".join(texts))
    if inline and (configs_dir() / inline.group(1)).is_dir():
        group = inline.group(1)
        return (
            f"{group}=...: the chosen model states its {group} itself, in configs/model. Change its keys one by one "
            f"({group}.key=...), add what is missing (+{group}.key=...), or copy the model's file and change it there"
        )
    option = re.search(r"Could not find '([^']+)'", " ".join(texts))
    if option:
        group, _, name = option.group(1).rpartition("/")
        folder = configs_dir() / group
        known = sorted(p.stem for p in folder.glob("*.yaml")) if group else []
        if known:
            return f"unknown option '{name}' for {group}.{nearest(name, known)} Available: {', '.join(known)}"
        groups = sorted(p.name for p in configs_dir().iterdir() if p.is_dir())
        return f"unknown config group '{option.group(1)}'.{nearest(group or name, groups)} Groups: {', '.join(groups)}"
    text = next((t for t in reversed(texts) if "full_key" in t), texts[0])
    full = re.search(r"full_key: (\S+)", text)
    wrong = re.search(r"Value '(.*)' of type '\w+' could not be converted to (?:Integer|Float)", text)
    if full and wrong:
        kind, within = type_and_range(declared_type(full.group(1)))
        noun = "whole number" if kind is int else "number"
        return f"{full.group(1)}: '{wrong.group(1)}' is no {noun}. Set a {noun} that is {within or Within()}"
    hidden = ("full_key", "object_type", "reference_type")
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith(hidden)]
    first = " ".join(lines)
    where = f"{full.group(1)}: " if full else ""
    given = f" (overrides: {' '.join(overrides)})" if overrides and not full else ""
    return f"{where}{first}{given}"


def _allowed(path: str) -> list[str]:
    """Keys that the schema has beside the last part of a dotted path."""
    node = _section(path)
    return [str(k) for k in node] if isinstance(node, DictConfig) else []


def _added(path: str) -> str:
    """How an entry is added at a path within a mapping of sections; nothing for any other path."""
    node = _section(path)
    kind = node._metadata.element_type if isinstance(node, DictConfig) else None
    if not is_dataclass(kind):
        return ""
    missing = OmegaConf.missing_keys(OmegaConf.structured(kind))
    needed = ", ".join(f"{f.name}: ..." for f in fields(kind) if f.name in missing)
    return f" To add it, write '+{path}={{{needed}}}'."


def _section(path: str) -> Any:
    """The section of the schema that holds the last part of a dotted path; None where there is none."""
    node: Any = OmegaConf.structured(schema_of(Settings))
    for part in path.split(".")[:-1]:
        element = node._metadata.element_type if isinstance(node, DictConfig) else None
        try:
            known = isinstance(node, DictConfig) and part in node
            # the schema of a mapping knows the kind of its entries, not their names
            node = node[part] if known else OmegaConf.structured(element)
        except (OmegaConfBaseException, TypeError, KeyError, ValueError):
            return None
    return node
