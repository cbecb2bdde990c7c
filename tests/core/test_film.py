"""Shot videos and their film, with PyAV as the reader."""

import av
import numpy as np
import pytest

from storymem_core.film import count_frames, join_videos, replace_file, write_video


def clip(count, seed, height=32, width=48):
    """Smooth moving colours, so that H.264 has motion to code."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 255, (height // 8, width // 8 + count, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    return np.stack([picture[:, i : i + width] for i in range(count)])


def decoded(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_video_has_its_frames_and_plays_anywhere(tmp_path):
    path, frames = tmp_path / "shot.mp4", clip(17, 1)
    write_video(path, frames, 16)
    pictures = decoded(path)
    assert len(pictures) == count_frames(path) == 17
    assert np.abs(np.stack(pictures).astype(float) - frames).mean() < 12
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 16
        assert float(stream.duration * stream.time_base) == pytest.approx(17 / 16)


@pytest.mark.parametrize("left_out", [(0, 0, 0), (3, 0, 0), (1, 16, 0), (5, 4, 0)])
def test_the_film_shows_exactly_the_pictures_of_its_parts(tmp_path, left_out):
    parts, expected = [], []
    for i, (count, cut) in enumerate(zip((17, 33, 1), left_out, strict=True)):
        path = tmp_path / f"{i}.mp4"
        write_video(path, clip(count, i), 16)
        parts.append((path, cut))
        expected += decoded(path)[: count - cut]
    film = tmp_path / "film.mp4"
    join_videos(film, parts)
    pictures = decoded(film)
    assert len(pictures) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(pictures, expected, strict=True))
    with av.open(str(film)) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert [float(time) for time in times] == pytest.approx([i / 16 for i in range(len(expected))])


def test_parts_of_other_formats_are_encoded_anew(tmp_path):
    first, second, film = (tmp_path / f"{name}.mp4" for name in ("a", "b", "film"))
    write_video(first, clip(9, 1), 16)
    write_video(second, clip(5, 2, 64, 96), 16)
    join_videos(film, [(first, 2), (second, 0)])
    pictures = decoded(film)
    assert [picture.shape for picture in pictures] == [(32, 48, 3)] * 12
    assert np.abs(np.stack(pictures[:7]).astype(float) - decoded(first)[:7]).mean() < 6


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"whole")

    def fails(part):
        part.write_bytes(b"ha")
        assert path.read_bytes() == b"whole"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(path, fails)
    assert path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path]
    replace_file(path, lambda part: part.write_bytes(b"new"))
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("height", [32, 48])
def test_the_film_carries_tags_of_any_name_before_its_pictures(tmp_path, height):
    parts = []
    for i, rows in enumerate((32, height)):  # of two sizes it is encoded anew
        parts.append((tmp_path / f"{i}.mp4", 0))
        write_video(parts[-1][0], clip(5, i, rows), 16)
    film, tags = tmp_path / "film.mp4", {"workflow": '{"nodes": ["Füchse"]}', "prompt": "{}"}
    join_videos(film, parts, tags)
    with av.open(str(film)) as container:
        assert container.metadata.items() >= tags.items()
    content = film.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
