"""What the votes say: shares with their intervals for every method and task, and whether the raters agree.

A rater who marked the unedited source in more than a third of their checks is left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from anyv2v.errors import OptionError
from anyv2v.evaluation.manifest import TASKS
from anyv2v.evaluation.propagation import Estimate
from anyv2v.evaluation.results import Results
from anyv2v.evaluation.study.ballot import UNEDITED
from anyv2v.evaluation.study.votes import VOTES, Vote, Votes

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "ALL",
    "Agreement",
    "StudyReport",
    "StudyRow",
    "fleiss_kappa",
    "krippendorff_alpha",
    "study_report",
    "study_table",
    "tally",
    "wilson",
]

ALL = "all"
"""Stands for all tasks together."""

FAILING = 1 / 3  # share of checks, above which a rater does not count


@dataclass(frozen=True)
class StudyRow:
    """A method in one task, as in the paper's Tables 1 and 2.

    Attributes:
        task: One of ``TASKS``, or ``ALL``.
        method: Its name.
        alignment: Share of votes that say it follows the prompt or the reference, 0 to 1, with ``wilson``'s
            interval.
        preference: Share of votes that say it is the best, likewise.
        votes: Votes in which it was shown.
        raters: How many people cast them.
    """

    task: str
    method: str
    alignment: Estimate
    preference: Estimate
    votes: int
    raters: int


@dataclass(frozen=True)
class Agreement:
    """How far the raters agree in one task: 1 is perfect, 0 is chance; none where nothing was rated twice.

    Attributes:
        task: One of ``TASKS``, or ``ALL``.
        alignment: ``krippendorff_alpha`` of whether a clip follows.
        preference: ``fleiss_kappa`` of which clip is the best.
    """

    task: str
    alignment: float | None
    preference: float | None


@dataclass(frozen=True)
class StudyReport:
    """What a study found.

    Attributes:
        rows: A row for each task and method; with several tasks also for all together.
        agreement: For each task.
        raters: How many people's votes count.
        left_out: How many people's do not, for they failed more than a third of their checks.
        votes: How many votes count.
    """

    rows: Sequence[StudyRow]
    agreement: Sequence[Agreement]
    raters: int
    left_out: int
    votes: int

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)


def study_report(results: Results) -> StudyReport:
    """What the votes in a folder of results say.

    Raises:
        OptionError: There are none.
        OutputError: They cannot be read.
    """
    path = results.folder / VOTES
    votes = Votes(path).read() if path.is_file() else []
    if not votes:
        raise OptionError(f"{results.folder}: nobody has voted yet; `anyv2v study serve` prints the links")
    return tally(votes)


def tally(votes: Iterable[Vote]) -> StudyReport:
    """Count votes; those of inattentive raters, and checks, do not count."""
    cast = list(votes)
    out = _inattentive(cast)
    counted = [vote for vote in cast if not vote.check and vote.rater not in out]
    groups = {task: found for task in TASKS if (found := [vote for vote in counted if vote.task == task])}
    if len(groups) > 1:
        groups[ALL] = counted
    return StudyReport(
        rows=[row for task, members in groups.items() for row in _rows(task, members)],
        agreement=[_agreement(task, members) for task, members in groups.items()],
        raters=len({vote.rater for vote in counted}),
        left_out=len(out),
        votes=len(counted),
    )


def _inattentive(votes: Iterable[Vote]) -> set[int]:
    checks = defaultdict[int, list[bool]](list)
    for vote in votes:
        if vote.check:
            checks[vote.rater].append(UNEDITED in vote.aligned)
    return {rater for rater, failed in checks.items() if sum(failed) > FAILING * len(failed)}


def _rows(task: str, votes: Sequence[Vote]) -> list[StudyRow]:
    methods = sorted({method for vote in votes for method in vote.shown})
    return [_row(task, method, [vote for vote in votes if method in vote.shown]) for method in methods]


def _row(task: str, method: str, votes: Sequence[Vote]) -> StudyRow:
    return StudyRow(
        task,
        method,
        alignment=wilson(sum(method in vote.aligned for vote in votes), len(votes)),
        preference=wilson(sum(method == vote.favourite for vote in votes), len(votes)),
        votes=len(votes),
        raters=len({vote.rater for vote in votes}),
    )


def _agreement(task: str, votes: Sequence[Vote]) -> Agreement:
    marks, best = defaultdict[tuple[str, str], list[bool]](list), defaultdict[str, list[str]](list)
    for vote in votes:
        best[vote.entry].append(vote.favourite)
        for method in vote.shown:
            marks[vote.entry, method].append(method in vote.aligned)
    return Agreement(task, krippendorff_alpha(marks.values()), fleiss_kappa(best.values()))


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Estimate:
    """A share with Wilson's score interval (1927), which also holds near 0 and 1 and for few votes.

    It takes votes as independent. Those of one rater, or on one clip, are so only in part: where few people
    voted much, the true interval is wider.

    Args:
        successes: How many of the trials, 0 to ``trials``.
        trials: One or more.
        confidence: Share of such intervals that hold the true share.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, shrink = successes / trials, 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / shrink
    reach = z / shrink * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Estimate(share, max(0.0, middle - reach), min(1.0, middle + reach))


def fleiss_kappa(subjects: Iterable[Sequence[object]]) -> float | None:
    """Agreement beyond chance of several raters who each choose one category (Fleiss, 1971).

    Args:
        subjects: The categories that each subject was given, one by each of its raters, who may be of any
            number; a subject of a single rater is passed over.

    Returns:
        1 for perfect agreement, 0 for chance; none if nothing can be said, for there is but one category.
    """
    counts = [Counter(given) for given in subjects if len(given) > 1]
    total = sum((Counter(count) for count in counts), Counter[object]())
    n = total.total()
    expected = sum((count / n) ** 2 for count in total.values())
    if len(total) < 2:
        return None
    return (sum(map(_agreeing, counts)) / len(counts) - expected) / (1 - expected)


def _agreeing(count: Counter[object]) -> float:
    """The share of pairs of raters who agree."""
    n = count.total()
    return sum(k * (k - 1) for k in count.values()) / (n * (n - 1))


def krippendorff_alpha(units: Iterable[Sequence[object]]) -> float | None:
    """Reliability of nominal data, some of which may be missing (Krippendorff, 2011).

    Args:
        units: The values that each unit was given, one by each of its raters; a unit of a single rater is
            passed over.

    Returns:
        1 for perfect reliability, 0 for chance; none if nothing can be said, for there is but one value.
    """
    counts = [Counter(given) for given in units if len(given) > 1]
    total = sum((Counter(count) for count in counts), Counter[object]())
    n = total.total()
    if len(total) < 2:
        return None
    observed = sum(count.total() * (1 - _agreeing(count)) for count in counts) / n
    return 1 - observed / (1 - _agreeing(total))


def study_table(report: StudyReport) -> Table:
    """For the terminal: percentages, each with its 95 % interval."""
    from rich.table import Table

    shown = Table(
        title="Human evaluation",
        title_justify="left",
        caption="\n".join(_notes(report)),
        caption_justify="left",
    )
    for name in ("task", "method"):
        shown.add_column(name, no_wrap=True)
    for name in ("alignment %", "overall %", "votes", "raters"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in report.rows:
        shares = (_percent(row.alignment), _percent(row.preference))
        shown.add_row(row.task, row.method, *shares, str(row.votes), str(row.raters))
    return shown


def _percent(share: Estimate) -> str:
    return f"{100 * share.mean:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def _notes(report: StudyReport) -> list[str]:
    alphas = ", ".join(f"{found.task} {_coefficient(found.alignment)}" for found in report.agreement)
    kappas = ", ".join(f"{found.task} {_coefficient(found.preference)}" for found in report.agreement)
    return [
        f"agreement on alignment (Krippendorff's alpha): {alphas}",
        f"agreement on the best (Fleiss' kappa): {kappas}",
        f"votes: {report.votes}, raters: {report.raters}; inattentive raters left out: {report.left_out}",
    ]


def _coefficient(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
