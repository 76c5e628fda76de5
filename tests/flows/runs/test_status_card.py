"""The card while a run goes on: how far it is, and never in the place of a finished one."""

from datetime import UTC, datetime

import pytest

from flows.runs import stages
from flows.runs import status_card as running
from flows.runs.stages import calibrate, generate, perform, validate_set
from ood_core.errors import RunIncomplete
from ood_core.report.running import remaining, render_running
from ood_core.store.run import RunStore

NOW = datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)


def card(**known):
    asked = {"rate": 2.0, "trouble": "", "name": "cirrus", **known}
    counts = {"calibrate": (13, 13), "generate": (256, 1024)}
    return render_running(
        asked["name"], "ab12", counts, "generate", asked["rate"], NOW, asked["trouble"]
    )


def test_it_says_how_far_and_how_long():
    text = card()
    assert "| generate | `█████░░░░░░░░░░░░░░░` | 256 of 1,024 |" in text
    assert "about 7 min to go, at 2 rows a second" in text  # 768 rows: 6.4 min
    assert "2031-02-03 04:05:06 UTC" in text and "not finished" in text
    assert "not known yet" in card(rate=0.0) and "to go" not in card(rate=0.0)
    assert "Stopped: a disk" in card(trouble="a disk")
    assert [remaining(rows, 1.0) for rows in (5, 89, 91, 5340, 9000)] == [
        "5 s", "89 s", "2 min", "89 min", "2 h 30 min",
    ]  # fmt: skip


def test_a_hostile_name_is_text():
    assert "<script" not in card(name="<script>").split("---\n", 2)[2]
    assert card(name="a\n---\n# b").count("\n---\n") == 1


def test_it_is_written_as_shards_are_done_and_then_gives_way(ready, tiny, monkeypatch):
    monkeypatch.setattr(running, "EVERY", 0.0)
    written = []

    def noted(place, content):
        written.append(content.decode())
        write(place, content)

    write = running.write_atomic
    monkeypatch.setattr(running, "write_atomic", noted)
    run, settings = RunStore.open(str(ready)), tiny()
    perform("generate", generate, run, settings)
    counts = [next(line for line in text.splitlines() if "| generate" in line) for text in written]
    assert [line.split("| ")[-1] for line in counts] == [
        "0 of 10 |", "4 of 10 |", "8 of 10 |", "10 of 10 |"
    ]  # fmt: skip
    assert (ready / "README.md").read_text() == written[-1] and "is done" in written[-1]
    perform("validate", validate_set, run, settings)
    final = (ready / "README.md").read_text()
    assert "unfinished" not in final and "How to load it" in final
    for name, stage in (("calibrate", calibrate), ("generate", generate)):  # nothing is left to do
        perform(name, stage, run, settings)
    assert len(written) == 4 and (ready / "README.md").read_text() == final


def test_a_session_that_ends_early_says_so(ready, tiny, monkeypatch):
    class Failing:
        def run(self, spec, shards):
            yield stages.ShardFailure(shards[0].index, "no luck", 3)

    monkeypatch.setattr(stages, "pool_for", lambda execution: Failing())
    with pytest.raises(RunIncomplete):
        generate(RunStore.open(str(ready)), tiny())
    text = (ready / "README.md").read_text()
    assert "Stopped: 1 of 3 shards of generate failed" in text and "0 of 10" in text
