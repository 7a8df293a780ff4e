"""What names mean now: remembered while the registry's events are heard, asked for while they are not.

Owns the memory of names and aliases, and what was withdrawn: yanked or deleted. An answer is taken
into memory only if nothing that happened on its way could have made it wrong. Does not know the
registry, nor who follows its events.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from compute_worker.runtime.version import Choice, Version
from lorry.errors import VersionNotFound, VersionYanked
from lorry.format.reference import AdapterName, Reference

_T = TypeVar("_T")

# References and versions of a worker's callers; an entry is a few hundred bytes.
_MAX_NAMES = 4096


@dataclass(eq=False, slots=True)
class Question:
    """A reference that the registry is being asked about.

    overtaken: something happened to its adapter meanwhile, so that the answer may be old.
    """

    adapter: AdapterName
    overtaken: bool = False


class Names:
    """Belongs to the event loop.

    live: whether all that happens at the registry is heard. spell: grows whenever that changes; an
    answer of one spell may be wrong in another.
    """

    def __init__(self) -> None:
        self.live = False
        self.spell = 0
        self._versions: OrderedDict[Reference, Version] = OrderedDict()
        self._doubtful: dict[Reference, Version] = {}  # answered before the registry fell silent
        self._questions: set[Question] = set()

    def __contains__(self, reference: Reference) -> bool:
        return reference in self._versions

    def get(self, reference: Reference) -> Version | None:
        """What a name means now, None where that has to be asked for."""
        version = self._versions.get(reference)
        if version is not None:
            self._versions.move_to_end(reference)
        return version

    def last(self, reference: Reference) -> Version | None:
        """What was answered for a name last, whether or not it is still right."""
        return self._versions.get(reference) or self._doubtful.get(reference)

    @contextmanager
    def asking(self, adapter: AdapterName) -> Iterator[Question]:
        """Around a question to the registry about a version of an adapter."""
        question = Question(adapter)
        self._questions.add(question)
        try:
            yield question
        finally:
            self._questions.remove(question)

    def remember(self, reference: Reference, version: Version, spell: int) -> None:
        """Answer with this version from now on, if every event since the question was heard.

        spell: as it was when the question was put.
        """
        if not self.live or spell != self.spell:
            return
        self._doubtful.pop(reference, None)
        self._versions[reference] = version
        self._versions.move_to_end(reference)
        if len(self._versions) > _MAX_NAMES:
            self._versions.popitem(last=False)

    def overtake(self, adapter: AdapterName) -> None:
        """Something happened to an adapter: what is being asked about it may be old when it comes."""
        for question in self._questions:
            question.overtaken |= question.adapter == adapter

    def forget(self, reference: Reference) -> None:
        """Answer for a name no more."""
        self._versions.pop(reference, None)
        self._doubtful.pop(reference, None)

    def forget_version(self, adapter: AdapterName, digest: str) -> None:
        """Answer with a version no more, by whatever name of the adapter."""
        for reference, version in [*self._versions.items(), *self._doubtful.items()]:
            if reference.adapter == adapter and version.digest == digest:
                self.forget(reference)

    def hear(self) -> list[Reference]:
        """Events are heard from now on. Answers what was remembered before the registry fell silent."""
        self.live = True
        self.spell += 1
        return list(self._doubtful)

    def fall_silent(self) -> None:
        """Events are heard no more: answer nothing."""
        self.live = False
        self.spell += 1
        self._doubtful.update(self._versions)
        self._versions.clear()


class Withdrawn:
    """Versions that the registry took back, by exact reference. Belongs to the event loop."""

    def __init__(self) -> None:
        self._yanked: OrderedDict[Reference, str] = OrderedDict()
        self._deleted: OrderedDict[Reference, None] = OrderedDict()

    def yank(self, reference: Reference, reason: str) -> None:
        """By name it is refused from now on, with this reason."""
        _note(self._yanked, reference, reason)

    def delete(self, reference: Reference) -> None:
        """It is refused from now on."""
        _note(self._deleted, reference, None)

    def learn(self, reference: Reference, yank_reason: str | None) -> None:
        """The registry has it, yanked with this reason or, None, not."""
        self._deleted.pop(reference, None)
        self._yanked.pop(reference, None)
        if yank_reason is not None:
            self.yank(reference, yank_reason)

    def __contains__(self, reference: Reference) -> bool:
        return reference in self._yanked or reference in self._deleted

    def deleted(self, reference: Reference) -> bool:
        """Whether it was deleted."""
        return reference in self._deleted

    def check_exact(self, reference: Reference) -> None:
        """Raise VersionNotFound where an exact reference was deleted; yanked ones still stand."""
        if reference in self._deleted:
            raise VersionNotFound(f"{reference} was deleted")

    def check(self, choice: Choice) -> None:
        """Raise VersionNotFound, or VersionYanked where the choice was not written by digest."""
        exact = choice.exact
        if exact is None:
            return
        self.check_exact(exact)
        if exact in self._yanked and choice.reference.digest is None:
            reason = self._yanked[exact]
            raise VersionYanked(
                f"{choice.adapter} means {exact.digest}, which was yanked: {reason}", yank_reason=reason
            )


def _note(notes: OrderedDict[Reference, _T], reference: Reference, note: _T) -> None:
    notes[reference] = note
    notes.move_to_end(reference)
    if len(notes) > _MAX_NAMES:
        notes.popitem(last=False)
