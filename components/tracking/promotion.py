"""Which version of a registered model is its champion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from components.tracking.model_registry import CHALLENGER, CHAMPION
from segmodels.metrics.significance import Comparison

if TYPE_CHECKING:
    from components.tracking.model_registry import Registry, Version


@dataclass(frozen=True)
class Rival:
    """The champion on the same test images.

    ``value`` is its score, None where it cannot be measured; ``problem`` says why, and ``usable`` whether it still
    serves those who load it. ``class_losses`` is, for each class, how much less its score is in the new model.
    """

    version: str
    value: float | None = None
    problem: str = ""
    usable: bool = True
    significance: Comparison | None = None
    class_losses: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Gate:
    """What a new version must reach to be champion.

    Attributes:
        minimum: a version below is never champion.
        tolerance: a version may be this much worse than the champion and still take its place.
        min_gain: a version must be this much better.
        confidence: of the interval whose lower end counts as the difference; None: the measured difference counts.
        max_class_loss: how much of its score any class may lose; None: any amount.
    """

    minimum: float = 0.0
    tolerance: float = 0.0
    min_gain: float = 0.0
    confidence: float | None = None
    max_class_loss: float | None = None


@dataclass(frozen=True)
class Decision:
    """Whether the new version is the champion, and why, in one sentence. ``champion`` is the version it was compared
    with; ``by_person`` what a person made of the version before, such as archived, which stays.
    """

    wins: bool
    reason: str
    champion: str | None = None
    champion_value: float | None = None
    significance: Comparison | None = None
    by_person: str = ""

    @property
    def alias(self) -> str:
        return self.by_person or (CHAMPION if self.wins else CHALLENGER)

    def to_dict(self) -> dict[str, Any]:
        compared = {"champion_before": self.champion, "champion_value": self.champion_value}
        return {
            "alias": self.alias,
            "reason": self.reason,
            **compared,
            "significance": self.significance and asdict(self.significance),
        }


def decide(metric: str, value: float, rival: Rival | None, gate: Gate) -> Decision:
    """Champion or challenger.

    Args:
        metric, value: name of the score that decides, and the new version's on the test split.
        rival: the champion so far, None where there is none.
    """
    minimum = gate.minimum
    score = f"{metric} {value:.4f}"
    compared: dict[str, Any] = (
        {"champion": rival.version, "champion_value": rival.value, "significance": rival.significance} if rival else {}
    )
    if value < minimum:
        return Decision(False, f"{score} is below the minimum {minimum:g}", **compared)
    reached = f"{score} reaches the minimum {minimum:g}"
    if rival is None:
        return Decision(True, f"{reached} and there was no champion")
    if rival.value is None:
        if rival.usable:
            return Decision(False, f"{reached}, but the champion, version {rival.version}, {rival.problem}", **compared)
        return Decision(
            True, f"{reached} and the champion before, version {rival.version}, {rival.problem}", **compared
        )
    difference = (
        f"{value - rival.value:+.4f} against {rival.value:.4f} of version {rival.version} on the same test"
        f" images{_describe(rival.significance)}"
    )
    if refused := _refused(value, rival, gate):
        return Decision(False, f"{score} {refused}: {difference}", **compared)
    better = (
        f"better than the champion by {gate.min_gain:g} or more" if gate.min_gain else "not worse than the champion"
    )
    sure = f" with a confidence of {gate.confidence:.0%}" if gate.confidence else ""
    allowed = "" if gate.min_gain else f" (tolerance {gate.tolerance:g})"
    return Decision(True, f"{reached} and is {better}{sure}{allowed}: {difference}", **compared)


def _refused(value: float, rival: Rival, gate: Gate) -> str:
    """Why a version does not take the place of a champion that was measured; empty if it does."""
    assert rival.value is not None
    reached, sure = value, ""
    if gate.confidence is not None:
        if rival.significance is None:
            return f"has no interval of its difference from the champion (confidence {gate.confidence:g})"
        reached, sure = rival.value + rival.significance.low, f" with a confidence of {gate.confidence:.0%}"
    if gate.min_gain and reached < rival.value + gate.min_gain:
        return f"is not better than the champion by {gate.min_gain:g}{sure}"
    if reached < rival.value - gate.tolerance:
        if sure:
            return f"may be worse than the champion by more than the tolerance {gate.tolerance:g}{sure}"
        return f"is worse than the champion by more than the tolerance {gate.tolerance:g}"
    if gate.max_class_loss is not None and rival.class_losses:
        name = max(rival.class_losses, key=lambda one: rival.class_losses[one])
        if (lost := rival.class_losses[name]) > gate.max_class_loss:
            return f"loses {lost:.4f} of class {name!r}, more than {gate.max_class_loss:g} (max_class_loss)"
    return ""


def promote(
    registry: Registry,
    version: Version,
    champion: Version | None,
    decision: Decision,
    *,
    same: Callable[[], Version | None],
    judge: Callable[[Version, Version | None], Decision],
    tags: Callable[[Decision], Mapping[str, str]],
) -> tuple[Version, Decision]:
    """Move the aliases as it was decided; if the champion is another by then, decide anew. What a person decided about
    the version, to archive it, roll it back or replace it, stays.

    Args:
        version: that was registered.
        champion, decision: that ``version`` was compared with, and the outcome.
        same: finds the version of this model that was registered first. If that is another, because two processes
            registered the model at once, it takes the place of ``version``, which is removed.
        judge: decides between a version and a champion.
        tags: of the version, for a decision.

    Returns:
        The version that stays, and the decision about it.
    """
    while True:
        with registry.turn(version):
            first, now = same() or version, registry.champion()
            if first.number != version.number:
                registry.remove(version)
            elif (decided := first.tags.get("decision", CHALLENGER)) not in (CHAMPION, CHALLENGER):
                return first, Decision(False, first.tags["reason"], by_person=decided)
            elif (now and now.number) == (champion and champion.number):
                registry.set_tags(first, tags(decision))
                if decision.wins:
                    registry.make_champion(version, champion)
                else:
                    registry.make_challenger(version)
                registry.record(version, decision.alias, decision.reason)
                return version, decision
        version, champion = first, now
        decision = judge(version, champion)


def _describe(significance: Comparison | None) -> str:
    if significance is None:
        return ""
    return (
        f" ({significance.confidence:.0%} interval of the difference {significance.low:+.4f} to"
        f" {significance.high:+.4f}, p = {significance.p_value:.2g})"
    )
