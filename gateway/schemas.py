"""Structs as JSON Schema 2020-12, for the documents that describe what we speak."""

import inspect
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec import inspect as kinds

from gateway.requests import FLAGS

Schema = dict[str, Any]
REF = "#/components/schemas/{name}"
WRITTEN = frozenset({"pattern", "propertyNames", "uniqueItems", "maxItems"})
"""Limits of what people write."""


def components(asked: Sequence[Any], answered: Sequence[Any]) -> tuple[list[Schema], dict[str, Schema]]:
    """The schema of each of these types, first those `asked`, and the components that they refer to.

    What is only ever answered has all its fields, defaults too, unless it is one that leaves them out; and what people
    are held to when they write need not hold of it: branch tasks have ids that nobody may give.
    """
    found, schemas = msgspec.json.schema_components((*asked, *answered), ref_template=REF)
    read = set(_structs(asked))
    for struct in _structs([*asked, *answered]):
        name = name_of(struct, schemas)
        if struct not in read:
            schemas[name] = _lenient(schemas[name])
        schema = schemas[name]
        if words := inspect.getdoc(struct):
            schema["description"] = " ".join(words.split())
        if struct not in read and not struct.__struct_config__.omit_defaults:
            told = (field.encode_name for field in msgspec.structs.fields(struct) if field.default is not UNSET)
            schema["required"] = [*told]
    return [_portable(one) for one in found], {name: _portable(schemas[name]) for name in sorted(schemas)}


def name_of(struct: type[msgspec.Struct], names: Collection[str]) -> str:
    """As msgspec calls it: by more than its name if there is another of that name."""
    return struct.__name__ if struct.__name__ in names else f"{struct.__module__}.{struct.__qualname__}"


def properties(struct: type[msgspec.Struct]) -> dict[str, Schema]:
    """The schema of each field of a query: what can be left out is not null."""
    schema = msgspec.json.schema_components((struct,))[1][struct.__name__]
    return {name: _portable(_parameter(one)) for name, one in schema["properties"].items()}


def needed(struct: type[msgspec.Struct]) -> set[str]:
    """The fields of it that must be given, as they are written."""
    return {field.encode_name for field in _fields(struct) if field.required}


def _structs(types: Sequence[Any]) -> Iterator[type[msgspec.Struct]]:
    """All that these are made of, each once."""
    seen: set[type[msgspec.Struct]] = set()
    waiting = [*kinds.multi_type_info(types)]
    while waiting:
        match waiting.pop():
            case kinds.StructType(cls=cls, fields=fields):
                if cls not in seen:
                    seen.add(cls)
                    yield cls
                    waiting += [field.type for field in fields]
            case kinds.UnionType(types=several) | kinds.TupleType(item_types=several):
                waiting += several
            case kinds.DictType(key_type=key, value_type=value):
                waiting += [key, value]
            case kinds.Metadata(type=one) | kinds.VarTupleType(item_type=one) | kinds.ListType(item_type=one):
                waiting.append(one)


def _fields(struct: type[msgspec.Struct]) -> tuple[kinds.Field, ...]:
    found = kinds.type_info(struct)
    assert isinstance(found, kinds.StructType)
    return found.fields


def _parameter(schema: Schema) -> Schema:
    kept = {key: value for key, value in schema.items() if not (key == "default" and value is None)}
    if "enum" in kept:
        kept["enum"] = [value for value in kept["enum"] if value is not None]
    if kept.get("type") == "boolean":
        kept = {key: value for key, value in kept.items() if key != "type"} | {"enum": [*FLAGS], "default": "0"}
    if several := [one for one in kept.pop("anyOf", ()) if one != {"type": "null"}]:
        kept |= several[0] if len(several) == 1 else {"anyOf": several}
    return kept


def _lenient(schema: Any) -> Any:
    match schema:
        case dict():
            return {
                key: {name: _lenient(one) for name, one in value.items()} if key == "properties" else _lenient(value)
                for key, value in schema.items()
                if key not in WRITTEN
            }
        case list() | tuple():
            return [_lenient(one) for one in schema]
    return schema


def _portable(schema: Any) -> Any:
    r"""Without `\Z`, which only Python knows: where it has that, others have `$`."""
    match schema:
        case dict():
            return {
                key: value.replace(r"\Z", "$") if key == "pattern" and isinstance(value, str) else _portable(value)
                for key, value in schema.items()
            }
        case list() | tuple():
            return [_portable(one) for one in schema]
    return schema
