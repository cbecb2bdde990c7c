"""The pack in the front end."""

from browser.front_end import FrontEnd


def test_a_graph_runs_from_the_interface(front_end: FrontEnd):
    """The console is watched by the fixture: nothing beyond what the front end says of itself."""
    image = front_end.add("ProbeImages", (0, 0), seed=1, count=2, height=32, width=48, nan=False)
    bank = front_end.add("StoryMemMemoryBank", (500, 0))
    preview = front_end.add("PreviewImage", (900, 0))
    front_end.connect(image, "IMAGE", bank, "reference_images")
    front_end.connect(bank, "keyframes", preview, "images")
    entry = front_end.run()
    assert len(entry["outputs"][str(preview)]["images"]) == 2
