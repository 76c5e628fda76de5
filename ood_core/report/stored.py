"""Evidence back from `report.json`, so that a page can be written again without computing."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from math import inf
from typing import Any, TypeVar

import torch
from torch import Tensor

from ood_core.errors import InputError
from ood_core.evaluation.results import (
    Band,
    ClassifierTest,
    ClosestPair,
    CopyCheck,
    FamilyTest,
    HistogramCurves,
    Judgement,
    LeakCheck,
    Score,
    SpectrumCurves,
    ValidationReport,
    Variety,
)

Record = TypeVar("Record")


def read_evidence(record: Mapping[str, Any]) -> ValidationReport:
    """Return the evidence whose `as_dict` the record is; null is infinite again.

    Raises:
        InputError: The record is of another version.
    """
    try:
        return _report(record)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"report.json: got scores of another version of farfield ({error!r}); expected those "
            "of this one: run `farfield validate` to compute them again"
        ) from error


def _report(record: Mapping[str, Any]) -> ValidationReport:
    judged, spectrum, histogram = record["judgement"], record["spectrum"], record["histogram"]
    classifier = judged["classifier"]
    return _made(
        ValidationReport,
        record,
        scores=_all(Score, record["scores"]),
        spectrum=SpectrumCurves(
            _tensor(spectrum["k"]), _band(spectrum["samples"]), _band(spectrum["real"])
        ),
        histogram=HistogramCurves(
            _tensor(histogram["centres"]), _tensor(histogram["samples"]), _band(histogram["real"])
        ),
        nearest_samples=_tensor(record["nearest_samples"]),
        nearest_real=_tensor(record["nearest_real"]),
        closest=_all(ClosestPair, record["closest"]),
        worst=tuple(record["worst"]),
        copying=_all(CopyCheck, record["copying"]),
        leak=None if record["leak"] is None else _made(LeakCheck, record["leak"]),
        judgement=_made(
            Judgement,
            judged,
            families=_all(FamilyTest, judged["families"]),
            classifier=None if classifier is None else _made(ClassifierTest, classifier),
            variety=_all(Variety, judged["variety"]),
        ),
    )


def _made(kind: type[Record], row: Mapping[str, Any], **known: Any) -> Record:
    """Build a record of the fields that are not known already; other keys are derived ones."""
    given = {
        field.name: inf if row[field.name] is None and field.type is float else row[field.name]
        for field in fields(kind)  # type: ignore[arg-type]
        if field.name not in known
    }
    return kind(**given, **known)


def _all(kind: type[Record], rows: Sequence[Mapping[str, Any]]) -> tuple[Record, ...]:
    return tuple(_made(kind, row) for row in rows)


def _band(record: Mapping[str, Any]) -> Band:
    return Band(*(_tensor(record[name]) for name in ("median", "low", "high")))


def _tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
