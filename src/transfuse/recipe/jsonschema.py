"""The JSON Schema of a job's recipes, for editors: short forms, method blocks and descriptions included."""

from __future__ import annotations

from typing import Any

from transfuse import objectives
from transfuse.core.registry import did_you_mean
from transfuse.errors import MissingExtra, RecipeError
from transfuse.recipe import ways
from transfuse.recipe.methods import TABLES, Block, Kind, objective_block, table_block
from transfuse.recipe.recipes import RECIPES

Schema = dict[str, Any]
_BYTES = {
    "anyOf": [
        {"type": "integer", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^\s*[0-9]*\.?[0-9]+\s*([KMGTkmgt][iI]?)?[Bb]?\s*$"},
    ]
}


def build(job: str) -> Schema:
    """The schema of a job's recipe.

    Raises:
        RecipeError: there is no such job.
    """
    if job not in RECIPES:
        raise RecipeError(f"no job '{job}'{did_you_mean(job, RECIPES)}", fix=f"known: {', '.join(RECIPES)}")
    schema = RECIPES[job].model_json_schema()
    definitions: Schema = schema.setdefault("$defs", {})
    definitions.pop("ObjectiveBlock", None)
    _sources(schema, RECIPES[job].data_keys)
    _blocks(schema, definitions)
    for definition in definitions.values():
        for key in definition.get("properties", {}):
            if key in ("max_bytes", "bytes"):
                _replace(definition["properties"], key, _nullable(_BYTES) if key == "bytes" else _BYTES)
    if "CacheBlock" in definitions:
        _replace(definitions["CacheBlock"]["properties"], "features", {"anyOf": [{"const": 0}, *_BYTES["anyOf"]]})
    if "TrainBlock" in definitions:
        for kind in ("optimizer", "schedule"):
            _replace(definitions["TrainBlock"]["properties"], kind, _one_of(kind, definitions))
    if "LearnerBlock" in definitions:
        learner = definitions["LearnerBlock"]["properties"]
        _replace(learner, "head", {"anyOf": [_one_of("form", definitions), {"type": "null"}]})
        _replace(learner, "init", {"anyOf": [_one_of("init", definitions), {"type": "null"}]})
    properties = schema["properties"]
    _methods(properties, definitions)
    for key, about in RECIPES[job].short_keys.items():
        several = properties[f"{key}s"]
        block = several.get("additionalProperties") or next(iter(several["patternProperties"].values()))
        properties[key] = {**block, "description": about}
        schema["not"] = {"required": [key, f"{key}s"]}
    schema["required"] = sorted({"job", *schema.get("required", [])})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"transfuse {job}", **schema}


def _methods(properties: Schema, definitions: Schema) -> None:
    """Keys whose values name methods: each with its own settings."""
    if "export" in properties:
        listed = _one_of("target", definitions)
        _replace(properties, "export", {"anyOf": [listed["oneOf"][0], {"type": "array", "items": listed}]})
    if "objectives" in properties:
        _replace(properties, "objectives", _objectives(definitions))
    if "head" in properties:
        _replace(properties, "head", _one_of("head", definitions))
    if "how" in properties:
        definitions.pop("WayBlock", None)
        _replace(properties, "how", _ways(definitions))


def _replace(properties: Schema, key: str, new: Schema) -> None:
    """Another form for a key, whose description and default stay."""
    kept = {name: properties[key][name] for name in ("description", "default") if name in properties[key]}
    properties[key] = {**new, **kept}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [*schema["anyOf"], {"type": "null"}]}


def _sources(schema: Schema, data_keys: tuple[str, ...]) -> None:
    """A string is short for {source: ...}."""

    def text_or(reference: Schema) -> Schema:
        about = {name: reference[name] for name in ("description", "default") if name in reference}
        blocks = reference["anyOf"] if "anyOf" in reference else [{"$ref": reference["$ref"]}]  # of one that may be null
        return {"anyOf": [{"type": "string"}, *blocks], **about}

    for key in (*data_keys, "student", "model", "base"):
        if key in schema["properties"]:
            schema["properties"][key] = text_or(schema["properties"][key])
    for key in ("teachers", "models", "sources"):
        if key in schema["properties"]:
            named = schema["properties"][key]
            values = "additionalProperties" if "additionalProperties" in named else "patternProperties"
            if values == "additionalProperties":
                named[values] = text_or(named[values])
            else:
                named[values] = {pattern: text_or(block) for pattern, block in named[values].items()}
    if "assistants" in schema["properties"]:
        assistants = schema["properties"]["assistants"]
        assistants["items"] = text_or(assistants["items"])


def _blocks(schema: Schema, definitions: Schema) -> None:
    """A block may be there with nothing in it, which means its defaults."""
    for owner in (schema, *definitions.values()):
        for key, value in owner.get("properties", {}).items():
            if "$ref" in value:
                about = {name: value[name] for name in ("description", "default") if name in value}
                owner["properties"][key] = {"anyOf": [{"$ref": value["$ref"]}, {"type": "null"}], **about}


def _define(block: type[Block], name: str, definitions: Schema) -> Schema:
    """Adds a method's block to the definitions and gives the reference to it."""
    schema = block.model_json_schema()
    definitions.update(schema.pop("$defs", {}))
    definitions[name] = schema
    return {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "null"}]}


def _named(name: str, settings: Schema, description: str) -> Schema:
    """{name: settings} and nothing else."""
    return {
        "type": "object",
        "properties": {name: {**settings, "description": description}},
        "required": [name],
        "additionalProperties": False,
    }


def _one_of(kind: Kind, definitions: Schema) -> Schema:
    """A method by name, or with its settings."""
    entries: list[Schema] = [{"enum": list(TABLES[kind])}]
    for name, method in TABLES[kind].items():
        settings = _define(table_block(kind, name), f"{kind}.{name}", definitions)
        entries.append(_named(name, settings, (method.__doc__ or name).strip().splitlines()[0]))
    return {"oneOf": entries}


def _ways(definitions: Schema) -> Schema:
    """Ways to fuse: one or several, by name or with settings; a rule's short name does, too."""
    lines = ways.summaries()
    short = {name.rpartition(".")[2]: name for name in reversed(lines)}
    called = {**short, **{name: name for name in lines}}
    entries: list[Schema] = [{"enum": list(called)}]
    for given, name in called.items():
        entries.append(_named(given, _define(ways.way_block(name), f"way.{name}", definitions), lines[name]))
    several: Schema = {"type": "object", "properties": {given: {} for given in called}, "additionalProperties": False, "minProperties": 2}
    return {"anyOf": [{"const": "auto"}, *entries, several, {"type": "array", "minItems": 1, "items": {"anyOf": entries}}]}


def _objectives(definitions: Schema) -> Schema:
    weight = _one_of("weight", definitions)
    summaries = objectives.registry.summaries()
    properties: Schema = {}
    for name in objectives.names():
        try:
            block = objective_block(name)
        except MissingExtra:  # a plug-in whose package is not here: its settings can't be known
            properties[name] = {"description": summaries[name]}
            continue
        settings = _define(block, f"objective.{name}", definitions)
        own = definitions[f"objective.{name}"]["properties"]["weight"]
        own["anyOf"] = [entry for entry in own["anyOf"] if entry.get("type") != "object"] + [weight]
        properties[name] = {**settings, "description": summaries[name]}
    entries = [
        _named(name, {key: value for key, value in found.items() if key != "description"}, found["description"])
        for name, found in properties.items()
    ]
    definitions["objective"] = {"oneOf": [{"enum": ["auto", *properties]}, *entries]}
    mapping = {"type": "object", "properties": properties, "additionalProperties": False, "minProperties": 1}
    listed = {"type": "array", "items": {"$ref": "#/$defs/objective"}, "minItems": 1}
    return {"anyOf": [{"enum": ["auto", *properties]}, listed, mapping]}
