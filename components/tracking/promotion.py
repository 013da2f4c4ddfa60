"""Which version of a registered model is its champion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from segmodels.metrics.significance import Comparison

if TYPE_CHECKING:
    from components.tracking.model_registry import Registry, Version


@dataclass(frozen=True)
class Rival:
    """The champion on the same test images.

    ``value`` is its score, None where it cannot be measured; ``problem`` says why, and ``usable`` whether it still
    serves those who load it.
    """

    version: str
    value: float | None = None
    problem: str = ""
    usable: bool = True
    significance: Comparison | None = None


@dataclass(frozen=True)
class Decision:
    """Whether the new version is the champion, and why, in one sentence. ``champion`` is the version it was compared
    with.
    """

    wins: bool
    reason: str
    champion: str | None = None
    champion_value: float | None = None
    significance: Comparison | None = None

    @property
    def alias(self) -> str:
        return "champion" if self.wins else "challenger"

    def to_dict(self) -> dict[str, Any]:
        compared = {"champion_before": self.champion, "champion_value": self.champion_value}
        return {
            "alias": self.alias,
            "reason": self.reason,
            **compared,
            "significance": self.significance and asdict(self.significance),
        }


def decide(metric: str, value: float, rival: Rival | None, *, minimum: float, tolerance: float) -> Decision:
    """Champion or challenger: the gate.

    Args:
        metric, value: name of the score that decides, and the new version's on the test split.
        rival: the champion so far, None where there is none.
        minimum: a version below is never champion.
        tolerance: a version may be this much worse than the champion and still take its place.
    """
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
    if value < rival.value - tolerance:
        return Decision(
            False,
            f"{score} is worse than the champion by more than the tolerance {tolerance:g}: {difference}",
            **compared,
        )
    return Decision(
        True, f"{reached} and is not worse than the champion (tolerance {tolerance:g}): {difference}", **compared
    )


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
    """Move the aliases as it was decided; if the champion is another by then, decide anew.

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
            elif (now and now.number) == (champion and champion.number):
                registry.set_tags(version, tags(decision))
                if decision.wins:
                    registry.make_champion(version, champion)
                else:
                    registry.make_challenger(version)
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
