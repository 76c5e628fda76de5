"""The sentence that sums up the evidence about a set of samples."""

from collections.abc import Sequence

from ood_core.evaluation.results import COPY_RATIO, LEVEL, CopyCheck, FamilyTest, Judgement, Score


def verdict(
    scores: Sequence[Score],
    copies: int,
    judgement: Judgement,
    copying: Sequence[CopyCheck] = (),
) -> str:
    """Say in one sentence what lies inside the real band, what not, what unsteered tests found."""
    compared = [score for score in scores if score.name != "nearest_ratio"]
    inside = [score.title for score in compared if score.inside]
    outside = [_excess(score) for score in compared if not score.inside]
    parts = []
    if inside:
        verb = "lies" if len(inside) == 1 and not inside[0].endswith("s") else "lie"
        parts.append(f"{_listed(inside)} {verb} inside the real-against-real band")
    if outside:
        parts.append(f"outside {'it' if inside else 'the band'}: {_listed(outside)}")
    parts.extend(_copying(score, copies) for score in scores if score.name == "nearest_ratio")
    parts.extend(_too_near(check) for check in copying if check.p_value < LEVEL)
    parts.append(_judged(judgement))
    sentence = "; ".join(parts) + "."
    return sentence[0].upper() + sentence[1:]


def _judged(judgement: Judgement) -> str:
    """Say what unsteered tests rejected; silence of a test is no proof, and not called one."""
    if not judgement.decided:
        return "too few maps to test what was not steered"
    rejected = [test for test in judgement.families if test.rejected]
    differ = [test.title for test in judgement.families if test.targets_differ]
    if differ:
        themselves = f"fit and held-out targets themselves differ in {_listed(differ)}"
        return f"{_told(rejected, judgement)}; {themselves}"
    return _told(rejected, judgement)


def _told(rejected: Sequence[FamilyTest], judgement: Judgement) -> str:
    if not rejected:
        return "what was not steered shows no difference that so many maps could reveal"
    names = _listed([test.title for test in rejected])
    p = judgement.smallest_p
    return f"by what was not steered, samples differ from real maps in {names} (adjusted p {p:.2g})"


def _excess(score: Score) -> str:
    margin = f"{score.value / score.high:.1f} times it" if score.high > 0 else "not 0"
    if score.better == "half":
        margin = f"{100 * (score.value - score.high):.0f} points above it"
    return f"{score.title} ({score.value:.3g} where real maps reach {score.high:.3g}, {margin})"


def _copying(score: Score, copies: int) -> str:
    ratio = (
        f"the median distance to the nearest target is {score.value:.2f} times that of real maps"
    )
    if score.value < COPY_RATIO:
        return f"samples copy the targets: {ratio}"
    single = f"{copies} near {'copy' if copies == 1 else 'copies'} of a target among the samples"
    seen = f"{single}, though not as a rule" if copies else "no copying is seen"
    if score.value > score.high:
        return f"{seen}; samples lie further off than real maps do: {ratio}"
    return f"{seen}: {ratio}"


def _too_near(check: CopyCheck) -> str:
    rarely = f"than {100 * (1 - check.rate):.0f} % of real maps do"
    return f"by {check.title}, {check.flagged:,} samples lie nearer to a target {rarely}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
