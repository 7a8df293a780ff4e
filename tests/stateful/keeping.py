"""The rules about bytes and their keeping: uploads in pieces, quotas, leases, garbage, damage, restarts.

Owns which pieces are sent, right and wrong ones.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.stateful import seen
from tests.stateful.sequence import Sequence, Written, digests
from tests.stateful.values import BUNDLE_COUNT, HOLDERS, NAMESPACES
from tests.support.uploads import header

# Not to be waited for.
_TTL = timedelta(hours=1)
_DAY = timedelta(days=1)
places = st.integers(0, BUNDLE_COUNT - 1)
namespaces = st.sampled_from(NAMESPACES)


class Keeping(Sequence):
    """What BlobService and AdminService do."""

    @rule(
        namespace=namespaces,
        place=places,
        file=st.integers(0, 1),
        length=st.sampled_from((0, 1, 500, 10_000)),
        slip=st.sampled_from((0, 0, 0, 0, 1)),
        spoilt=st.sampled_from((False, False, False, False, True)),
        finish=st.booleans(),
    )
    def upload_a_piece(
        self,
        namespace: str,
        place: int,
        file: int,
        length: int,
        slip: int,
        spoilt: bool,  # noqa: FBT001 - hypothesis names them
        finish: bool,  # noqa: FBT001 - likewise
    ) -> None:
        """From where the upload was cut. slip: at a wrong offset. spoilt: wrong bytes."""
        wanted = self.shelf[place].files[file]
        data = self.shelf[place].bytes_of(wanted.name)
        kept, complete = self.model.progress(namespace, wanted.digest)
        assert self._progress(namespace, wanted.digest) == (kept, complete)
        piece = data[kept : kept + length]
        piece = bytes(byte ^ 1 for byte in piece) if spoilt else piece
        opening = header(wanted.digest, wanted.size, namespace)
        self.agree(
            lambda: self.world.upload(opening, kept + slip, piece, finish=finish),
            lambda: self.model.upload(namespace, wanted.digest, wanted.size, kept + slip, piece, finish=finish),
        )

    def _progress(self, namespace: str, digest: str) -> tuple[int, bool]:
        state = self.world.client.query_upload(digest, namespace=namespace)
        return state.committed_bytes, state.complete

    @rule(namespace=namespaces, place=places)
    def find_missing(self, namespace: str, place: int) -> None:
        digests = [file.digest for file in self.shelf[place].files]
        self.ask(
            lambda: self.world.client.find_missing(digests, namespace=namespace), lambda: self.model.missing(digests)
        )

    @rule(
        name=namespaces,
        max_bytes=st.sampled_from((None, 0, 0, 3_000, 6_000)),
        max_versions=st.sampled_from((None, 0, 0, 1, 3)),
        slip=st.sampled_from((None, 0, 1)),
    )
    def limit_a_namespace(self, name: str, max_bytes: int | None, max_versions: int | None, slip: int | None) -> None:
        """slip: how far the revision that is asked for is from the stored one; None for any."""
        revision = 0 if slip is None else self.model.space(name).revision + slip
        self.agree(
            lambda: seen.namespace(
                self.world.client.update_namespace(
                    name, max_bytes=max_bytes, max_versions=max_versions, revision=revision
                )
            ),
            lambda: self.model.limit(name, max_bytes, max_versions, revision),
        )

    @rule()
    def count_what_is_used(self) -> None:
        told = [seen.namespace(message) for message in self.world.client.namespaces()]
        everywhere = [self.model.namespace(name) for name in NAMESPACES]
        # revision, bytes or versions: one that holds none of these is not listed.
        assert told == [row for row in everywhere if any(row[3:6])]
        assert [seen.namespace(self.world.client.namespace(name)) for name in NAMESPACES] == everywhere

    @rule(holder=st.sampled_from(HOLDERS), held=st.lists(digests, max_size=3))
    def renew_leases(self, holder: str, held: list[Written]) -> None:
        named = [self.reference(written) for written in held]

        def real() -> Any:
            answer = self.world.client.renew_leases(holder, list(map(str, named)), ttl=_TTL)
            return _digests(answer.missing), _digests(answer.yanked)

        self.agree(real, lambda: self.model.renew(holder, named))

    @rule(dry_run=st.booleans(), at_once=st.booleans())
    def collect_garbage(self, dry_run: bool, at_once: bool) -> None:  # noqa: FBT001 - hypothesis names them
        """With the setting, which is no grace at all, or with a day."""
        grace = None if at_once else _DAY
        self.agree(
            lambda: seen.collection(self.world.client.collect_garbage(dry_run=dry_run, grace=grace)),
            lambda: self.model.collect(dry_run=dry_run, at_once=at_once),
        )

    @rule()
    def check_everything(self) -> None:
        self._check("")

    @precondition(lambda self: any(map(self.model.there, self.model.blobs)))
    @rule(place=st.integers(0, 9))
    def spoil_a_blob(self, place: int) -> None:
        """A bit flips behind the store's back; the check that follows finds it."""
        sound = sorted(filter(self.model.there, self.model.blobs))
        digest = sound[place % len(sound)]
        self.world.place.spoil(digest)
        self._check(digest)

    def _check(self, spoilt: str) -> None:
        *found, last = self.world.client.fsck()
        findings = [report.finding for report in found if report.HasField("finding")]
        assert last.progress.done
        told = sorted((seen.problem(one), one.digest, sorted(one.versions)) for one in findings)
        assert told == self.model.spoil(spoilt)

    @rule()
    def restart(self) -> None:
        self.world.restart()


def _digests(references: Any) -> list[str]:
    return [reference.partition("@")[2] for reference in references]
