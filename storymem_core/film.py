"""Videos of shots, and the film: shots are encoded once and joined by copying their packets."""

import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

# Without B-frames a video can be cut after any frame, so that the next shot may replace the last ones.
CODEC, OPTIONS, PIXEL_FORMAT = "libx264", {"crf": "16", "bf": "0"}, "yuv420p"
# Tags of any name, and before the pictures, where a reader finds them without the whole file.
CONTAINER = {"movflags": "use_metadata_tags+faststart"}


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` make a file beside `path`, then move it there in one step: a reader never sees half a file."""
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        write(part)
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float, tags: Mapping[str, str] | None = None) -> None:
    """Encode frames, uint8 [H, W, 3] RGB of one even size, as H.264 in MP4; tags: metadata of the file."""
    with av.open(str(path), "w", format="mp4", container_options=CONTAINER) as container:
        container.metadata.update(tags or {})
        stream = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream(CODEC, rate=Fraction(fps).limit_denominator(1001), options=OPTIONS)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = PIXEL_FORMAT
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def count_frames(path: Path) -> int:
    """Frames of a video, counted by its packets."""
    with av.open(str(path)) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def join_videos(path: Path, parts: Sequence[tuple[Path, int]], tags: Mapping[str, str] | None = None) -> None:
    """Write the film: of each part, a video and the number of frames to leave out at its end.

    Where all parts have one format, packets are copied and no picture changes; else the film is encoded anew
    at the size and frame rate of the first part. tags: metadata of the file.
    """
    if len({_format(video) for video, _ in parts}) == 1:
        _copy_packets(path, parts, tags)
    else:
        _encode_anew(path, parts, tags)


def _format(video: Path) -> tuple:
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        return (
            codec.name,
            codec.width,
            codec.height,
            codec.pix_fmt,
            stream.average_rate,
            stream.time_base,
            codec.extradata,
        )


def _copy_packets(path: Path, parts: Sequence[tuple[Path, int]], tags: Mapping[str, str] | None) -> None:
    with av.open(str(path), "w", format="mp4", container_options=CONTAINER) as film:
        film.metadata.update(tags or {})
        out, number = None, 0
        for video, left_out in parts:
            with av.open(str(video)) as container:
                stream = container.streams.video[0]
                if out is None:
                    out = film.add_stream_from_template(stream)
                duration = int(1 / (stream.average_rate * stream.time_base))
                packets = [packet for packet in container.demux(stream) if packet.size]
                for packet in packets[: len(packets) - left_out]:
                    packet.pts = packet.dts = number * duration
                    packet.duration = duration
                    packet.stream = out
                    film.mux(packet)
                    number += 1


def _encode_anew(path: Path, parts: Sequence[tuple[Path, int]], tags: Mapping[str, str] | None) -> None:
    with av.open(str(parts[0][0])) as container:
        first = container.streams.video[0]
        width, height, fps = first.codec_context.width, first.codec_context.height, first.average_rate

    def frames():
        for video, left_out in parts:
            kept = count_frames(video) - left_out
            with av.open(str(video)) as container:
                for i, frame in enumerate(container.decode(video=0)):
                    if i < kept:
                        yield frame.reformat(width, height).to_ndarray(format="rgb24")

    write_video(path, frames(), float(fps), tags)
