"""StoryMem without a host: plain torch, numpy and OpenCV."""
