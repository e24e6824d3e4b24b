"""Frames of video files in order, upright, with their times; and videos that are written."""

from fractions import Fraction

import av
import numpy as np
import PIL.Image
import pytest

from clips import grey, number_of, write_clip
from efficientdet_tf.inference import video
from efficientdet_tf.inference.container_size import is_cut_off
from efficientdet_tf.output_files import OutputError


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Ten frames at 25 a second."""
    folder = tmp_path_factory.mktemp("clips")
    return write_clip(folder / "clip.mp4", [grey(number) for number in range(10)])


def test_frames_have_numbers_times_and_pixels(clip):
    frames = list(video.read_frames(str(clip)))
    assert [frame.index for frame in frames] == list(range(10))
    assert [frame.time for frame in frames] == pytest.approx([i / 25 for i in range(10)])
    assert {frame.rate for frame in frames} == {25}
    assert {frame.pixels.shape for frame in frames} == {(48, 64, 3)}
    assert [number_of(frame.pixels) for frame in frames] == list(range(10))
    assert frames[0].pixels.dtype == np.uint8


def test_a_stride_leaves_frames_out(clip):
    frames = list(video.read_frames(str(clip), stride=4))
    assert [frame.index for frame in frames] == [0, 4, 8]
    assert [number_of(frame.pixels) for frame in frames] == [0, 4, 8]
    assert [frame.time for frame in frames] == pytest.approx([0, 0.16, 0.32])
    assert frames[0].rate == Fraction(25, 4)


def test_the_number_of_frames_is_told_or_inferred(clip, tmp_path):
    assert video.num_frames(str(clip)) == 10
    # This container does not hold it.
    other = write_clip(tmp_path / "clip.mkv", [grey(1)] * 10)
    assert video.num_frames(str(other)) == 10
    (tmp_path / "text.mp4").write_text("no video")
    assert video.num_frames(str(tmp_path / "text.mp4")) is None


def test_a_video_filmed_sideways_is_turned(tmp_path):
    image = grey(0)
    image[:, 32:] = 255
    path = write_clip(tmp_path / "phone.mp4", [image])
    content = path.read_bytes()
    one, matrix = (1 << 16).to_bytes(4, "big"), content.index(b"tkhd") + 44
    assert content[matrix : matrix + 4] == one
    # x to the right becomes downwards: a quarter turn clockwise.
    turned = [0, 1 << 16, 0, -(1 << 16), 0, 0]
    values = b"".join(value.to_bytes(4, "big", signed=True) for value in turned)
    path.write_bytes(content[:matrix] + values + content[matrix + len(values) :])
    [frame] = video.read_frames(str(path))
    assert frame.pixels.shape == (64, 48, 3)
    assert frame.pixels[:28].max() < 20 and frame.pixels[36:].min() > 235


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a readable video: No such file or directory"),
        (b"no video", "not a readable video: Invalid data found when processing input"),
        (b"", "not a readable video: Invalid data found when processing input"),
    ],
)
def test_what_is_no_video_is_named(tmp_path, content, message):
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(video.VideoError) as error:
        list(video.read_frames(str(path)))
    assert str(error.value) == f"{path}: {message}"


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(video.VideoError, match=f"^{path}: no video in it$"):
        list(video.read_frames(str(path)))


def test_damaged_frames_are_counted_and_the_others_read(tmp_path):
    path = write_clip(tmp_path / "clip.mkv", [grey(i) for i in range(10)], codec="ffv1")
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux() if packet.size]
    content = path.read_bytes()
    for packet in (packets[4], packets[7]):
        assert content.count(packet) == 1
        content = content.replace(packet, b"\xff" * len(packet))
    path.write_bytes(content)
    frames = []
    with pytest.raises(video.VideoError, match=f"^{path}: 2 damaged frames of 10$"):
        for frame in video.read_frames(str(path)):
            frames.append((frame.index, number_of(frame.pixels)))
    assert [number for _, number in frames] == [0, 1, 2, 3, 5, 6, 8, 9]
    assert [index for index, _ in frames] == [0, 1, 2, 3, 5, 6, 8, 9]


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mkv", "ffv1"), ("b.avi", "ffv1"), ("c.webm", "libvpx"), ("d.mp4", "libx264")],
)
def test_a_file_that_is_cut_off_has_lost_frames(tmp_path, name, codec):
    images = [grey(i) for i in range(10)]
    # The description of the frames comes before them, without which nothing can be read.
    path = write_clip(tmp_path / name, images, codec=codec, movflags="faststart")
    content = path.read_bytes()
    numbers = [number_of(frame.pixels) for frame in video.read_frames(str(path))]
    assert numbers == list(range(10)) and not is_cut_off(str(path))
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux() if packet.size]
    path.write_bytes(content[: content.index(packets[7])])
    numbers = []
    with pytest.raises(video.VideoError) as error:
        for frame in video.read_frames(str(path)):
            numbers.append(number_of(frame.pixels))
    assert numbers == list(range(len(numbers))) and 0 < len(numbers) < 10
    assert str(error.value) == f"{path}: cut off: {len(numbers)} frames of about 10 are left"


def test_a_written_video_has_the_size_rate_and_times(tmp_path):
    path = tmp_path / "new" / "out.mp4"
    times = [0, 0.04, 0.1, 0.16]
    with video.writing(path, Fraction(25)) as write:
        for number, time in enumerate(times):
            write(PIL.Image.fromarray(grey(number)), time)
        assert not path.exists()
    frames = list(video.read_frames(str(path)))
    assert [number_of(frame.pixels) for frame in frames] == [0, 1, 2, 3]
    assert [frame.time for frame in frames] == pytest.approx(times)
    assert {frame.pixels.shape for frame in frames} == {(48, 64, 3)}
    assert [file.name for file in path.parent.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize(("given", "written"), [((49, 65), (48, 64)), ((1, 9), (2, 8))])
def test_an_odd_row_and_column_are_cut_off(tmp_path, given, written):
    with video.writing(tmp_path / "odd.mp4", Fraction(25)) as write:
        write(PIL.Image.fromarray(grey(1, given)), 0)
    [frame] = video.read_frames(str(tmp_path / "odd.mp4"))
    assert frame.pixels.shape == (*written, 3)


def test_own_videos_are_recognised(clip, tmp_path):
    with video.writing(tmp_path / "own.mp4", Fraction(25)) as write:
        write(PIL.Image.fromarray(grey(1)), 0)
    assert video.is_own_video(tmp_path / "own.mp4")
    assert not video.is_own_video(clip)
    assert not video.is_own_video(tmp_path / "missing.mp4")


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError) as error,
        video.writing(tmp_path / "file" / "a.mp4", Fraction(25)),
    ):
        pass
    assert str(error.value).startswith(f"--output: {tmp_path}/file/a.mp4: cannot be written: ")
    with (
        pytest.raises(OutputError, match=f"^--output: {tmp_path}/b.mp4: cannot be written: "),
        video.writing(tmp_path / "b.mp4", Fraction(25)) as write,
    ):
        # Too wide for the codec.
        write(PIL.Image.fromarray(grey(1, (2, 40_000))), 0)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
