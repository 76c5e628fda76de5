"""The sentence that sums up the scores of a set of samples."""

from collections.abc import Mapping, Sequence

from ood_core.evaluation.results import (
    ALPHA,
    CopySearch,
    FamilyTest,
    MemorizationCheck,
    Score,
    TwoSampleTests,
)
from ood_core.metrics.discrepancy import adjusted

SEEN = 0.8  # share of planted copies of a kind from which the search sees that kind
UNSEEN = {
    "verbatim": "copies",
    "symmetry": "mirrored or turned copies",
    "shift": "shifted copies",
    "noise": "noised copies",
    "contrast": "copies of other contrast",
    "inversion": "copies with their sign inverted",
    "rotation": "copies turned by a few degrees",
    "rescaling": "enlarged copies",
    "window": "windows moved by a quarter side",
    "quadrant": "quadrants",
    "squeezed": "copies squeezed into half of a map",
    "detail": "copies with other detail",
    "warp": "warped copies",
}


def summarize(
    scores: Mapping[str, Score],
    copies: CopySearch,
    tests: TwoSampleTests,
    memorization: Sequence[MemorizationCheck] = (),
) -> str:
    """Say in one sentence what lies inside the real band, what not, what unsteered tests found."""
    compared = [score for name, score in scores.items() if name != "nearest_ratio"]
    compared = compared if tests.enough else []
    inside = [score.title for score in compared if score.inside]
    outside = [_excess(score) for score in compared if not score.inside]
    parts = [] if tests.enough else ["too few independent maps to say what bands of real ones are"]
    if inside:
        verb = "lies" if len(inside) == 1 and not inside[0].endswith("s") else "lie"
        parts.append(f"{_listed(inside)} {verb} inside the real-against-real band")
    if outside:
        parts.append(f"outside {'it' if inside else 'the band'}: {_listed(outside)}")
    if "nearest_ratio" in scores:
        parts.append(_copies(copies) + _unseen(copies))
        if copies.repeats:
            parts.append(_repeated(copies))
        parts.append(_novelty(scores["nearest_ratio"], tests))
    raised = adjusted([check.p_value for check in memorization])
    alarms = zip(memorization, raised, strict=True)
    parts.extend(_too_near(check) for check, p in alarms if p < ALPHA and tests.enough)
    parts.append(_tested(tests))
    sentence = "; ".join(parts) + "."
    return sentence[0].upper() + sentence[1:]


def _tested(tests: TwoSampleTests) -> str:
    """Say what unsteered tests rejected; a test that finds nothing is not called a proof."""
    if not tests.conclusive:
        few = "too few maps to test what was not steered"
        return few if tests.enough else f"{few}: {_alike(tests)}"
    rejected = [test for test in tests.families if test.rejected]
    found = _rejected(rejected, tests)
    if tests.block > 1:
        found += f"; {_alike(tests)}, and {tests.held_out} that lie apart were tested"
    differ = [test.title for test in tests.families if test.targets_differ]
    if differ:
        themselves = f"fit and held-out targets themselves differ in {_listed(differ)}"
        return f"{found}; {themselves}"
    return found


def _alike(tests: TwoSampleTests) -> str:
    worth = f"all are worth {tests.effective:.0f} independent ones"
    return f"held-out maps that are neighbours are alike: {worth}"


def _rejected(rejected: Sequence[FamilyTest], tests: TwoSampleTests) -> str:
    if not rejected:
        return (
            f"in what was not steered, {tests.samples:,} samples and {tests.held_out:,} held-out "
            "maps are too few to show a difference, or there is none"
        )
    names, p = _listed([test.title for test in rejected]), tests.min_p
    return (
        f"in what was not steered, samples differ from held-out maps in {names} "
        f"(least adjusted p {p:.2g})"
    )


def _excess(score: Score) -> str:
    margin = f"{score.value / score.high:.1f} times it" if score.high > 0 else "not 0"
    if score.better == "half":
        margin = f"{100 * (score.value - score.high):.0f} points above it"
    return f"{score.title} ({score.value:.3g} where real maps reach {score.high:.3g}, {margin})"


def _novelty(score: Score, tests: TwoSampleTests) -> str:
    ratio = (
        f"the median distance to the nearest target is {score.value:.2f} times that of real maps"
    )
    if not tests.enough:
        return f"{ratio}, of which too few are independent to say more"
    if score.low <= score.value <= score.high:
        return f"{ratio}, inside the band of {score.low:.2f} to {score.high:.2f}"
    where = "nearer to targets" if score.value < score.low else "further off"
    return f"samples lie {where} than real maps do: {ratio} ({score.low:.2f} to {score.high:.2f})"


def _copies(copies: CopySearch) -> str:
    count = len(copies.found)
    if not count:
        return "no copy of a target is seen"
    return f"{count:,} {'sample is a copy' if count == 1 else 'samples are copies'} of a target"


def _unseen(copies: CopySearch) -> str:
    """Name the kinds of copies of which the search does not find all planted ones."""
    power = copies.power.items()
    unseen = [UNSEEN[kind] for kind, share in power if share < SEEN]
    part = [f"{100 * share:.0f} % of {UNSEEN[kind]}" for kind, share in power if SEEN <= share < 1]
    words = [f"would miss {_listed(unseen)}"] if unseen else []
    words += [f"finds {_listed(part)} that are planted"] if part else []
    return f" (a search that {' and '.join(words)})" if words else ""


def _repeated(copies: CopySearch) -> str:
    few = copies.repeats == 1
    real = f", as {copies.real_repeats:,} held-out maps do" if copies.real_repeats else ""
    return f"{copies.repeats:,} {'sample repeats' if few else 'samples repeat'} another one{real}"


def _too_near(check: MemorizationCheck) -> str:
    rarely = f"than {100 * (1 - check.rate):.0f} % of real maps do"
    nearer = f"{check.flagged:,} samples lie nearer to a target {rarely}"
    return f"by {check.title}, {nearer}, where {check.rate * check.samples:.2g} are expected"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
