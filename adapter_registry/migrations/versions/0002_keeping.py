"""Blobs and whose they are, verdicts, leases, namespaces, signatures, access, audit.

Versions of before are told which blobs and modules they name; their facts and the blobs' blocks are
computed from the bytes later, by the running registry.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column, ForeignKeyConstraint, PrimaryKeyConstraint, UniqueConstraint

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Children before parents: the order in which they can be dropped.
TABLES = (
    "audit",
    "principals",
    "namespaces",
    "leases",
    "signatures",
    "verdicts",
    "version_facts",
    "version_modules",
    "version_blobs",
    "blob_claims",
    "blobs",
)
# Rows in one INSERT; bounds memory, not time.
BATCH = 1_000

# SQLite numbers rows by itself only where the type is spelt INTEGER.
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
BIG = sa.BigInteger()
TEXT = sa.Text()
BYTES = sa.LargeBinary()
TIME = sa.DateTime(timezone=True)


def words(length: int) -> sa.String:
    """Sorted by bytes, whatever the database's locale."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    with op.batch_alter_table("bases") as bases:
        bases.add_column(Column("carry_over", TEXT, nullable=False, server_default="refuse"))
        bases.add_column(Column("revision", BIG, nullable=False, server_default="1"))
    with op.batch_alter_table("bases") as bases:
        bases.alter_column("carry_over", server_default=None, existing_type=TEXT, existing_nullable=False)
        bases.alter_column("revision", server_default=None, existing_type=BIG, existing_nullable=False)
    with op.batch_alter_table("adapters") as adapters:
        adapters.add_column(Column("keep_last", BIG, nullable=False, server_default="0"))
    with op.batch_alter_table("adapters") as adapters:
        adapters.alter_column("keep_last", server_default=None, existing_type=BIG, existing_nullable=False)
    blobs()
    versions()
    tenants()
    tell_of_versions()


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
    with op.batch_alter_table("adapters") as adapters:
        adapters.drop_column("keep_last")
    with op.batch_alter_table("bases") as bases:
        bases.drop_column("revision")
        bases.drop_column("carry_over")


def blobs() -> None:
    op.create_table(
        "blobs",
        Column("digest", words(71), nullable=False),
        Column("size", BIG, nullable=False),
        Column("blocks", BYTES, nullable=True),
        Column("stored", TIME, nullable=False),
        Column("touched", TIME, nullable=False),
        Column("condemned", sa.Boolean(), nullable=False),
        Column("quarantined", TIME, nullable=True),
        PrimaryKeyConstraint("digest", name="pk_blobs"),
    )
    op.create_table(
        "blob_claims",
        Column("digest", words(71), nullable=False),
        Column("namespace", words(63), nullable=False),
        Column("created", TIME, nullable=False),
        ForeignKeyConstraint(["digest"], ["blobs.digest"], name="fk_blob_claims_digest"),
        PrimaryKeyConstraint("digest", "namespace", name="pk_blob_claims"),
    )
    op.create_index("ix_blob_claims_namespace", "blob_claims", ["namespace"])


def of_version(table: str, *columns: sa.Column, key: tuple[str, ...] = ()) -> None:
    op.create_table(
        table,
        Column("version", ID, nullable=False),
        *columns,
        ForeignKeyConstraint(["version"], ["versions.id"], name=f"fk_{table}_version"),
        PrimaryKeyConstraint("version", *key, name=f"pk_{table}"),
    )


def versions() -> None:
    of_version("version_blobs", Column("digest", words(71), nullable=False), key=("digest",))
    op.create_index("ix_version_blobs_digest", "version_blobs", ["digest"])
    of_version("version_modules", Column("module", words(500), nullable=False), key=("module",))
    op.create_index("ix_version_modules_module", "version_modules", ["module"])
    of_version("version_facts", Column("facts", BYTES, nullable=False))
    of_version(
        "signatures",
        Column("key_id", words(64), nullable=False),
        Column("envelope", BYTES, nullable=False),
        Column("added", TIME, nullable=False),
        key=("key_id",),
    )
    op.create_table(
        "verdicts",
        Column("version", ID, nullable=False),
        Column("base", ID, nullable=False),
        Column("compatible", sa.Boolean(), nullable=False),
        Column("findings", BYTES, nullable=False),
        Column("revision", BIG, nullable=False),
        ForeignKeyConstraint(["version"], ["versions.id"], name="fk_verdicts_version"),
        ForeignKeyConstraint(["base"], ["bases.id"], name="fk_verdicts_base"),
        PrimaryKeyConstraint("version", "base", name="pk_verdicts"),
    )
    op.create_index("ix_verdicts_base_compatible", "verdicts", ["base", "compatible"])
    op.create_table(
        "leases",
        Column("holder", words(264), nullable=False),
        Column("version", ID, nullable=False),
        Column("expires", TIME, nullable=False),
        ForeignKeyConstraint(["version"], ["versions.id"], name="fk_leases_version"),
        PrimaryKeyConstraint("holder", "version", name="pk_leases"),
    )
    op.create_index("ix_leases_version", "leases", ["version"])
    op.create_index("ix_leases_expires", "leases", ["expires"])


def tenants() -> None:
    op.create_table(
        "namespaces",
        Column("name", words(63), nullable=False),
        Column("max_bytes", BIG, nullable=False),
        Column("max_versions", BIG, nullable=False),
        Column("trusted_keys", sa.JSON(), nullable=False),
        Column("revision", BIG, nullable=False),
        Column("used_bytes", BIG, nullable=False),
        Column("used_versions", BIG, nullable=False),
        PrimaryKeyConstraint("name", name="pk_namespaces"),
    )
    op.create_table(
        "principals",
        Column("id", ID, nullable=False),
        Column("name", words(63), nullable=False),
        Column("secret_hash", words(64), nullable=True),
        Column("certificate", words(200), nullable=True),
        Column("scopes", sa.JSON(), nullable=False),
        Column("delegate", sa.Boolean(), nullable=False),
        Column("created", TIME, nullable=False),
        Column("expires", TIME, nullable=True),
        Column("revoked", TIME, nullable=True),
        Column("last_seen", TIME, nullable=True),
        PrimaryKeyConstraint("id", name="pk_principals"),
        UniqueConstraint("name", name="uq_principals_name"),
        UniqueConstraint("secret_hash", name="uq_principals_secret_hash"),
        UniqueConstraint("certificate", name="uq_principals_certificate"),
    )
    texts = ("principal", "via", "action", "namespace", "name", "digest", "detail", "request_id")
    op.create_table(
        "audit",
        Column("id", ID, nullable=False),
        Column("time", TIME, nullable=False),
        *(Column(name, TEXT, nullable=False) for name in texts),
        PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    for name in ("namespace", "digest", "principal"):
        op.create_index(f"ix_audit_{name}_id", "audit", [name, "id"])


def tell_of_versions() -> None:
    """What versions of before name, from their manifests; and what their namespaces hold."""
    connection = op.get_bind()
    listed = sa.text(
        "SELECT v.id, a.namespace, v.manifest FROM versions v JOIN adapters a ON a.id = v.adapter "
        "WHERE v.id > :behind ORDER BY v.id LIMIT :batch"
    )
    told = Told()
    behind = 0
    while rows := connection.execute(listed, {"behind": behind, "batch": BATCH}).all():
        for version, namespace, manifest in rows:
            told.add(version, namespace, json.loads(manifest))
        told.write()
        behind = rows[-1][0]
    told.write_namespaces()


class Told:
    """Rows to be written, and which blobs and claims were already."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)
        self.seen = set()
        self.used = {}  # namespace -> [bytes, versions]
        self.rows = {"blobs": [], "blob_claims": [], "version_blobs": [], "version_modules": []}

    def add(self, version: int, namespace: str, manifest: dict) -> None:
        """A version and all that it names."""
        used = self.used.setdefault(namespace, [0, 0])
        used[1] += 1
        for digest, size in {file["digest"]: file["size"] for file in manifest["files"]}.items():
            if self.is_new(digest):
                self.rows["blobs"].append(
                    {"digest": digest, "size": size, "stored": self.now, "touched": self.now, "condemned": False}
                )
            if self.is_new((digest, namespace)):
                self.rows["blob_claims"].append({"digest": digest, "namespace": namespace, "created": self.now})
                used[0] += size
            self.rows["version_blobs"].append({"version": version, "digest": digest})
        for module in {path.rpartition(".")[2] for path in manifest["target_modules"]}:
            self.rows["version_modules"].append({"version": version, "module": module})

    def is_new(self, key: object) -> bool:
        """Whether this key was never asked about before."""
        new = key not in self.seen
        self.seen.add(key)
        return new

    def write(self) -> None:
        """Insert what was gathered."""
        for name, rows in self.rows.items():
            if rows:
                op.bulk_insert(TOLD[name], rows)
            rows.clear()

    def write_namespaces(self) -> None:
        """Insert what the namespaces hold."""
        limits = {"max_bytes": 0, "max_versions": 0, "trusted_keys": [], "revision": 0}
        rows = [{"name": n, "used_bytes": u[0], "used_versions": u[1], **limits} for n, u in self.used.items()]
        if rows:
            op.bulk_insert(TOLD["namespaces"], rows)


def light(table: str, /, **columns: sa.types.TypeEngine) -> sa.TableClause:
    return sa.table(table, *(sa.column(column, kind) for column, kind in columns.items()))


TOLD = {
    "blobs": light("blobs", digest=TEXT, size=BIG, stored=TIME, touched=TIME, condemned=sa.Boolean()),
    "blob_claims": light("blob_claims", digest=TEXT, namespace=TEXT, created=TIME),
    "version_blobs": light("version_blobs", version=BIG, digest=TEXT),
    "version_modules": light("version_modules", version=BIG, module=TEXT),
    "namespaces": light(
        "namespaces",
        name=TEXT,
        max_bytes=BIG,
        max_versions=BIG,
        trusted_keys=sa.JSON(),
        revision=BIG,
        used_bytes=BIG,
        used_versions=BIG,
    ),
}
