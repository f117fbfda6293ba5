"""A process killed between any two changes leaves stores that the next one can use as they are.

Each step runs in a process of its own that ends, without any clean-up, just before its n-th call
that changes the disk or the database; n grows until the whole scenario gets through.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.image.catalog import Catalog
from engine.oci.digest import chain_id
from engine.storage import gc
from tests.kernel.storage.stores import Stores

if TYPE_CHECKING:
    from collections.abc import Iterator

SCENARIO = """
import os, sys
from pathlib import Path
from engine.image.catalog import Catalog
from engine.oci import reference
from engine.oci.digest import ImageId, chain_id
from tests.kernel.storage.stores import Stores
from tests.support.images import Image, Layer, directory, file, tar

CHANGING = {
    "rename", "unlink", "remove", "mkdir", "rmdir", "symlink", "link", "open", "fsync", "truncate",
    "execute", "write", "pwrite", "utime", "chown", "fchown", "chmod", "fchmod", "close",
}
left = int(sys.argv[2])

def watch(frame, event, called):
    global left
    if event == "c_call" and called.__name__ in CHANGING:
        if "/engine/" in frame.f_code.co_filename or "shutil" in frame.f_code.co_filename:
            left -= 1
            if left < 0:
                os._exit(77)

stores = Stores(Path(sys.argv[1]))
image = Image(layers=(
    Layer(tar({"d": directory(), "d/a": file(b"x"), "b": file(b"y" * 70000)}), "none"),
    Layer(tar({"d/c": file(b"z")}), "none"),
))
sys.setprofile(watch)
catalog = Catalog(stores.database, stores.content, stores.snapshots)
image_id = ImageId(image.id)
name = reference.parse("crash:1")
if catalog.of_reference(name) is None:
    with stores.snapshots.lease() as lease:
        parent = None
        for layer in image.layers:
            parent = stores.commit(layer.tar, parent, lease).chain_id
        lease.add(image_id)
        stores.content.put(image.config_bytes)
        catalog.put(image_id, names=(name,))
stores.snapshots.prepare("container", chain_id(image.layers and catalog.by_id(image_id).diff_ids))
stores.snapshots.remove("container")
catalog.delete(image_id)
catalog.sweep()
sys.setprofile(None)
stores.close()
"""


def steps(root: Path) -> Iterator[int]:
    """Run the scenario to its n-th change, for growing n, until it comes to its end."""
    for count in range(2000):
        ended = subprocess.run(
            [sys.executable, "-c", SCENARIO, str(root), str(count)],
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode in (0, 77), ended.stderr
        yield count
        if ended.returncode == 0:
            return
    raise AssertionError("the scenario never came to its end")


@pytest.mark.timeout(600)
def test_killed_between_any_two_changes(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    root = tmp_path / "data"
    seen: set[str] = set()
    for count in steps(root):
        stores = Stores(root)
        try:
            gc.take_away(stores.content, stores.snapshots)
            stores.snapshots.empty_trash()
            catalog = Catalog(stores.database, stores.content, stores.snapshots)
            catalog.sweep()
            seen.add(check(stores, catalog, count))
            stores.snapshots.remove("container")
            for image in catalog.all():
                catalog.delete(image.id)
            catalog.sweep()
            assert stores.folders() == set()
            assert list(stores.content.walk()) == []
        finally:
            stores.close()
    assert seen == {"nothing", "image", "image and container"}


def check(stores: Stores, catalog: Catalog, count: int) -> str:
    """Everything that a row names is whole, and there is nothing else."""
    assert stores.unfinished() == [], count
    images = catalog.all()
    assert len(images) <= 1
    layers = stores.snapshots.layers()
    assert stores.folders() == {x.folder for x in layers} | set(stores.snapshots.keys()), count
    for layer in layers:
        assert len(stores.tar(layer)) == layer.tar_bytes
        link = os.path.join(stores.snapshots.root, "l", layer.link)
        assert os.path.samefile(link, stores.diff(layer))
    documents = {digest for digest, _ in stores.content.walk()}
    assert documents == {image.id for image in images}, count
    for image in images:
        assert image.repo_tags == ("crash:1",)
        assert [x.chain_id for x in stores.snapshots.stack(chain_id(image.diff_ids))]
    if not images:
        assert stores.snapshots.keys() == []
        assert layers == [], count
        return "nothing"
    return "image and container" if stores.snapshots.keys() else "image"
