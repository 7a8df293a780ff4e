"""What a catalogue promises about lineage: both directions, bounded, and no more than the caller may see."""

from __future__ import annotations

from adapter_registry.domain.acting import Actor, Permission, Rights, acting
from adapter_registry.domain.catalog import Catalog
from adapter_registry.domain.records import Lineage
from tests.suites.catalog_values import adapter, digest, publish, ref

STRANGER = Actor("stranger", Rights({"default": Permission.READ, "team": Permission.READ}))


def names(lineage: Lineage) -> list[tuple[str, ...]]:
    return [node.published_as for node in lineage.nodes]


class LineageRules:
    def test_lineage_goes_up_to_the_first_and_down_to_the_last(self, catalog: Catalog) -> None:
        mother, father = publish(catalog, "mother", 1), publish(catalog, "team/father", 2)
        child = publish(catalog, "child", 3, sources=(mother, father))
        grandchild = publish(catalog, "grandchild", 4, parents=(child,))
        publish(catalog, "sister", 5, parents=(mother,))
        told = catalog.get_lineage(ref("child"), 10)
        assert told.nodes[0].digest == child
        assert {node.digest for node in told.nodes} == {mother, father, child, grandchild}
        assert set(told.edges) == {(child, mother), (child, father), (grandchild, child)}
        assert not told.truncated
        (first,) = [node for node in told.nodes if node.digest == father]
        version = catalog.get_version(ref("team/father"))
        assert (first.published_as, first.manifest, first.created) == (
            ("team/father@1",),
            version.manifest,
            version.created,
        )

    def test_nodes_come_by_distance_and_no_further_than_was_asked(self, catalog: Catalog) -> None:
        line = [publish(catalog, "cat", 0)]
        for seed in range(1, 7):
            line.append(publish(catalog, "cat", seed, parents=(line[-1],)))
        told = catalog.get_lineage(ref("cat@4"), 2)
        assert [node.digest for node in told.nodes] == [line[3], line[2], line[4], line[1], line[5]]
        assert told.truncated
        whole = catalog.get_lineage(ref("cat@4"), 3)
        assert ({node.digest for node in whole.nodes}, whole.truncated) == (set(line), False)

    def test_a_version_that_is_reached_twice_is_told_once(self, catalog: Catalog) -> None:
        first = publish(catalog, "cat", 1)
        left, right = (publish(catalog, "cat", seed, parents=(first,)) for seed in (2, 3))
        last = publish(catalog, "cat", 4, parents=(left, right, first))
        told = catalog.get_lineage(ref("cat@4"), 10)
        assert len(told.nodes) == 4
        assert set(told.edges) == {(last, left), (last, right), (last, first), (left, first), (right, first)}

    def test_a_version_has_all_its_names(self, catalog: Catalog) -> None:
        only = publish(catalog, "dog", 1)
        for name in ("team/cat", "cat"):
            assert publish(catalog, name, 1) == only
        assert names(catalog.get_lineage(ref("dog"), 1)) == [("default/cat@1", "default/dog@1", "team/cat@1")]

    def test_a_parent_that_was_deleted_is_a_digest(self, catalog: Catalog) -> None:
        oldest = publish(catalog, "cat", 1)
        parent = publish(catalog, "cat", 2, parents=(oldest,))
        publish(catalog, "kitten", 3, parents=(parent,))
        catalog.delete_adapter(adapter("cat"), force=True)
        told = catalog.get_lineage(ref("kitten"), 10)
        assert [(node.digest, node.published_as, node.manifest) for node in told.nodes[1:]] == [(parent, (), None)]

    def test_what_the_caller_may_not_read_is_not_told(self, catalog: Catalog) -> None:
        secret = publish(catalog, "secret/base", 1)
        parent = publish(catalog, "secret/cat", 2, parents=(secret,))
        shared = publish(catalog, "cat", 3, parents=(parent,))
        publish(catalog, "secret/child", 4, parents=(shared,))
        public = publish(catalog, "team/child", 5, parents=(shared,))
        with acting(STRANGER):
            told = catalog.get_lineage(ref("cat"), 10)
        # The parent's digest is in the manifest that the stranger may read; nothing else is told.
        assert {node.digest: node.published_as for node in told.nodes} == {
            shared: ("default/cat@1",),
            parent: (),
            public: ("team/child@1",),
        }
        assert set(told.edges) == {(shared, parent), (public, shared)}
        assert not told.truncated
        assert len(catalog.get_lineage(ref("cat"), 10).nodes) == 5

    def test_a_version_of_a_readable_name_is_seen_though_it_has_others(self, catalog: Catalog) -> None:
        parent = publish(catalog, "secret/cat", 1)
        publish(catalog, "team/cat", 1)
        publish(catalog, "kitten", 2, parents=(parent,))
        with acting(STRANGER):
            assert names(catalog.get_lineage(ref("kitten"), 10)) == [("default/kitten@1",), ("team/cat@1",)]

    def test_a_thousand_nodes_are_told_and_that_there_are_more(self, catalog: Catalog) -> None:
        first = publish(catalog, "cat", 0)
        rows = many_children(catalog, first, 1_050)
        told = catalog.get_lineage(ref("cat"), 5)
        assert (len(told.nodes), len(told.edges), told.truncated) == (1_000, 999, True)
        assert {node.digest for node in told.nodes[1:]} <= rows


def many_children(catalog: Catalog, parent: str, count: int) -> set[str]:
    """Rows of versions, written in one go; their manifest is another version's."""
    from sqlalchemy import insert, select

    from adapter_registry.store.models import LineageRow, VersionRow

    with catalog._database.write() as session:
        model = session.scalars(select(VersionRow).where(VersionRow.digest == parent)).one()
        facts = {c.key: getattr(model, c.key) for c in VersionRow.__table__.columns if c.key != "id"}
        digests = [digest(("child", number)) for number in range(count)]
        rows = [facts | {"number": number, "digest": name} for number, name in enumerate(digests, 2)]
        session.execute(insert(VersionRow), rows)
        ids = session.scalars(select(VersionRow.id).where(VersionRow.digest != parent)).all()
        session.execute(insert(LineageRow), [{"child": child, "parent": parent} for child in ids])
    return set(digests)
