"""One stand-in for the whole directory, with a handful of pictures in its bucket."""

import random

import pytest
from stand_in_calls import SCENES, Caller

from pipeline.local.pictures.drawing import draw
from pipeline.local.vertex import VertexStandIn


@pytest.fixture(scope="session")
def bucket_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("buckets")
    folder = root / "bucket" / "2026" / "v0"
    folder.mkdir(parents=True)
    for number, (name, scene) in enumerate(SCENES.items()):
        draw(scene, random.Random(number)).image.save(folder / f"{name}.jpg", quality=88)
    (folder / "o1:html.jpg").write_bytes(b"<html>502</html>")
    (folder / "o1:empty.jpg").write_bytes(b"")
    (folder / "o1:cut.jpg").write_bytes((folder / "o1:stop.jpg").read_bytes()[:900])
    return root


@pytest.fixture(scope="session")
def session_stand_in(bucket_root):
    with VertexStandIn(bucket_root, rest=True) as stand_in:
        yield stand_in


@pytest.fixture
def vertex(session_stand_in):
    """The stand-in with default settings and no memory."""
    session_stand_in.reset()
    return session_stand_in


@pytest.fixture(scope="session")
def call(session_stand_in):
    caller = Caller(session_stand_in.endpoint)
    yield caller
    caller.channel.close()
