"""Bases in the model: names, families, and whether an adapter fits.

Owns the verdicts as codes: everything of here fits two of the bases by its shape, and none the third.
"""

from __future__ import annotations

from lorry.errors import BaseConflict, BaseNotFound, IncompatibleAdapter, InvalidInput
from tests.stateful.model_state import Base, State, Version
from tests.stateful.values import FITTING, Bundle

Verdict = tuple[bool, tuple[str, ...]]


class Bases(State):
    """What is known of bases."""

    def register(self, base: Base) -> Base:
        """A base of the same id gets the names; a new one is stored as it is."""
        for other in self.bases.values():
            if other.base_id != base.base_id and base.name in {other.name, *other.known_as}:
                raise BaseConflict("")
        stored = self.bases.get(base.base_id)
        created = stored is None
        if stored is None:
            self._refuse_circle(base.base_id, base.derived_from)
            stored = self.bases[base.base_id] = Base(base.base_id, base.name, set(), base.derived_from, base.carry_over)
            self.tell("base_registered", None, base.base_id)
        new = {base.name, *base.known_as} - {stored.name} - stored.known_as
        stored.known_as |= new
        if new and not created:
            self.tell("base_updated", None, base.base_id)
        return stored

    def update_base(self, name: str, derived_from: str | None, carry_over: str | None) -> Base:
        base = self.base(name)
        parent = base.derived_from if derived_from is None else derived_from
        policy = base.carry_over if carry_over is None else carry_over
        self._refuse_circle(base.base_id, parent)
        if (parent, policy) != (base.derived_from, base.carry_over):
            base.derived_from, base.carry_over = parent, policy
            self.tell("base_updated", None, base.base_id)
        return base

    def _above(self, parent: str) -> list[str]:
        """The parent and its ancestors."""
        line: list[str] = []
        while parent and parent not in line:
            line.append(parent)
            parent = self.bases[parent].derived_from if parent in self.bases else ""
        return line

    def _refuse_circle(self, base_id: str, parent: str) -> None:
        if base_id in self._above(parent):
            raise InvalidInput("")

    def judge_new(self, bundle: Bundle, base: str) -> tuple[Base, tuple[str, ...]]:
        """The base that a bundle is published for, and the codes of the remarks. Raises IncompatibleAdapter."""
        claimed = self._claimed(bundle)
        if not base and claimed is None:
            raise BaseNotFound("")
        target = self.base(base) if base else claimed
        assert target is not None
        remarks = ["BASE_UNVERIFIED"] if claimed is None or not base else []
        fits, codes = self._judge(claimed or target, target, len(bundle.facts.modules))
        if not fits:
            raise IncompatibleAdapter("")
        return target, (*remarks, *codes)

    def _claimed(self, bundle: Bundle) -> Base | None:
        try:
            return self.base(bundle.facts.base_name or "")
        except BaseNotFound:
            return None

    def verdict(self, version: Version, base: Base) -> Verdict:
        """On a published version."""
        made_for = self.bases[version.manifest.base_id]
        return self._judge(made_for, base, len(version.manifest.target_modules))

    def _judge(self, made_for: Base, base: Base, modules: int) -> Verdict:
        codes, fits = [], base.base_id in FITTING
        if made_for is not base:
            policy = base.carry_over if made_for.base_id in self._above(base.derived_from) else "refuse"
            codes += {"allow": [], "warn": ["BASE_VARIANT"], "refuse": ["BASE_MISMATCH"]}[policy]
            fits = fits and policy != "refuse"
        if base.base_id not in FITTING:
            codes += ["SHAPE_MISMATCH"] * modules
        return fits, tuple(codes)
