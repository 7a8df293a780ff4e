"""A combine call: sources on disk, the merge in a thread, the guard, the pool, and perhaps a version.

Owns the order of these. The same recipe is computed once, however many ask for it and however
often. Does not know any method's mathematics.
"""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from compute_worker.contract import AdapterSource, Combiner, CombineMethod, CombineSource, Publication, PublishedAdapter
from compute_worker.runtime.api import CombineCall, Combined, PublishAs, Weighted
from compute_worker.runtime.cache import AdapterCache
from compute_worker.runtime.combinations import Combinations, recipe_digest
from compute_worker.runtime.disk import DiskCache
from compute_worker.runtime.loader import Loader, inspect
from compute_worker.runtime.selection import Resolver, combined_reference
from compute_worker.runtime.version import Choice, Version
from compute_worker.runtime.waiting import SingleFlight
from lorry.errors import InvalidCombination
from lorry.format.base import BaseFacts
from lorry.format.bundle import CONFIG_NAME, WEIGHTS_NAME, Bundle, check_bundle
from lorry.format.compatibility import judge, refuse
from lorry.format.manifest import ManifestFile, Recipe, RecipeSource, build_manifest, canonical_json
from lorry.format.reference import check_name, parse_adapter_name
