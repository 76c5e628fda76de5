"""The card's machine-readable twins: Croissant 1.1 and RO-Crate 1.1, both JSON-LD.

Croissant: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html
RO-Crate: https://www.researchobject.org/ro-crate/specification/1.1/

Written here, because `mlcroissant` and `rocrate` write to local folders alone and bring pandas and
rdflib to every worker; both are in the tests, which load what is written with them.
"""

from collections.abc import Iterable
from typing import Any

from ood_core.report.card import ArrayRow, CardInput, citation, one_line

DATA_SET = "dataset.zarr"
LANGUAGE_MAP = {"@container": "@language"}
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "conformsTo": "dct:conformsTo",
    "name": LANGUAGE_MAP,
    "description": LANGUAGE_MAP,
    "data": {"@id": "cr:data", "@type": "@json"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    **{
        term: f"cr:{term}"
        for term in (
            "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract",
            "field", "fileObject", "fileProperty", "fileSet", "format", "includes", "isArray",
            "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
            "references", "regex", "repeated", "replace", "samplingRate", "separator", "source",
            "subField", "transform",
        )
    },
}  # fmt: skip
NUMBER_TYPES = {
    "int8": "cr:Int8", "int16": "cr:Int16", "int32": "cr:Int32", "int64": "cr:Int64",
    "float32": "cr:Float32", "float64": "cr:Float64",
}  # fmt: skip
PUBLIC_NAMES = {
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "cc-by-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "cc-by-sa-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "cc-by-nc-4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
    "cc-by-nc-sa-4.0": "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    "apache-2.0": "https://spdx.org/licenses/Apache-2.0",
    "bsd-3-clause": "https://spdx.org/licenses/BSD-3-Clause",
    "mit": "https://spdx.org/licenses/MIT",
}
PARTS = (  # of the crate, beside the data of the figures
    ("README.md", "text/markdown", "data-set card"),
    ("croissant.json", "application/ld+json", "Croissant description of the data set"),
    ("run.json", "application/json", "identity, settings, method, base and versions"),
    ("plan.json", "application/json", "rows and shard size per stage"),
    ("gate.json", "application/json", "outcome of the gate"),
    ("report/index.html", "text/html", "report"),
    ("report/report.json", "application/json", "numbers of the report"),
    ("report/gallery.png", "image/png", "real targets on the left, synthetic maps on the right"),
)


def croissant(card: CardInput) -> dict[str, Any]:
    """Return the Croissant 1.1 description of `dataset.zarr`: its files and one record a map.

    The identity stands in for an address: correct `url` and `creator` when the set is published.
    """
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": _title(card),
        "description": card.description,
        "license": _licence(card),
        "url": f"urn:sha256:{one_line(card.report.identity)}",
        "creator": {"@type": "sc:Organization", "name": "Farfield"},
        "datePublished": card.day,
        "version": "1.0.0",
        "citeAs": citation(card),
        "keywords": ["synthetic", "scientific maps", "farfield"],
        "isLiveDataset": False,
        "distribution": _distribution(card),
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "samples",
                "name": "samples",
                "description": "Synthetic maps, one a record; open with xarray.open_zarr.",
                "key": {"@id": "samples/sample"},
                "field": [_field(array) for array in card.arrays],
            }
        ],
    }


def _distribution(card: CardInput) -> list[dict[str, Any]]:
    """The file that describes the arrays, and all shards as one set: a record spans the arrays."""
    return [
        {
            "@type": "cr:FileObject",
            "@id": "zarr-metadata",
            "name": "zarr-metadata",
            "description": "Consolidated metadata of the Zarr v3 group.",
            "contentUrl": f"{DATA_SET}/zarr.json",
            "encodingFormat": "application/json",
            "sha256": card.digest,
        },
        {
            "@type": "cr:FileSet",
            "@id": "zarr-shards",
            "name": "zarr-shards",
            "description": "Zarr v3 shards of all arrays; receipts/ has a digest of each.",
            "encodingFormat": "application/vnd.zarr",
            "includes": f"{DATA_SET}/*/c/**",
        },
    ]


def _field(array: ArrayRow) -> dict[str, Any]:
    unit = f", in {one_line(array.unit)}" if array.unit != "1" else ""
    field: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"samples/{array.name}",
        "name": array.name,
        "description": f"{one_line(array.meaning)}{unit}",
        "dataType": NUMBER_TYPES[array.dtype],
        "source": {
            "fileSet": {"@id": "zarr-shards"},
            "extract": {"fileProperty": "content"},
        },
    }
    if len(array.shape) > 1:
        field["isArray"] = True
        field["arrayShape"] = ",".join(str(length) for length in array.shape[1:])
    return field


def crate(card: CardInput, figures: Iterable[str]) -> dict[str, Any]:
    """Return `ro-crate-metadata.json`: the parts of the run, and the action that made them.

    Args:
        card: the record.
        figures: names of the CSV files in `report/`.
    """
    parts = [
        *(_file(*part) for part in PARTS),
        *(_file(f"report/{name}", "text/csv", "data of a figure") for name in figures),
        _folder(f"{DATA_SET}/", f"Synthetic maps: {card.count} of them, Zarr v3"),
        _folder("targets.zarr/", "Real targets in model range, with split and header, Zarr v3"),
        _folder("receipts/", "SHA-256 digest per shard"),
    ]
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": _title(card),
        "description": card.description,
        "datePublished": card.day,
        "license": {"@id": _crate_licence(card)["@id"]},
        "identifier": f"urn:sha256:{one_line(card.report.identity)}",
        "keywords": "synthetic, scientific maps, farfield",
        "creditText": card.credit.credit,
        "hasPart": [{"@id": part["@id"]} for part in parts],
        "mentions": {"@id": "#run"},
    }
    descriptor = {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        "about": {"@id": "./"},
    }
    graph = [descriptor, root, *parts, *_provenance(card), _crate_licence(card)]
    return {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": graph}


def _provenance(card: CardInput) -> list[dict[str, Any]]:
    """The run as an action: software, inputs, results."""
    return [
        {
            "@id": "#run",
            "@type": "CreateAction",
            "name": f"farfield run, seed {card.seed}",
            "endTime": card.day,
            "instrument": {"@id": "#farfield"},
            "object": [{"@id": "targets.zarr/"}, {"@id": "#base"}],
            "result": {"@id": f"{DATA_SET}/"},
        },
        {
            "@id": "#farfield",
            "@type": "SoftwareApplication",
            "name": "Farfield",
            "version": card.version,
        },
        {
            "@id": "#base",
            "@type": "CreativeWork",
            "name": one_line(card.base),
            "description": "Frozen diffusion model, not trained on these targets.",
            "identifier": f"urn:sha256:{one_line(str(card.report.base.get('digest', '')))}",
        },
    ]


def _file(path: str, kind: str, meaning: str) -> dict[str, Any]:
    return {"@id": path, "@type": "File", "name": meaning, "encodingFormat": kind}


def _folder(path: str, meaning: str) -> dict[str, Any]:
    return {"@id": path, "@type": "Dataset", "name": path.rstrip("/"), "description": meaning}


def _title(card: CardInput) -> str:
    return f"{one_line(card.report.name)}: synthetic maps"


def _licence(card: CardInput) -> str:
    return PUBLIC_NAMES.get(card.credit.licence) or card.credit.statement or "other"


def _crate_licence(card: CardInput) -> dict[str, Any]:
    """The licence as an entity of its own, as the specification asks."""
    return {
        "@id": PUBLIC_NAMES.get(card.credit.licence, "#licence"),
        "@type": "CreativeWork",
        "name": _licence(card),
        "description": card.credit.statement or "The header of the targets states no licence.",
    }
