"""Inputs of predict: which images, videos and cameras they name, and how those are read."""

import functools
import http.server
import os
import shutil
import sys
import threading

import numpy as np
import PIL.Image
import pytest

from clips import grey, number_of, write_clip
from efficientdet_tf.data.image_files import ImageError
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference.image_download import download_image
from efficientdet_tf.inference.sources import (
    Source,
    SourceError,
    count_frames,
    find_sources,
    read_frames,
)

named = functools.partial(find_sources, is_own=lambda path: False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images and videos in depth, and files that are neither."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("a.png", "deep/b.jpg", "deep/er/c.gif", "deep/a b%.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(grey(5)).save(folder / name)
    write_clip(folder / "deep" / "clip.mp4", [grey(number) for number in range(10)])
    (folder / "notes.txt").write_text("no image")
    (folder / "deep" / "d.tiff").write_text("not supported")
    return folder


def found(given, output):
    return {s.name: (s.location, s.kind) for s in named(str(given), output)}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def test_a_folder_is_searched_in_depth(folder, output):
    kinds = {name: kind for name, (_, kind) in found(folder, output).items()}
    assert list(kinds) == [
        *("a.png", "deep/a b%.png", "deep/b.jpg", "deep/clip.mp4", "deep/d.tiff", "deep/er/c.gif")
    ]
    assert [name for name, kind in kinds.items() if kind == "video"] == ["deep/clip.mp4"]


def test_folders_reached_by_links_are_searched_once(folder, output, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "linked").symlink_to(folder / "deep" / "er")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    assert list(found(tmp_path / "photos", output)) == ["linked/c.gif"]


def test_a_file_is_itself(folder, output):
    image, clip = folder / "a.png", folder / "deep" / "clip.mp4"
    assert found(image, output) == {"a.png": (str(image), "image")}
    assert found(clip, output) == {"clip.mp4": (str(clip), "video")}


def test_a_glob_is_relative_to_its_first_fixed_folder(folder, output):
    assert list(found(folder / "deep" / "*.jpg", output)) == ["b.jpg"]
    assert list(found(folder / "**" / "[bc].*", output)) == ["deep/b.jpg", "deep/er/c.gif"]
    assert list(found(folder / "d*" / "*.mp4", output)) == ["deep/clip.mp4"]


def test_a_file_that_a_glob_finds_twice_is_one_source(folder, output):
    assert len(named(f"{folder}/**/**/*.png", output)) == 2


def test_a_file_may_have_the_name_of_a_glob(tmp_path):
    shutil.copy(_png(tmp_path / "1.png"), tmp_path / "[1].png")
    assert list(found(tmp_path / "[1].png", tmp_path / "out")) == ["[1].png"]
    assert list(found(tmp_path / "?.png", tmp_path / "out")) == ["1.png"]


def test_a_list_has_paths_relative_to_it_and_urls(folder, tmp_path):
    images = tmp_path / "lists" / "images.txt"
    images.parent.mkdir()
    relative = os.path.relpath(folder / "deep" / "b.jpg", images.parent)
    lines = [relative, "", "# a comment", f"{folder}/a.png", f"{folder}/a.png"]
    # Another way to write it.
    lines.append(f"{folder}/deep/../a.png")
    images.write_text("\n".join([*lines, "http://one.org/x/1.jpg", "http://one.org/2.mp4?y=1"]))
    assert found(images, tmp_path / "out") == {
        "deep/b.jpg": (f"{folder}/deep/b.jpg", "image"),
        "a.png": (f"{folder}/a.png", "image"),
        "x/1.jpg": ("http://one.org/x/1.jpg", "image"),
        "2.mp4": ("http://one.org/2.mp4?y=1", "video"),
    }


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://one.org/images/cat.jpg?size=2", "cat.jpg"),
        ("http://one.org/a%20b.jpg", "a b.jpg"),
        # Never outside of the output folder.
        ("http://one.org/..%2F..%2Fcat.jpg", "cat.jpg"),
        ("http://one.org/a/..", "one.org"),
        ("http://one.org/a%00b.jpg", "a%00b.jpg"),
        ("http://one.org", "one.org"),
    ],
)
def test_names_of_urls(url, name, output):
    assert list(found(url, output)) == [name]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{}/no.png", "{}/no.png: no such file or folder"),
        ("{}/*.bmp", "{}/*.bmp: no images (.jpg, "),
        ("{}/no/*.png", "{}/no/*.png: no images (.jpg, "),
        ("{}/empty.txt", "{}/empty.txt: lists no images"),
        (
            "{}/two.txt",
            "{}/two.txt: http://a.org/1.jpg?x=1 and http://a.org/1.jpg?x=2 have the same name, "
            "1.jpg; list them in two files",
        ),
        ("http://[one/a.jpg", "http://[one/a.jpg: not a URL: Invalid IPv6 URL"),
        ("camera:front", "camera:front: not a number of a camera; use camera:0"),
        (
            "camera:998",
            "camera:998: no camera at /dev/video998; connect it, or name another",
        ),
    ],
)
def test_inputs_that_name_nothing(tmp_path, given, message):
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    (tmp_path / "two.txt").write_text("http://a.org/1.jpg?x=1\nhttp://a.org/1.jpg?x=2\n")
    with pytest.raises(SourceError) as error:
        named(given.format(tmp_path), tmp_path / "out")
    assert str(error.value).startswith(f"--input: {message.format(tmp_path)}")


def test_without_pyav_a_video_is_refused_and_images_are_found(folder, output, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    reason = "videos need PyAV; run pip install '.[video]'"
    clip = folder / "deep" / "clip.mp4"
    with pytest.raises(UserError) as error:
        named(str(clip), output)
    assert str(error.value) == f"--input: {clip}: {reason}"
    # Among images, it is reported when it is read.
    sources = named(str(folder), output)
    assert len(sources) == 6
    assert count_frames(sources) is None
    [video] = [source for source in sources if source.kind == "video"]
    with pytest.raises(ImageError) as error:
        next(read_frames(video))
    assert str(error.value) == f"{clip}: {reason}"


def test_frames_of_each_kind(folder):
    [image] = read_frames(Source("a.png", str(folder / "a.png"), "image"))
    assert (image.index, image.time, image.rate) == (None, None, None)
    assert image.pixels.shape == (48, 64, 3) and number_of(image.pixels) == 5
    clip = Source("clip.mp4", str(folder / "deep" / "clip.mp4"), "video")
    frames = list(read_frames(clip, stride=5))
    assert [(frame.index, number_of(frame.pixels)) for frame in frames] == [(0, 0), (5, 5)]
    assert {frame.source for frame in frames} == {clip}


def test_the_number_of_frames_is_known_in_advance(folder, output):
    sources = named(str(folder), output)
    assert count_frames(sources) == 5 + 10
    assert count_frames(sources, stride=4) == 5 + 3
    assert count_frames(sources, stride=4, limit=2) == 5 + 2
    camera = Source("camera0", "/dev/video998", "camera")
    assert count_frames([*sources, camera]) is None
    assert count_frames([camera], limit=7) == 7


@pytest.fixture(scope="module")
def address(folder):
    """Address of a web server of `folder`."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_images_and_videos_of_a_web_server(folder, address, output):
    for name in ("a%20b%25.png", "a b%25.png"):
        [image] = named(f"{address}/deep/{name}", output)
        assert image.name == "a b%.png"
        [frame] = read_frames(image)
        np.testing.assert_array_equal(frame.pixels, grey(5))
    [clip] = named(f"{address}/deep/clip.mp4", output)
    assert count_frames([clip]) == 10
    assert [number_of(frame.pixels) for frame in read_frames(clip)] == list(range(10))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none.png", "404: File not found"),
        ("/notes.txt", "not a readable JPEG, PNG, GIF, BMP or WebP image"),
        ("/Kü he.png", "404: File not found"),
        ("/none.mp4", "not a readable video: "),
    ],
)
def test_what_a_web_server_does_not_have(address, output, path, message):
    [source] = named(f"{address}{path}", output)
    with pytest.raises(ImageError) as error:
        list(read_frames(source))
    assert str(error.value).startswith(f"{address}{path}: {message}")
    assert "\n" not in str(error.value)


def test_downloads_have_a_limit(folder, address):
    size = (folder / "a.png").stat().st_size
    assert len(download_image(f"{address}/a.png", largest=size)) == size
    with pytest.raises(ImageError) as error:
        download_image(f"{address}/a.png", largest=size - 1)
    assert str(error.value) == (
        f"{address}/a.png: larger than {size - 1} bytes, the limit of a download"
    )


def test_no_server_is_one_line(output):
    # Reserved, and used by nobody.
    [source] = named("http://127.0.0.1:1/a.png", output)
    with pytest.raises(ImageError, match=r"^http://127.0.0.1:1/a.png: Connection refused$"):
        list(read_frames(source))


def _png(path):
    PIL.Image.fromarray(grey(5)).save(path)
    return path
