"""The rules that change what is published.

Owns how their arguments are drawn: from few values, so that most calls meet something.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from lorry.errors import InvalidReference, LorryError
from lorry.format.compatibility import CarryOver
from lorry.format.reference import Reference
from tests.stateful import seen
from tests.stateful.model_finding import adapter_row, version_row
from tests.stateful.model_state import Key
from tests.stateful.sequence import Sequence, Written, adapters, aliases, references
from tests.stateful.values import ADAPTERS, BASE_NAMES, BASES, BUNDLE_COUNT, KNOWN_AS, Bundle, full

# No condition, must not exist, the stored one, one that is gone.
conditions = st.sampled_from((None, None, "absent", "right", "stale"))
policies = st.sampled_from(CarryOver)
parents = st.lists(references, max_size=2)
labels = st.sampled_from(({}, {"team": "sea"}, {"team": "air", "kind": "format"}))
bundles = st.integers(0, BUNDLE_COUNT - 1)
wanted_bases = st.sampled_from(("", "", *BASE_NAMES, KNOWN_AS[0], "nobody"))
base_ids = st.sampled_from(("", *(base.base_id for base in BASES)))


class Writing(Sequence):
    """Bases, versions, aliases, adapters."""

    @rule(
        place=st.integers(0, 2),
        name=st.sampled_from((None, None, *BASE_NAMES, KNOWN_AS[0].replace("/", "-"))),
        known_as=st.sets(st.sampled_from(KNOWN_AS)),
        derived_from=base_ids,
        carry_over=policies,
    )
    def register_base(
        self, place: int, name: str | None, known_as: set[str], derived_from: str, carry_over: CarryOver
    ) -> None:
        self.register(place, name or BASE_NAMES[place], known_as, derived_from, carry_over)

    def stock(self) -> None:
        """What sequences begin with: a line of three, a child and a twin of it elsewhere, an alias that moved."""
        child, line, twin = ADAPTERS
        self.register(0, BASE_NAMES[0], set(KNOWN_AS[:1]), "", CarryOver.REFUSE)
        self.register(1, BASE_NAMES[1], set(), BASES[0].base_id, CarryOver.WARN)
        self.push(line, 0, "", [], "prod", {"team": "sea"})
        self.push(line, 1, "", [("number", 0)], "", {})
        self.push(line, 2, "tuned", [], "prod", {})
        self.push(child, 0, "", [("number", 2)], "", {})
        self.push(twin, 1, "", [("number", 1)], "canary", {})

    @rule(name=wanted_bases.filter(bool), derived_from=base_ids, carry_over=policies)
    def update_base(self, name: str, derived_from: str, carry_over: CarryOver) -> None:
        self.update_family(name, derived_from, carry_over)

    @rule(key=adapters, place=bundles, alias=st.just("") | aliases)
    def push_anew(self, key: Key, place: int, alias: str) -> None:
        """What most pushes are: no base named, no parents."""
        self.push(key, place, "", [], alias, {})

    @rule(key=adapters, place=bundles, base=wanted_bases, above=parents, alias=st.just("") | aliases, told=labels)
    def push(self, key: Key, place: int, base: str, above: list[Written], alias: str, told: dict[str, str]) -> None:
        """The whole way; in steps where an upload is to fail, since its neighbour's end is a race then."""
        bundle, named = self.shelf[place], [self.reference(parent) for parent in above]
        self.touched = key
        fields = {"base": base, "alias": alias, "labels": told}
        if not self._uploads(key[0], bundle):
            self.steps(key, bundle, named, fields)
            return
        self.agree(
            lambda: seen.version(
                self.world.client.push(bundle.folder, full(key), parents=list(map(str, named)), **fields)
            ),
            lambda: self._pushed(key, bundle, named, fields),
        )

    def _pushed(self, key: Key, bundle: Bundle, named: list[Reference], fields: dict[str, Any]) -> Any:
        if fields["base"] or bundle.facts.base_name:
            self.model.judge_new(bundle, fields["base"] or bundle.facts.base_name or "")
        for data in self._lacking(bundle):
            self.model.send(key[0], data)
        return version_row(*self.model.create(key, bundle, parents=named, **fields))

    def _lacking(self, bundle: Bundle) -> list[bytes]:
        missing = set(self.model.missing([file.digest for file in bundle.files]))
        return [bundle.bytes_of(file.name) for file in bundle.files if file.digest in missing]

    def _uploads(self, namespace: str, bundle: Bundle) -> bool:
        """Whether all that is to be sent will be taken."""
        missing = [file for file in bundle.files if not self.model.there(file.digest)]
        kept = [(bundle.bytes_of(f.name), self.model.uploads.get((namespace, f.digest), b"")) for f in missing]
        try:
            self.model.require_room(namespace, {file.digest: file.size for file in missing})
        except LorryError:
            return False
        return all(data.startswith(begun) for data, begun in kept)

    def steps(self, key: Key, bundle: Bundle, named: list[Reference], fields: dict[str, Any]) -> None:
        """File after file, then the version."""
        for file in bundle.files:
            self.agree(
                lambda file=file: self.world.client.upload(bundle.folder / file.name, file.digest, namespace=key[0]),
                lambda file=file: self.model.send(key[0], bundle.bytes_of(file.name)),
            )
        self._create(key, bundle, named, fields)

    def _create(self, key: Key, bundle: Bundle, named: list[Reference], fields: dict[str, Any]) -> None:
        self.agree(
            lambda: seen.version(
                self.world.client.create_version(full(key), bundle.files, parents=list(map(str, named)), **fields)
            ),
            lambda: version_row(*self.model.create(key, bundle, parents=named, **fields)),
        )

    @rule(key=adapters, place=bundles, above=parents, alias=st.just("") | aliases)
    def create_version(self, key: Key, place: int, above: list[Written], alias: str) -> None:
        """Out of what is stored, as far as it is."""
        named = [self.reference(parent) for parent in above]
        self.touched = key
        self._create(key, self.shelf[place], named, {"base": "tiny-base", "alias": alias, "labels": {}})

    @rule(written=references, reason=st.sampled_from(("swears", "lies")))
    def yank(self, written: Written, reason: str) -> None:
        reference = self.reference(written)
        self.agree(
            lambda: seen.version(self.world.client.yank(str(reference), reason)),
            lambda: version_row(*self.model.yank(reference, reason)),
        )

    @rule(written=references, force=st.booleans())
    def delete_version(self, written: Written, force: bool) -> None:  # noqa: FBT001 - hypothesis names them
        reference = self.reference(written)

        def real() -> Any:
            gone = self.world.client.delete_version(str(reference), force=force)
            taken = tuple(gone.deleted_aliases), tuple(gone.orphaned_children), tuple(gone.broken_leases)
            return gone.digest, taken

        def model() -> Any:
            if reference == Reference(reference.adapter):
                raise InvalidReference("")
            return self.model.delete_version(reference, force=force)

        self.agree(real, model)

    @rule(key=adapters, force=st.booleans())
    def delete_adapter(self, key: Key, force: bool) -> None:  # noqa: FBT001 - likewise
        self.touched = key

        def real() -> Any:
            gone = self.world.client.delete_adapter(full(key), force=force)
            return tuple(gone.deleted_versions), tuple(gone.orphaned_children), tuple(gone.broken_leases)

        self.agree(real, lambda: self.model.delete_adapter(key, force=force))

    @rule(
        key=adapters,
        told=st.none() | labels,
        keep_last=st.none() | st.integers(0, 2),
        condition=st.sampled_from(("any", "right", "stale")),
    )
    def update_adapter(self, key: Key, told: dict[str, str] | None, keep_last: int | None, condition: str) -> None:
        self.touched = key
        stored = self.model.adapters[key].revision if key in self.model.adapters else 1
        revision = {"any": 0, "right": stored, "stale": stored + 1}[condition]
        self.agree(
            lambda: seen.adapter(
                self.world.client.update_adapter(
                    full(key), description="arr", labels=told, keep_last=keep_last, expected_revision=revision
                )
            ),
            lambda: adapter_row(self.model.update_adapter(key, "arr", told, keep_last, revision)),
        )

    def _revision(self, key: Key, alias: str, condition: str | None) -> int | None:
        adapter = self.model.adapters.get(key)
        stored = adapter.revision_of(alias) if adapter else 0
        return {None: None, "absent": 0, "right": stored, "stale": stored + 1}[condition]

    @rule(written=references, alias=aliases, condition=conditions)
    def set_alias(self, written: Written, alias: str, condition: str | None) -> None:
        reference = self.reference(written)
        expected = self._revision(self.touched, alias, condition)
        self.agree(
            lambda: seen.alias(self.world.client.set_alias(str(reference), alias, expected_revision=expected)),
            lambda: self.model.set_alias(reference, alias, expected),
        )

    @rule(key=adapters, alias=aliases, condition=conditions)
    def rollback(self, key: Key, alias: str, condition: str | None) -> None:
        self.touched, expected = key, self._revision(key, alias, condition)
        self.agree(
            lambda: seen.alias(self.world.client.rollback_alias(full(key), alias, expected_revision=expected)),
            lambda: self.model.rollback(key, alias, expected),
        )

    @rule(key=adapters, alias=aliases, condition=conditions)
    def delete_alias(self, key: Key, alias: str, condition: str | None) -> None:
        self.touched, expected = key, self._revision(key, alias, condition)
        self.agree(
            lambda: self.world.client.delete_alias(full(key), alias, expected_revision=expected),
            lambda: self.model.delete_alias(key, alias, expected),
        )
